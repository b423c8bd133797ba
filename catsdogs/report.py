"""Entry point: study folders -> the answer on the terminal, `report.html`, tables, exports. Runs without TensorFlow.

python -m catsdogs.report multirun/NAME                        <study>/report.html, report/*.csv, leaderboard.csv
python -m catsdogs.report multirun/NAME multirun/OTHER         several studies side by side, beside the first one
python -m catsdogs.report multirun/NAME --watch                again and again while its jobs run
python -m catsdogs.report multirun/NAME --tensorboard --mlflow     its trials as TensorBoard's and MLflow's runs
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import check_page
from catsdogs.base.text import sanitize_line
from catsdogs.study.jobs import PLAN, RESULT

if TYPE_CHECKING:
    from catsdogs.comparison.study_data import StudyData

_WATCH_SECONDS = 10.0


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 1 <= float(text) < math.inf:
            return float(text)
    raise UserError(f"--watch {text}: it takes seconds, at least 1; give the studies before it")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-report",
        description="Which choice is better, by how much, and can it be believed? Prints the answer and writes one "
        "page that needs no network, for one study or several side by side. Give the studies before the options.",
    )
    parser.add_argument("study", nargs="*", type=Path, help="folder of a study, for example multirun/NAME")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page; default: report.html in the study, or beside several"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="where the images are, if their pictures are not found"
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=_WATCH_SECONDS,
        metavar="SECONDS",
        help=f"write it again every {_WATCH_SECONDS:g} seconds until the last job has ended",
    )
    parser.add_argument(
        "--tensorboard",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="also write the trials as TensorBoard's runs; default: tensorboard/ in the study",
    )
    parser.add_argument(
        "--mlflow",
        nargs="?",
        const="",
        metavar="URI",
        help="also write the trials as MLflow's runs; default: mlflow.db in the study",
    )
    options = parser.parse_args(arguments)
    if not options.study:
        raise UserError("no study is given; give its folder first, as in `python -m catsdogs.report multirun/NAME`")
    for name in ("tensorboard", "mlflow"):
        value = getattr(options, name)
        if value and ((Path(value) / PLAN).is_file() or any(Path(value).glob(f"*/{RESULT}"))):
            raise UserError(f"--{name} {value}: this is a study; give the studies first, and --{name} after them")
    if options.output is not None:
        check_page(options.output, "report")
    return options


def _report(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    from catsdogs.comparison.page.writing import write_report
    from catsdogs.comparison.reporting import PAGE, print_files
    from catsdogs.comparison.terminal import print_summary
    from catsdogs.comparison.watch import watch, write_leaderboards

    folders: list[Path] = options.study
    # What belongs to several studies lies beside the first, which may be `.`.
    home = folders[0] if len(folders) == 1 else Path(os.path.normpath(folders[0] / ".."))
    output = options.output or home / PAGE
    try:
        if options.watch is None:
            study_data = write_report(folders, output, False, options.images)
            write_leaderboards(folders)
        else:
            study_data = watch(folders, output, options.watch, options.images)
    except OSError as error:
        place = "" if error.filename is None else f" ({error.filename})"
        raise UserError(
            f"{output}: {error.strerror or error}{place}; choose where it is written with --output=FILE"
        ) from error
    found = print_summary(study_data)
    try:
        _export(options, study_data, home)
    finally:
        print_files(folders, output, found.command)
    return 0


def _export(options: argparse.Namespace, study_data: StudyData, home: Path) -> None:
    if options.tensorboard is not None:
        from catsdogs.comparison.exports.to_tensorboard import write_tensorboard

        folder = Path(options.tensorboard or home / "tensorboard")
        trials = write_tensorboard(study_data, folder)
        print(f"\nTensorBoard: {trials} trial{'s' if trials != 1 else ''}; ", end="")
        print(sanitize_line(f"tensorboard --logdir {shlex.quote(str(folder))}"))
    if options.mlflow is not None:
        from catsdogs.comparison.exports.to_mlflow import local_store, write_mlflow

        uri = options.mlflow or local_store(home)
        runs = write_mlflow(study_data, uri)
        # An address of the user's own may hold a password.
        how = "" if options.mlflow else f"; mlflow ui --backend-store-uri {shlex.quote(uri)}"
        print(f"\nMLflow: {runs} run{'s' if runs != 1 else ''}{sanitize_line(how)}")


def main() -> int:
    return exit_status_of(_report)


if __name__ == "__main__":
    sys.exit(main())
