"""Text formats and page templates shared by the commands.

Input: numbers, names and dates. Output: the text that pages, terminal and model card show.
"""
