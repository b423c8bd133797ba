"""Error lines and exit statuses of commands that run through Hydra."""

from __future__ import annotations

import sys
from typing import NoReturn


def print_error(message: str) -> int:
    """Print a user error to stderr and return its exit status, 2."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def exit_from_hook(status: int) -> NoReturn:
    """End the process. Hydra reports an Exception of a hook as a warning; SystemExit passes."""
    sys.stdout.flush()
    raise SystemExit(status)
