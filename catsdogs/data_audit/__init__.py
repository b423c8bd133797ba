"""Audit of a folder of images. Does not import Keras.

Input: images, and studies that were trained on them. Output: terminal summary, HTML page and CSV tables of corrupted
files, duplicates and likely label errors.
"""
