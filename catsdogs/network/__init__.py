"""Neural networks: the backbone, its cut into frozen prefix and trained suffix, and the classifier.

In: the configuration of a trial. Out: a frozen prefix, a compiled trained suffix, and full Keras models.
"""
