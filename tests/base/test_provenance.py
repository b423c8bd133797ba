from __future__ import annotations

import datetime
import os
import platform
import sys

import keras
import numpy as np
import pytest

from catsdogs.base import provenance


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
    since = datetime.datetime.now(datetime.UTC) - provenance.moment(provenance.now())
    assert datetime.timedelta(0) <= since < datetime.timedelta(seconds=5)


def test_versions_are_those_that_are_installed(monkeypatch):
    monkeypatch.setattr(provenance, "VERSIONS_OF", ("numpy", "no-such-package"))
    assert provenance.versions() == {"python": platform.python_version(), "numpy": np.__version__}


def test_accelerators_are_told_once_keras_is_loaded(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: int(name))  # as where a system does not know the name
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0", "gpu:1"])
    after = provenance.machine()
    monkeypatch.delitem(sys.modules, "keras")
    before = provenance.machine()
    assert "keras" not in sys.modules
    assert before["processor"]
    assert before["memory_bytes"] is None
    assert after == {**before, "accelerators": ["gpu:0", "gpu:1"]}
    assert before["accelerators"] is None
