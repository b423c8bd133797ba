import datetime
import os
import platform

import numpy as np

from catsdogs.base import provenance


def test_timestamps_are_parsed_with_a_time_zone():
    assert str(provenance.parse_timestamp("2026-11-01T10:00:00")) == "2026-11-01 10:00:00+00:00"
    assert str(provenance.parse_timestamp("2026-11-01T10:00:00+02:00")) == "2026-11-01 10:00:00+02:00"
    assert provenance.parse_timestamp("soon") is None
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(provenance.utc_timestamp())
    assert datetime.timedelta(0) <= since < datetime.timedelta(seconds=5)


def test_versions_and_the_machine_are_described_also_where_facts_are_unknown(monkeypatch):
    monkeypatch.setattr(provenance, "VERSIONS_OF", ("numpy", "no-such-package"))
    assert provenance.versions() == {"python": platform.python_version(), "numpy": np.__version__}
    monkeypatch.setattr(os, "sysconf", lambda name: int(name))  # as on a system without these names
    machine = provenance.machine(["gpu:0"])
    assert machine["processor"]
    assert (machine["memory_bytes"], machine["accelerators"]) == (None, ["gpu:0"])
