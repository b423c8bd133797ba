import pytest
from bench import Bench


@pytest.fixture
def bench(monkeypatch, tmp_path, config):
    return Bench(monkeypatch, tmp_path, config)
