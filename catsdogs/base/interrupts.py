"""Ctrl-C and SIGTERM, sent by batch systems and `kill`: finished work is kept, and no request to stop is lost.

The first signal raises `KeyboardInterrupt` in the main thread. Python only prints an exception of a finalizer or a
callback, and libraries may swallow or replace it. Therefore the request stays pending until it is acknowledged: it is
raised again by an alarm or, at the latest, by the next `check`. A second signal ends a command at once; a job ignores
it, because Ctrl-C arrives from the terminal and from the parent process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_SAME_SECONDS = 0.5  # programs such as `timeout` repeat a signal of the terminal
_ALARM_SECONDS = 0.1
_IMPORT_SECONDS = 5.0  # a module of C code that is imported half cannot be imported again, so wait that long for it


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


@dataclass
class _State:
    active: bool = False  # within `stoppable`
    in_job: bool = False
    pending: int | None = None  # signal that is not acknowledged yet
    arrived: float | None = None  # time of the last request
    held: bool = False


_state = _State()
_pipe: list[int] = []  # Python writes signals to it as they arrive, also while a library blocks the main thread


def exit_status(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a shell for the signal: 128 plus its number."""
    return 128 + int(signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def ignore(number: int, frame: Any) -> None:
    """Handle a signal by doing nothing; unlike SIG_IGN, processes that are started do not inherit it."""


def end_at_once(number: int, frame: Any) -> None:
    """Handle a signal by ending this process and those of its jobs, without a traceback."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
            child.join(5)  # frees its locks
    if _state.active or _state.arrived is None:
        os.write(2, b"\nStopped at once\n" if _state.pending else b"\nInterrupted\n")
    os._exit(128 + number)


def handle(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Set the handler of signals that are neither ignored nor handled by others; return the former ones."""
    ours = (signal.SIG_DFL, signal.default_int_handler, ignore, end_at_once)
    before = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGALRM)}
    return {number: signal.signal(number, handler) for number, former in before.items() if former in ours}


@contextmanager
def stoppable(in_job: bool = False) -> Iterator[None]:
    """Raise `KeyboardInterrupt` for SIGINT and `Terminated` for SIGTERM, also in place of an error caused by it.

    Signals that are ignored or handled by others stay so. Within another `stoppable`, only errors are replaced.
    """
    outer = not _state.active and threading.current_thread() is threading.main_thread()
    hook = sys.unraisablehook
    if outer:
        _state.__dict__.update(vars(_State(active=True, in_job=in_job)))
        _pipe.extend(() if _pipe else os.pipe())
        for end in _pipe:
            os.set_blocking(end, False)
        descriptor = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        before = handle(_receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        sys.unraisablehook = lambda lost: _unraisable(lost, hook)
    try:
        yield
    except Exception:
        check()
        raise
    finally:
        if outer:
            _state.active = False
            acknowledge()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)
            if _state.arrived is None:
                sys.unraisablehook = hook


def _unraisable(lost: Any, hook: Callable[[Any], None]) -> None:
    # Other errors are consequences of a request: an object that is built half fails in its finalizer.
    if _state.arrived is None:
        hook(lost)
    elif issubclass(lost.exc_type, KeyboardInterrupt):
        _set_alarm(_ALARM_SECONDS)


def _receive(number: int, frame: Any) -> None:
    if number != signal.SIGALRM:
        if not _state.active or _state.pending is not None:
            # The result of the command is complete, or this is the second signal.
            if not _state.in_job and (_state.arrived is None or time.monotonic() - _state.arrived > _SAME_SECONDS):
                end_at_once(number, frame)
            return
        _state.pending, _state.arrived = number, time.monotonic()
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is not None and time.monotonic() - (_state.arrived or 0) < _IMPORT_SECONDS:
        _set_alarm(_ALARM_SECONDS)
    else:
        check()


def _set_alarm(seconds: float) -> None:
    if signal.getsignal(signal.SIGALRM) is _receive:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def check() -> None:
    """Raise the pending request; call it in every long loop. In another thread, raise InterruptedError."""
    if threading.current_thread() is threading.main_thread():
        if _state.pending is not None and not _state.held:
            raise Terminated if _state.pending == signal.SIGTERM else KeyboardInterrupt
    elif _state.pending is not None or (_state.active and not set(_STOPPING).isdisjoint(_arrived())):
        raise InterruptedError("Interrupted")


def _arrived() -> bytes:
    """Return the signals since the last call."""
    with suppress(BlockingIOError):
        return os.read(_pipe[0], 512)
    return b""


def acknowledge() -> None:
    """End the request: it is not raised again, and the next signal is a new one."""
    _state.pending = None
    if _state.arrived is not None:
        _set_alarm(0)
        _arrived()


@contextmanager
def held() -> Iterator[None]:
    """Raise a request that arrives meanwhile at the end, also in processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    _state.held = True
    try:
        yield
    finally:
        _state.held = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    check()
