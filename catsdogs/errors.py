"""What a user can do something about."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can mend.

    Its text is one sentence that names the thing, the value and the remedy. Commands print it and exit with status 2.
    """


def exit_status_of(command: Callable[[], int]) -> int:
    """Run a plain command line; tell a `UserError` in one sentence and turn it into exit status 2."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
