"""General utilities: errors, atomic files, typed records of files, text, processes, time and machine.

Input: values and paths. Output: files, messages, facts about this process. Nothing here depends on images.
"""
