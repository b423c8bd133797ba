import os
import pwd
import sys
from unittest.mock import Mock

import pytest

from catsdogs import __version__
from catsdogs.base.errors import UserError, clean_environment, exit_status_of
from catsdogs.config.locations import default_cache, expanded


def test_blank_variables_are_unset_and_carriage_returns_removed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["search", "study=s\r", "\r", ""])
    for name, value in {"CATSDOGS_CACHE": " \r", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "jax\r"}.items():
        monkeypatch.setenv(name, value)
    clean_environment()
    assert sys.argv == ["search", "study=s", ""]
    # A blank CUDA_VISIBLE_DEVICES hides all GPUs.
    assert (os.environ["KERAS_BACKEND"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("jax", "")
    assert default_cache() == "~/.cache/catsdogs"


def test_home_folders_are_expanded_and_an_unknown_one_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = {"~": "/home/me", "~/a b": "/home/me/a b", "a~": "a~", "~nouser/a": "~nouser/a"}
    assert [expanded(path) for path in paths] == list(paths.values())
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a container with a random user id
    with pytest.raises(UserError, match="~/a: the home folder is unknown; set HOME"):
        expanded("~/a")


def test_the_version_is_that_of_catsdogs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["catsdogs-search", "-m", "--version"])
    assert exit_status_of(Mock(side_effect=AssertionError)) == 0
    assert capsys.readouterr().out == f"catsdogs {__version__}\n"
