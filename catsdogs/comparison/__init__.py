"""Comparison of the jobs of one or more studies. Does not import Keras.

Input: study folders. Output: the terminal summary, CSV tables, the report page, and exports to MLflow and TensorBoard.
"""
