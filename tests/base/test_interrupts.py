import importlib
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest

from catsdogs.base.errors import exit_status_of
from catsdogs.base.interrupts import Terminated, acknowledge, check, exit_status, held, stoppable
from catsdogs.data.images import in_threads


class Finalizer:
    """Its finalizer is interrupted."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


def interrupted(function):
    """Check that a request in a function is raised."""

    @stoppable()
    def run():
        function()
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.parametrize(("number", "kind", "status"), [(signal.SIGINT, KeyboardInterrupt, 130), (15, Terminated, 143)])
def test_a_signal_raises_and_the_former_handlers_return(number, kind, status):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(kind) as stop, stoppable():
        signal.raise_signal(number)
    assert exit_status(stop.value) == status
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    assert exit_status_of(partial(signal.raise_signal, number)) == status  # type: ignore[arg-type]


def test_a_request_in_a_finalizer_or_import_is_raised_afterwards(tmp_path, monkeypatch, capfd):
    interrupted(Finalizer)
    (tmp_path / "slow_module.py").write_text("import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(0.3)\nend = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    interrupted(lambda: importlib.import_module("slow_module"))
    assert sys.modules.pop("slow_module").end == 1
    assert "Exception ignored" not in capfd.readouterr().err


def swallow():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def replace():
    swallow()
    raise ImportError("initialization failed")


@pytest.mark.parametrize("library", [lambda: [swallow(), *in_threads(abs, [1])], replace])
def test_a_request_that_a_library_swallowed_or_replaced_is_raised(library):
    interrupted(library)


def test_an_acknowledged_request_is_not_raised_again():
    with stoppable():
        swallow()
        acknowledge()
        check()


def test_threads_stop_while_a_library_blocks_the_main_thread():
    stopped = threading.Event()

    def work():
        with pytest.raises(InterruptedError):
            list(in_threads(lambda item: time.sleep(0.01), range(1000)))
        stopped.set()

    def library():
        threading.Thread(target=work).start()
        # As in a library of C code that returns only after its thread has stopped.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert stopped.wait(5)

    interrupted(library)


def test_a_held_request_is_raised_at_the_end():
    done = []

    def library():
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    interrupted(library)
    assert done
