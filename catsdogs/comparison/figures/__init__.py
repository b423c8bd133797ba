"""The figures of the page, each with its caption, alternative text and table."""
