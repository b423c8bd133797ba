"""Standard output and error of a command, which continues if its pipe is closed or its disk is full."""

import errno
import io
import logging
import os
import sys
from typing import Any, ClassVar


class _Stream(io.FileIO):
    """File that discards what it cannot write."""

    status: ClassVar[int] = 0  # exit status of the first error: 141 for a closed pipe, else 1

    def write(self, data: Any, /) -> int:
        """Write bytes, and return their number even if they are lost."""
        try:
            return super().write(data)
        except OSError as error:
            lost_output(141 if error.errno == errno.EPIPE else 1)
            return len(data)


_with_traceback = logging.Handler.handleError


def _handle_log_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Escape what the encoding of a log lacks, and discard a line that cannot be written.

    Print the traceback of a programming error.
    """
    error = sys.exc_info()[1]
    if isinstance(error, UnicodeEncodeError) and isinstance(handler, logging.StreamHandler):
        handler.stream.reconfigure(errors="backslashreplace")
        handler.emit(record)
    elif isinstance(error, OSError):
        lost_output(1)
    else:
        _with_traceback(handler, record)


def continue_without_output() -> None:
    """Make this process continue if it cannot write to its output or a log file, or its locale lacks a character."""
    logging.Handler.handleError = _handle_log_error  # type: ignore[method-assign,assignment]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file opened gets this number, and libraries write their messages into it.
            os.open(os.devnull, os.O_RDONLY)
        stream = getattr(sys, name)
        # Tests and notebooks replace the streams.
        if number and stream is getattr(sys, f"__{name}__"):
            encoding = stream.encoding if stream else "utf-8"
            lines = bool(stream and (stream.line_buffering or stream.write_through))  # PYTHONUNBUFFERED
            file = io.BufferedWriter(_Stream(number, "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=lines))


def lost_output(status: int = 0) -> int:
    """Return the first exit status of lost output, in this process or passed to this function; 0 if none was lost."""
    _Stream.status = _Stream.status or status
    return _Stream.status
