"""What a user can do something about."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can mend.

    Its text is one sentence that names the thing, the value and the remedy. Commands print it and exit with status 2.
    """


def first_line(message: object) -> str:
    """Of a message; of an exception that says nothing, its kind."""
    return str(message).strip().split("\n", 1)[0].strip() or type(message).__name__


def exit_status_of(command: Callable[[], int]) -> int:
    """Run a plain command line; tell a `UserError` in one sentence and turn it into exit status 2."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
