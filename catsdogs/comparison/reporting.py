"""Report of a study when a command finishes. A report that cannot be written is a warning."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.base.errors import UserError
from catsdogs.base.files import remove_temporaries
from catsdogs.base.interrupts import exit_status
from catsdogs.base.text import sanitize_line
from catsdogs.study.plan import retrain_command

if TYPE_CHECKING:
    from catsdogs.comparison.study_data import StudyData

PAGE = "report.html"


def report_study(study: Path) -> None:
    """Print the summary of a study and write its page.

    Failures here are printed as warnings: the results are already on disk, and a rendering error must not change the
    exit status of a finished study. An interrupt ends the command.
    """
    study_data = _write_page(study)
    try:
        from catsdogs.comparison.study_data import read_study_data
        from catsdogs.comparison.terminal import print_summary

        command = print_summary(study_data or read_study_data([study])).command
    except Exception as error:
        _warn("cannot print the summary", study, error)
        command = retrain_command(study)
    print_files([study], study / PAGE if study_data else None, command)


def write_page(study: Path) -> None:
    """Rewrite the report of a study and print its path; print a warning on failure."""
    if _write_page(study):
        print(f"Report: {sanitize_line(str(study / PAGE))}")


def _write_page(study: Path) -> "StudyData | None":
    try:
        from catsdogs.comparison.page.writing import write_report

        remove_temporaries(study, [PAGE])
        remove_temporaries(study / "report")
        return write_report([study], study / PAGE)
    except KeyboardInterrupt as stop:
        _warn(f"cannot write {study / PAGE}", study, UserError("interrupted"))
        raise SystemExit(exit_status(stop)) from None
    except Exception as error:
        _warn(f"cannot write {study / PAGE}", study, error)
        return None


def print_files(folders: list[Path], output: Path | None, command: str | None) -> None:
    """Print the paths of all files and the next command. Lines are never wrapped, so they can be copied."""
    lines = [""]
    if output is not None:
        lines += [f"Report: {output}", f"Tables: {output.with_suffix('')}{os.sep}"]
    lines += [f"Leaderboard: {folder / 'leaderboard.csv'}" for folder in folders]
    lines += [f"Next: {command}"] if command else []
    for line in lines:
        print(sanitize_line(line))


def _warn(problem: str, study: Path, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = reason if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: {reason}"
    retry = f"python -m catsdogs.report {shlex.quote(str(study))}"
    print(sanitize_line(f"warning: {problem} ({reason}); results are saved, to retry run {retry}"), file=sys.stderr)
