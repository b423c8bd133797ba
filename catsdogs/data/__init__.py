"""From an archive to arrays.

Input: a zip or a folder of images. Output: a catalog with a row per image, its class, groups of near-duplicates, a
split, uint8 pixels (N, S, S, 3), and augmented views of them.
"""
