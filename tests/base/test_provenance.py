import datetime
import os
import platform

import numpy as np
import pytest

from catsdogs.base import provenance


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01T10:00:00", datetime.datetime(2026, 11, 1, 10, tzinfo=datetime.UTC)),
        ("2026-11-01T10:00:00+02:00", datetime.datetime(2026, 11, 1, 8, tzinfo=datetime.UTC)),
        ("soon", None),
    ],
)
def test_timestamps_are_parsed_with_a_time_zone(text, expected):
    assert provenance.parse_timestamp(text) == expected
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(provenance.utc_timestamp())
    assert datetime.timedelta(0) <= since < datetime.timedelta(seconds=5)


def test_versions_and_the_machine_are_described_also_where_facts_are_unknown(monkeypatch):
    monkeypatch.setattr(provenance, "VERSIONS_OF", ("numpy", "no-such-package"))
    assert provenance.versions() == {"python": platform.python_version(), "numpy": np.__version__}
    monkeypatch.setattr(os, "sysconf", lambda name: int(name))  # as on a system without these names
    machine = provenance.machine(["gpu:0"])
    assert machine["processor"]
    assert (machine["memory_bytes"], machine["accelerators"]) == (None, ["gpu:0"])
