"""Findings -> what a terminal says, in at most 100 columns."""

from __future__ import annotations

import shlex

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catsdogs.comparison.terminal import summary_console
from catsdogs.data_audit.findings import Findings
from catsdogs.data_audit.sentences import LOOK, UNASKED, asked, headline, judged

_SUSPECTS = 12
_NAME_LENGTH = 44  # columns of an id
_MOST_IGNORED = 50  # more ids are in the tables


def print_findings(found: Findings, console: Console | None = None) -> None:
    """Print it all.

    Args:
        console: None: standard output.
    """
    console = console or summary_console()
    console.print()
    console.print(Text(headline(found), style="bold"))
    table = Table(box=SIMPLE)
    table.add_column("finding")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("")
    for kind, number, about in found.counts():
        table.add_row(kind, f"{number:,}", about)
    console.print(table)
    _print_suspects(found, console)
    # Not wrapped, so that it can be copied.
    if found.ignore and len(found.already) + len(found.ignore) <= _MOST_IGNORED:
        console.print(Text("Copies that had better be left out; add to the next search:"))
        console.print(Text(shlex.quote(found.ignore_argument)), soft_wrap=True)


def _print_suspects(found: Findings, console: Console) -> None:
    told = found.label_issues
    if told is None:
        console.print(Text(UNASKED))
        return
    console.print(Text(f"{asked(told)} {judged(told, len(found.rows))}"))
    for problem in told.problems:
        console.print(Text("- ").append(problem))
    if told.table.empty:
        return
    table = Table(title="Suspected wrong labels, most confident first", title_justify="left", box=SIMPLE)
    table.add_column("id", max_width=_NAME_LENGTH, overflow="fold")
    for header in ("label", "probability of dog", "jobs against"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in told.table.head(_SUSPECTS).to_dict("records"):
        label = "dog" if row["label"] == 1 else "cat"
        texts = [row["id"], label, f"{row['p_dog']:.4f}", f"{row['against']} of {row['jobs']}"]
        table.add_row(*map(Text, texts))
    console.print(table)
    if len(told.table) > _SUSPECTS:
        console.print(Text(f"and {len(told.table) - _SUSPECTS:,} less confident ones. ").append(LOOK))
    else:
        console.print(Text(LOOK))
