"""Neural networks: the backbone, its cut into frozen prefix and trained suffix, and the classifier.

Input: the configuration of a trial. Output: a frozen prefix, a compiled trained suffix, and full Keras models.
"""
