from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys

import pytest

from catsdogs import provenance


def test_now_is_read_back():
    told = provenance.moment(provenance.now())
    assert abs(datetime.datetime.now(datetime.UTC) - told) < datetime.timedelta(seconds=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01T10:00:00", datetime.datetime(2026, 11, 1, 10, tzinfo=datetime.UTC)),
        ("2026-11-01T10:00:00+02:00", datetime.datetime(2026, 11, 1, 8, tzinfo=datetime.UTC)),
        ("soon", None),
        (None, None),
        (5, None),
    ],
)
def test_times_of_any_kind_are_read(text, expected):
    assert provenance.moment(text) == expected


def test_versions_are_those_that_are_installed(monkeypatch):
    monkeypatch.setattr(provenance, "VERSIONS_OF", ("numpy", "no-such-package"))
    import numpy

    assert provenance.versions() == {"python": platform.python_version(), "numpy": numpy.__version__}


def test_a_machine_tells_what_it_can(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: int(name))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    told = provenance.machine()
    assert told["memory_bytes"] is None
    assert told["cores"] == os.cpu_count()


def test_accelerators_are_told_once_keras_is_loaded_and_keras_is_not_loaded_for_it():
    code = (
        "import json, sys\n"
        "from catsdogs.provenance import machine\n"
        "before = machine()\n"
        "assert 'keras' not in sys.modules\n"
        "import keras\n"
        "keras.distribution.list_devices = lambda: ['cpu:0', 'gpu:0', 'gpu:1']\n"
        "print(json.dumps([before, machine()]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert before["accelerators"] is None
    assert after["accelerators"] == ["gpu:0", "gpu:1"]
    assert before["processor"]
    assert {**before, "accelerators": None} == {**after, "accelerators": None}
