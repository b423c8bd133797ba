"""Summary of studies on the terminal: headline, evidence, a table of all jobs, and caveats."""

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catsdogs.comparison.study_data import StudyData
from catsdogs.comparison.summary import Summary, summarize
from catsdogs.pages.formats import MISSING, between, count, loss, percent, time_spent, value, words
from catsdogs.scoring.intervals import Estimate
from catsdogs.study.jobs import FAILED, OK

# Width of output to a file, and maximum width on a terminal: longer lines are hard to read.
_WIDTH = 100
_NARROW = 80


def print_summary(study_data: StudyData, console: Console | None = None) -> Summary:
    """Print the summary of the studies, by default to standard output in at most 100 columns, and return it."""
    console = console or summary_console()
    summary = summarize(study_data)
    console.print()
    console.print(Text(summary.headline, style="bold"))
    for sentence in summary.sentences:
        console.print(Text(sentence))
    console.print()
    _print_table(study_data, summary.intervals, console)
    for sentence in [*summary.caveats, *study_data.problems]:
        console.print(Text("- ").append(sentence))
    for row in study_data.leaderboard.to_dict("records"):
        if row["status"] == FAILED:
            error = "" if pd.isna(row["error"]) else str(row["error"]).strip()
            message = next(iter(error.splitlines()), "no error message was recorded")
            console.print(Text(f"{row['label']} failed: {message}"))
    return summary


def summary_console() -> Console:
    """Return a console of limited width, for terminals and files."""
    console = Console()
    return Console(width=min(console.width, _WIDTH) if console.is_terminal else _WIDTH)


def _print_table(study_data: StudyData, intervals: dict[str, Estimate], console: Console) -> None:
    """Print a row per job, best first. Choices shared by all jobs are printed once, below the table."""
    varied, several = study_data.varied_choices, len(study_data.studies) > 1
    name_header = ", ".join(words(name) for name in varied) or "job"
    wide = console.width >= _NARROW
    # Narrow terminals get fewer columns, because folded numbers are unreadable; the page shows all.
    shown = {"study": several, name_header: True, "log loss": True, "95% CI": wide, "accuracy": wide}
    shown |= {"best hyperparameters": wide and not several, "trials": True, "time": True}
    headers = [header for header in shown if shown[header]]
    table = Table(title="Jobs, best validation log loss first", title_justify="left", box=SIMPLE, title_style="bold")
    for header in headers:
        text = header in ("study", name_header, "best hyperparameters")
        table.add_column(header, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    leaderboard = study_data.leaderboard.astype(object).where(study_data.leaderboard.notna(), None)
    for row in leaderboard.to_dict("records"):
        has_choices = any(row[name] is not None for name in varied)
        best = [f"{name}={value(row[name])}" for name in study_data.hyperparameters if row[name] is not None]
        trials = row["trials_planned"] or row["trials"]
        stopped = f", {row['trials_stopped']} stopped" if row["trials_stopped"] else ""
        cells = {
            "study": str(row["study"]),
            name_header: ", ".join(value(row[name]) for name in varied) if has_choices else str(row["job"]),
            "log loss": loss(row["val_log_loss"]),
            "95% CI": between(intervals.get(row["label"])),
            "accuracy": percent(row["val_accuracy"], 2),
            "best hyperparameters": ", ".join(best),
            "trials": f"{row['trials_completed']}/{count(trials)}{stopped}" if trials else MISSING,
            "time": time_spent(row["seconds"]) if row["status"] == OK else str(row["state"]),
        }
        # Text, because rich would parse [brackets] in a string as markup.
        table.add_row(*(Text(cells[header]) for header in headers))
    console.print(table)
    shared = [
        f"{name if '.' in name else words(name)} {value(chosen)}" for name, chosen in study_data.shared_choices.items()
    ]
    if shared:
        console.print(Text(f"{'All jobs' if len(study_data.leaderboard) > 1 else 'The job'}: {', '.join(shared)}"))
