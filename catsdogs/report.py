"""Entry point: study folders -> leaderboard, on the screen and as `leaderboard.csv`. Runs without TensorFlow.

python -m catsdogs.report multirun/NAME [multirun/OTHER ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catsdogs.errors import exit_status_of
from catsdogs.study import write_leaderboard

# What the table on the screen leaves to the CSV.
_NOT_ON_SCREEN = ("seconds", "error", "trials", "job")


def print_leaderboard(boards: dict[str, pd.DataFrame]) -> None:
    """Print one table of all jobs of these studies, best first, then what failed.

    Columns in which all jobs agree are told once, under the table.
    """
    boards = {study: board for study, board in boards.items() if not board.empty}
    merged = pd.concat([board.assign(study=study) for study, board in boards.items()], ignore_index=True)
    merged = merged.sort_values("val_log_loss", kind="stable", na_position="last", ignore_index=True)
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=100, soft_wrap=False)
    names = [str(name) for name in merged if name not in _NOT_ON_SCREEN and name != "trials_completed"]
    first = [name for name in ("study", "status", "val_log_loss", "val_accuracy", "best_trial") if name in names]
    names = first + [name for name in names if name not in first]
    same = [name for name in names if len(merged) > 1 and merged[name].astype(str).nunique() == 1]
    table = Table(title="Jobs, best validation log loss first", title_justify="left")
    shown = [name for name in names if name not in same or name == "val_log_loss"]
    for name in [*shown, "trials", "time"]:
        table.add_column(Text(name.replace("_", " ")), overflow="fold", justify="left")
    for row in merged.to_dict("records"):
        done = f"{_text(row['trials_completed'])}/{_text(row['trials'])}"
        table.add_row(*(Text(_text(row[name], name)) for name in shown), Text(done), Text(_seconds(row["seconds"])))
    console.print(table)
    if same:
        told = [f"{name.replace('_', ' ')} {_text(merged[name].iloc[0])}" for name in same if name != "val_log_loss"]
        console.print(Text("All jobs: " + ", ".join(told)))
    for row in merged.to_dict("records"):
        if isinstance(row["error"], str) and row["error"]:
            console.print(Text(f"{row['job']} failed: {row['error'].splitlines()[0]}"))


def _text(value: object, name: str = "") -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if name in ("val_log_loss", "val_accuracy"):
        return f"{value:.4f}"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 and value != 0 else f"{value:.4g}"
    return str(value)


def _seconds(value: object) -> str:
    from catsdogs.progress import duration

    return duration(float(value)) if isinstance(value, (int, float)) and pd.notna(value) else "–"


def _report(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="catsdogs-report", description="Print and write the leaderboard of one or several studies."
    )
    parser.add_argument("study", nargs="+", type=Path, help="folder of a study, for example multirun/NAME")
    folders = parser.parse_args(arguments).study
    boards = {str(folder): write_leaderboard(folder) for folder in folders}
    print_leaderboard(boards)
    for folder in folders:
        print(f"Leaderboard: {folder / 'leaderboard.csv'}")
    return 0


def main() -> int:
    return exit_status_of(_report)


if __name__ == "__main__":
    sys.exit(main())
