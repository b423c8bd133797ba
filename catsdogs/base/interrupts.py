"""Ctrl-C and SIGTERM, sent by batch systems and `kill`: finished work is kept, and no request to stop is lost.

The first signal is noted and raises `KeyboardInterrupt` in the main thread. Python only prints an exception of a
finalizer or a callback, and libraries may swallow or replace it. Therefore a timer raises it again until it is
acknowledged, except while it is being handled. A second signal ends a command at once; a job ignores it, because Ctrl-C
arrives from the terminal and from the parent process.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_STOPPING = {signal.SIGINT, signal.SIGTERM}
_SAME_SECONDS = 0.5  # programs such as `timeout` repeat a signal of the terminal
_TIMER_SECONDS = 0.1
_IMPORT_SECONDS = 5.0  # a module of C code that is imported half cannot be imported again, so wait that long for it


@dataclass
class _State:
    active: bool = False  # within `stoppable`
    in_job: bool = False
    pending: int | None = None  # signal that is not acknowledged yet
    arrived: float | None = None  # time of the last request


_state = _State()
_pipe = os.pipe()  # Python writes signals to it as they arrive, also while a library blocks the main thread
for _end in _pipe:
    os.set_blocking(_end, False)


def exit_status(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a shell for the signal: 128 plus its number."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def end_at_once(number: int, frame: Any) -> None:
    """Handle a signal by ending this process and those of its jobs, without a traceback."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
            child.join(5)  # frees its locks
    with suppress(OSError):
        os.write(2, b"\nStopped at once\n")
    os._exit(128 + number)


def handle(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Set the handler of signals that are neither ignored nor handled by others; return the former ones."""
    before = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGALRM)}
    ours = (signal.SIG_DFL, signal.default_int_handler, end_at_once)
    return {number: signal.signal(number, handler) for number, former in before.items() if former in ours}


@contextmanager
def stoppable(in_job: bool = False) -> Iterator[None]:
    """Raise `KeyboardInterrupt(number)` for SIGINT and SIGTERM, also in place of an error caused by it.

    Signals that are ignored or handled by others stay so. Within another `stoppable`, only errors are replaced. After a
    job, its process ignores signals.
    """
    outer = not _state.active and threading.current_thread() is threading.main_thread()
    hook = sys.unraisablehook
    if outer:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        _state.__dict__.update(vars(_State(active=True, in_job=in_job)))
        descriptor = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        before = handle(_receive)
        # Other lost errors are consequences of a request: an object that is built half fails in its finalizer.
        sys.unraisablehook = lambda lost: hook(lost) if _state.arrived is None else None
    try:
        if outer:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        yield
    except Exception:
        check()
        raise
    finally:
        if outer:
            _state.active = False
            acknowledge()
            for number, handler in () if in_job else before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)
            if _state.arrived is None:
                sys.unraisablehook = hook


def _receive(number: int, frame: Any) -> None:
    now = time.monotonic()
    if number == signal.SIGALRM:
        error = sys.exception()
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is not None:
            return
    elif _state.in_job and (_state.arrived or not _state.active):
        return
    elif _state.pending or not _state.active:  # the second signal, or the result of the command is complete
        if _state.arrived is None or now - _state.arrived > _SAME_SECONDS:
            end_at_once(number, frame)
        return
    else:
        _state.pending, _state.arrived = number, now
        _set_timer(_TIMER_SECONDS)
    held_back = _STOPPING & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    imports = any("<frozen importlib" in one.f_code.co_filename for one, _ in traceback.walk_stack(frame))
    if not held_back and not (imports and now - (_state.arrived or 0) < _IMPORT_SECONDS):
        check()


def _set_timer(seconds: float) -> None:
    if signal.getsignal(signal.SIGALRM) is _receive:
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def check() -> None:
    """Raise the pending request. In another thread, which must call this in every long loop, raise InterruptedError."""
    if threading.current_thread() is threading.main_thread():
        if _state.pending is not None:
            raise KeyboardInterrupt(_state.pending)
    elif _state.active and (_state.pending or not _STOPPING.isdisjoint(_arrived())):
        raise InterruptedError("Interrupted")


def _arrived() -> bytes:
    with suppress(BlockingIOError):
        return os.read(_pipe[0], 512)
    return b""


def acknowledge() -> None:
    """End the request: it is not raised again, and the next signal is a new one."""
    _state.pending = None
    if _state.arrived is not None:
        _set_timer(0)
        _arrived()


@contextmanager
def held() -> Iterator[None]:
    """Raise a request that arrives meanwhile at the end, also in processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    check()
