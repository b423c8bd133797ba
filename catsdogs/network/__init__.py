"""A backbone, where it is cut, and the classifier on top.

In: the configuration of a trial. Out: a frozen prefix, a compiled trained suffix, and complete Keras models.
"""
