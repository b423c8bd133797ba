"""Evidence -> what a terminal says: the answer, what supports it, what it does not say, and every job in a table."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catsdogs.comparison.study_data import StudyData
from catsdogs.comparison.summary import Summary, score_intervals, summarize
from catsdogs.pages.formats import MISSING, between, count, loss, percent, time_spent, value, words
from catsdogs.scoring.intervals import Estimate
from catsdogs.study.jobs import FAILED, OK, RUNNING

# Columns of everything that is not a terminal, and the most of a terminal: longer lines are hard to read.
_WIDTH = 100
_NARROW = 80


def print_summary(study_data: StudyData, console: Console | None = None) -> Summary:
    """Print it all, and give the answer.

    Args:
        console: None: standard output, in at most 100 columns.
    """
    console = console or summary_console()
    found = summarize(study_data)
    console.print()
    console.print(Text(found.headline, style="bold"))
    for sentence in found.sentences:
        console.print(Text(sentence))
    console.print()
    _print_table(study_data, score_intervals(study_data), console)
    for sentence in [*found.caveats, *study_data.problems]:
        console.print(Text("- ").append(sentence))
    for row in study_data.leaderboard.to_dict("records"):
        if row["status"] == FAILED:
            told = str(row["error"] or "").strip().splitlines() or ["it does not tell why"]
            console.print(Text(f"{row['label']} failed: {told[0]}"))
    return found


def summary_console() -> Console:
    """For answers of one width, in a terminal and in a file."""
    console = Console()
    return Console(width=min(console.width, _WIDTH) if console.is_terminal else _WIDTH)


def _print_table(study_data: StudyData, intervals: dict[str, Estimate], console: Console) -> None:
    """A row per job, best first. Choices in which all jobs agree are told once, under the table."""
    varied = study_data.varied_choices
    several = len(study_data.studies) > 1
    named = ", ".join(words(name) for name in varied) or "job"
    wide = console.width >= _NARROW
    # The page has the rest; numbers that are folded to fit cannot be read.
    shown = {"study": several, named: True, "log loss": True, "95 % interval": wide, "accuracy": wide}
    shown |= {"best hyperparameters": wide and not several, "trials": True, "time": True}
    headers = [header for header in shown if shown[header]]
    table = Table(title="Jobs, best validation log loss first", title_justify="left", box=SIMPLE, title_style="bold")
    for header in headers:
        text = header in ("study", named, "best hyperparameters")
        table.add_column(header, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    board = study_data.leaderboard.astype(object).where(study_data.leaderboard.notna(), None)
    for row in board.to_dict("records"):
        begun = any(row[name] is not None for name in varied)
        best = [f"{name}={value(row[name])}" for name in study_data.hyperparameters if row[name] is not None]
        trials = row["trials_planned"] if row["status"] == RUNNING else row["trials"]
        cells = {
            "study": str(row["study"]),
            named: ", ".join(value(row[name]) for name in varied) if begun else str(row["job"]),
            "log loss": loss(row["val_log_loss"]),
            "95 % interval": between(intervals.get(row["label"])),
            "accuracy": percent(row["val_accuracy"], 2),
            "best hyperparameters": ", ".join(best),
            "trials": f"{row['trials_completed']}/{count(trials)}" if trials else MISSING,
            "time": time_spent(row["seconds"]) if row["status"] == OK else str(row["state"]),
        }
        # As Text, because rich would take [brackets] in a value for markup.
        table.add_row(*(Text(cells[header]) for header in headers))
    console.print(table)
    told = ", ".join(f"{words(name)} {chosen}" for name, chosen in study_data.shared_choices.items())
    if told:
        console.print(Text(f"{'All jobs' if len(study_data.leaderboard) > 1 else 'The job'}: {told}"))
