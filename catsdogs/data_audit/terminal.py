"""Terminal summary of an audit, at most 100 columns wide."""

import shlex

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catsdogs.comparison.terminal import summary_console
from catsdogs.data_audit.findings import CHECK_EACH, Findings
from catsdogs.pages.formats import counted

_MOST_LABEL_ERRORS = 12
_MOST_IGNORED = 50  # longer lists are only in ignore.csv


def print_findings(findings: Findings) -> None:
    """Print the findings."""
    console = summary_console()
    console.print()
    console.print(Text(findings.headline, style="bold"))
    table = Table(box=SIMPLE)
    table.add_column("check")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("")
    for kind, number, about in findings.counts():
        table.add_row(kind, f"{number:,}", about)
    console.print(table)
    _print_label_issues(findings, console)
    if findings.ignore and len(findings.already_ignored) + len(findings.ignore) <= _MOST_IGNORED:
        console.print(Text("Exclude these duplicates by adding this override to the next search:"))
        # Wrapped lines could not be copied.
        console.print(Text(shlex.quote(findings.ignore_argument)), soft_wrap=True)


def _print_label_issues(findings: Findings, console: Console) -> None:
    issues = findings.label_issues
    console.print(Text(findings.labels_checked))
    if issues is None:
        return
    for problem in issues.problems:
        console.print(Text("- ").append(problem))
    if issues.table.empty:
        return
    console.print(Text("Likely label errors, most confident first:", style="bold"))
    for row in issues.table.head(_MOST_LABEL_ERRORS).to_dict("records"):
        predicted = f"predicted {row['predicted']} with probability {row['probability']:.4f}"
        against = f"contradicted by {row['against']} of {counted(row['jobs'], 'job')}"
        console.print(Text(f"- {row['id']}: label {row['class']}, {predicted}, {against}"))
    others = len(issues.table) - _MOST_LABEL_ERRORS
    console.print(Text(f"{others:,} more are in suspects.csv. " if others > 0 else "").append(CHECK_EACH))
