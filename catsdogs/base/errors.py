"""User errors."""

from __future__ import annotations

import sys
from collections.abc import Callable

from catsdogs.base.text import one_line


class UserError(Exception):
    """Error caused by user input: configuration, files or command line.

    The text is one line, `KEY=VALUE: problem; fix`. Commands print it and exit with status 2.
    """


def first_line(message: object) -> str:
    """Return the first line of a message, or the type of an exception without text."""
    return str(message).strip().split("\n", 1)[0].strip() or type(message).__name__


def print_error(message: str) -> int:
    """Print a user error to stderr in one line, and return its exit status, 2."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def exit_status_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; print a `UserError` or a lack of memory, and return 2."""
    try:
        return command()
    except UserError as error:
        return print_error(str(error))
    except MemoryError:
        return print_error("out of memory; close other programs, or use a machine with more memory")
