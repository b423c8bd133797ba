import importlib
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest

from catsdogs.base.errors import exit_status_of
from catsdogs.base.interrupts import acknowledge, check, exit_status, held, stoppable
from catsdogs.data.images import in_threads


class Finalizer:
    """Its finalizer is interrupted."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def swallow():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def replace():
    swallow()
    raise ImportError("initialization failed")


def blocked():
    """Wait for a thread, as a library of C code does; the signal is delivered after the thread has stopped."""
    stopped = threading.Event()

    def work():
        with pytest.raises(InterruptedError):
            list(in_threads(lambda item: time.sleep(0.01), range(1000)))
        stopped.set()

    threading.Thread(target=work).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert stopped.wait(5)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def handled():
    """Clean up for longer than the timer."""
    cleaned = False
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        time.sleep(0.3)
        cleaned = True
    assert cleaned


def hold():
    done = False
    with held():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done = True
    assert done


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text("import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(0.3)\nend = 1\n")
    monkeypatch.syspath_prepend(tmp_path)


def import_it():
    importlib.import_module("slow_module")


@pytest.mark.parametrize("library", [Finalizer, swallow, replace, blocked, handled, hold, import_it])
def test_a_request_is_raised_again_until_it_is_acknowledged(slow_module, library, capfd):
    @stoppable()
    def run():
        library()
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert library is not import_it or sys.modules.pop("slow_module").end == 1
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_and_the_former_handlers_return(number):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(KeyboardInterrupt) as stop, stoppable():
        signal.raise_signal(number)
    assert exit_status(stop.value) == 128 + number
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    assert exit_status_of(partial(signal.raise_signal, number)) == 128 + number  # type: ignore[arg-type]


def test_an_acknowledged_request_is_not_raised_again():
    with stoppable():
        swallow()
        acknowledge()
        check()
        time.sleep(0.3)


def test_a_request_that_waits_for_the_handlers_ends_the_command():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    signal.raise_signal(signal.SIGINT)
    assert exit_status_of(lambda: 0) == 130
