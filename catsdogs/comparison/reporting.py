"""What is printed and written of a study when a command ends. A page that cannot be written is a warning."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.base.errors import UserError
from catsdogs.base.text import sanitize_line
from catsdogs.study.jobs import retrain_command

if TYPE_CHECKING:
    from catsdogs.comparison.study_data import StudyData

PAGE = "report.html"


def report_study(study: Path) -> None:
    """Print the answer and write the page of one study, when a run of it ends.

    Whatever goes wrong with that is told in a sentence and is no error: what was found lies in the folders of the jobs,
    and a night's result must not end with the status of a picture.
    """
    study_data = _page_of(study)
    try:
        from catsdogs.comparison.study_data import read_study_data
        from catsdogs.comparison.terminal import print_summary

        command = print_summary(study_data or read_study_data([study])).command
    except Exception as error:
        _not_done("the answer is not told", study, error)
        command = retrain_command(study)
    print_files([study], study / PAGE if study_data else None, command)


def write_page(study: Path) -> None:
    """Write the page of a study anew and name it; what goes wrong is told in a sentence and is no error."""
    if _page_of(study):
        print(f"Report: {sanitize_line(str(study / PAGE))}")


def _page_of(study: Path) -> StudyData | None:
    try:
        from catsdogs.comparison.page.writing import write_report

        return write_report([study], study / PAGE)
    except Exception as error:
        _not_done(f"{study / PAGE} is not written", study, error)
        return None


def print_files(folders: list[Path], output: Path | None, command: str | None) -> None:
    """The last lines: where everything is, and the next command. Never wrapped, so that they can be copied."""
    lines = [""]
    if output is not None:
        lines += [f"Report: {output}", f"Tables: {output.with_suffix('')}{os.sep}"]
    lines += [f"Leaderboard: {folder / 'leaderboard.csv'}" for folder in folders]
    lines += [f"Next: {command}"] if command else []
    for line in lines:
        print(sanitize_line(line))


def _not_done(what: str, study: Path, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = reason if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: {reason}"
    again = f"python -m catsdogs.report {shlex.quote(str(study))}"
    print(sanitize_line(f"warning: {what} ({reason}); results are kept, and `{again}` tries again"), file=sys.stderr)
