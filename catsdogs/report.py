"""Entry point of the report: summary on the terminal, `report.html`, tables and exports. Does not import TensorFlow.

python -m catsdogs.report multirun/NAME                        <study>/report.html, report/*.csv, leaderboard.csv
python -m catsdogs.report multirun/NAME multirun/OTHER         compare several studies, report in multirun/
python -m catsdogs.report multirun/NAME --watch                rewrite the report while jobs are running
python -m catsdogs.report multirun/NAME --tensorboard --mlflow     export the trials to TensorBoard and MLflow
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import check_page, check_writable
from catsdogs.base.text import counted, sanitize_line
from catsdogs.config.locations import expanded, typed_path, typed_study
from catsdogs.study.jobs import RESULT
from catsdogs.study.plan import PLAN

if TYPE_CHECKING:
    from catsdogs.comparison.study_data import StudyData


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-report",
        description="Compare the jobs of one or more studies. Prints a summary and writes a self-contained HTML report "
        "that works offline. List the studies before any options.",
    )
    parser.add_argument("study", nargs="*", type=typed_study, help="study folder, for example multirun/NAME")
    about = "HTML report (default: report.html in the study folder, or in its parent folder for several studies)"
    parser.add_argument("--output", type=typed_path, metavar="FILE", help=about)
    either = parser.add_mutually_exclusive_group()
    about = "folder of the images, with their paths in split.csv, if thumbnails are missing"
    either.add_argument("--images", type=typed_path, metavar="FOLDER", help=about)
    about = "write a report without images, for sharing"
    either.add_argument("--no-images", dest="images", action="store_const", const=False, help=about)
    about = "rewrite the report every ten seconds until no job is running or waiting"
    parser.add_argument("--watch", action="store_true", help=about)
    about = "also write the trials as TensorBoard runs (default: tensorboard/ in the study folder)"
    parser.add_argument("--tensorboard", type=expanded, nargs="?", const="", metavar="FOLDER", help=about)
    about = "also write the trials as MLflow runs (default: mlflow.db in the study folder)"
    parser.add_argument("--mlflow", type=expanded, nargs="?", const="", metavar="URI", help=about)
    options = parser.parse_args(arguments)
    if not options.study:
        raise UserError("study: not set; pass a study folder first, for example multirun/NAME")
    store = options.mlflow and Path(options.mlflow)
    if store and ((store / PLAN).is_file() or any(store.glob(f"*/{RESULT}"))):
        raise UserError(f"--mlflow {store}: is a study folder; list the studies before --mlflow")
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
    # The report of several studies is written next to the first one, which may be `.`.
    home = folders[0] if len(folders) == 1 else Path(os.path.normpath(folders[0] / ".."))
    output = options.output or home / PAGE
    check_writable(output.parent, "report folder", "set another path with --output=FILE")
    if options.watch:
        study_data = watch(folders, output, options.images)
    else:
        study_data = write_report(folders, output, False, options.images)
        write_leaderboards(folders)
    summary = print_summary(study_data)
    try:
        _export(options, study_data, home)
    finally:
        print_files(folders, output, summary.command)
    return 0


def _export(options: argparse.Namespace, study_data: "StudyData", home: Path) -> None:
    if options.tensorboard is not None:
        from catsdogs.comparison.exports.to_tensorboard import write_tensorboard

        folder = Path(options.tensorboard or home / "tensorboard")
        trials = write_tensorboard(study_data, folder)
        print(f"\nTensorBoard: {counted(trials, 'trial')}; ", end="")
        print(sanitize_line(f"tensorboard --logdir {shlex.quote(str(folder))}"))
    if options.mlflow is not None:
        from catsdogs.comparison.exports.to_mlflow import local_store, write_mlflow

        uri = options.mlflow or local_store(home)
        runs = write_mlflow(study_data, uri)
        # A URI of the user may contain a password, so it is not printed.
        command = "" if options.mlflow else f"; mlflow ui --backend-store-uri {shlex.quote(uri)}"
        print(f"\nMLflow: {counted(runs, 'run')}{sanitize_line(command)}")


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(_report)


if __name__ == "__main__":
    sys.exit(main())
