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


def print_leaderboard(boards: dict[str, pd.DataFrame]) -> None:
    """Print one table of all jobs of these studies, best first, and what failed.

    Choices in which all jobs agree are told once, under the table.
    """
    merged = pd.concat([board.assign(study=study) for study, board in boards.items()], ignore_index=True)
    merged = merged.sort_values("val_log_loss", kind="stable", na_position="last", ignore_index=True)
    choices = dict.fromkeys(name for board in boards.values() for name in _between(board, "status", "val_log_loss"))
    searched = dict.fromkeys(
        name for board in boards.values() for name in _between(board, "best_trial", "trials_completed")
    )
    same = [name for name in choices if merged[name].astype(str).nunique() == 1]
    varying = [name for name in choices if name not in same]
    several = len(boards) > 1

    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    table = Table(title="Jobs, best validation log loss first", title_justify="left")
    if several:
        table.add_column("study", overflow="fold")
    table.add_column(", ".join(name.replace("_", " ") for name in varying) or "job", overflow="fold")
    for header in ("log loss", "accuracy"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("best hyperparameters", overflow="fold")
    for header in ("trials", "time"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in merged.to_dict("records"):
        best = ", ".join(f"{name}\u00a0{_text(row[name])}" for name in searched if pd.notna(row[name]))
        cells = [str(row["study"])] if several else []
        cells += [", ".join(_text(row[name]) for name in varying) or str(row["job"])]
        cells += [_text(row[name], decimals=4) for name in ("val_log_loss", "val_accuracy")]
        cells += [best or str(row["status"]), f"{_text(row['trials_completed'])}/{_text(row['trials'])}"]
        # As Text, because rich would take [brackets] in a value for markup.
        table.add_row(*map(Text, [*cells, _seconds(row["seconds"])]))
    console.print(table)
    told = ", ".join(f"{name.replace('_', ' ')} {_text(merged[name].iloc[0])}" for name in same)
    if told:
        console.print(Text(f"{'All jobs' if len(merged) > 1 else 'The job'}: {told}"))
    if merged["data_digest"].nunique() > 1:
        console.print(Text("These jobs were validated on different images: their log losses do not compare."))
    for row in merged.to_dict("records"):
        if isinstance(row["error"], str) and row["error"]:
            console.print(Text(f"{row['job']} failed: {row['error'].splitlines()[0]}"))


def _between(board: pd.DataFrame, before: str, after: str) -> list[str]:
    """Names of the columns between two: a leaderboard groups choices and hyperparameters so."""
    names = [str(name) for name in board]
    return names[names.index(before) + 1 : names.index(after)]


def _text(value: object, decimals: int | None = None) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, float):
        if decimals is not None:
            return f"{value:.{decimals}f}"
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
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
