"""Text formats and page templates shared by the commands.

Takes numbers, names and dates. Returns the text that pages, terminal and model card show.
"""
