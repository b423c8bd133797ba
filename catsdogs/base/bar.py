"""Progress bar below the log lines, on a terminal to which only one job writes."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

_SECONDS = 0.2  # between two changes of the bar


class _Shown:
    bar: ClassVar[Progress | None] = None
    last: ClassVar[float] = 0.0


@contextmanager
def progress_bar(alone: bool) -> Iterator[None]:
    """Print what a process logs above a bar, if it is `alone` on a terminal; the bar appears with its first value."""
    console = Console(file=sys.stdout, soft_wrap=True)
    # rich takes some pipes for terminals, if the environment asks for colors.
    if not (alone and console.is_terminal and sys.stdout.isatty()):
        yield
        return
    columns = BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}", markup=False)
    before = sys.stdout
    # A bar that remains would mix with the lines of the next job.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, redirect_stderr=sys.stderr.isatty()
    ) as bar:
        handlers = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) is before]
        _set_stream(handlers, sys.stdout)  # the one of rich, which prints above the bar
        console.show_cursor()  # a kill would leave it hidden
        _Shown.bar = bar
        try:
            yield
        finally:
            _Shown.bar = None
            _set_stream(handlers, before)


def _set_stream(handlers: list[logging.Handler], stream: object) -> None:
    for handler in handlers:
        handler.setStream(stream)  # type: ignore[attr-defined]


def draw(share: float | None, text: Callable[[], str]) -> None:
    """Set the finished share of the bar, None if unknown, and the text beside it; without a bar, do nothing."""
    if _Shown.bar is None or time.monotonic() - _Shown.last < _SECONDS:
        return
    _Shown.last = time.monotonic()
    task = _Shown.bar.task_ids[0] if _Shown.bar.task_ids else _Shown.bar.add_task("")
    total = None if share is None else 1.0
    # Beside the bar and the percentage.
    description = text()[: max(0, _Shown.bar.console.width - 30)]
    _Shown.bar.update(task, total=total, completed=share or 0.0, description=description, refresh=True)
