"""What the HTML pages and the texts of all commands share.

In: numbers, names and ids. Out: the text that pages, terminal and model card show, and the templates around it.
"""
