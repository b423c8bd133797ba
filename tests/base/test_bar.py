"""Progress bar of a job on a terminal."""

import io
import logging
import sys

import pytest

from catsdogs.base.bar import draw, progress_bar


@pytest.mark.parametrize(("terminal", "alone"), [(True, True), (True, False), (False, True)])
def test_only_a_job_alone_on_a_terminal_has_a_bar_below_its_log_lines(monkeypatch, terminal, alone):
    output = io.StringIO()
    monkeypatch.setattr(output, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr("catsdogs.base.bar._SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(output)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with progress_bar(alone):
        draw(0.25, lambda: "epoch [1/8]")
        logging.getLogger("any").warning("activations: %s", "100%")
        draw(None, lambda: "epoch 2/8")
    draw(0.75, lambda: "epoch 3/8")
    assert handler.stream is sys.stdout is output
    text = output.getvalue()
    assert "activations: 100%\n" in text
    assert ("epoch [1/8]" in text, "epoch 2/8" in text, "epoch 3/8" in text) == (terminal and alone,) * 2 + (False,)
