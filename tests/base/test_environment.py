import os
import pwd
import sys

import pytest

from catsdogs.base import environment
from catsdogs.base.errors import UserError
from catsdogs.config.locations import default_cache, expanded


def test_blank_variables_are_unset_and_carriage_returns_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["search", "study=s\r", "\r", ""])
    for name in environment._VARIABLES:
        monkeypatch.setenv(name, " \r")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hides all GPUs
    monkeypatch.setenv("KERAS_BACKEND", "jax\r")
    monkeypatch.setenv("KERAS_HOME", "weights\r")
    monkeypatch.chdir(tmp_path)
    environment.clean_environment()
    assert sys.argv == ["search", "study=s", ""]
    assert not {*environment._VARIABLES} - {"KERAS_BACKEND", "KERAS_HOME"} & {*os.environ}
    assert (os.environ["KERAS_BACKEND"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("jax", "")
    assert os.environ["KERAS_HOME"] == str(tmp_path / "weights")
    assert default_cache() == "~/.cache/catsdogs"


def test_home_folders_are_expanded_and_an_unknown_one_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = {"~": "/home/me", "~/a b": "/home/me/a b", "a~": "a~", "~nouser/a": "~nouser/a"}
    assert [expanded(path) for path in paths] == list(paths.values())
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a container with a random user id
    with pytest.raises(UserError, match="~/a: the home folder is unknown; set HOME"):
        expanded("~/a")
