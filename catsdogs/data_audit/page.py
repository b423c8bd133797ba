"""Findings -> one self-contained HTML page, in the frame of the report."""

from __future__ import annotations

import datetime
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from catsdogs.base.files import write_text
from catsdogs.comparison.gallery import thumbnail
from catsdogs.comparison.page.writing import environment, markup
from catsdogs.data_audit import sentences
from catsdogs.data_audit.duplicates import EXACT
from catsdogs.data_audit.findings import TITLES, Findings
from catsdogs.data_audit.unusual_files import UNDECODABLE
from catsdogs.pages.formats import count

# Pictures take about 5 kB each; what is not shown is in the tables.
_MOST_SUSPECTS = 48
_MOST_GROUPS = 40
_MOST_OF_GROUP = 6
_MOST_ODD = 36
_MOST_UNDECODABLE = 100  # rows, which have no picture


def write_page(output: Path, found: Findings, written: Sequence[str]) -> None:
    """Write the page.

    Args:
        output: where; the tables lie in the folder beside it that is named as the page without its suffix.
        written: names of the tables that lie there.

    Raises:
        OSError: it cannot be written.
    """
    beside = quote(output.with_suffix("").name)
    addresses = {name: f"{beside}/{name}.csv" for name in written}
    images = found.rows.set_index("id")

    @functools.cache
    def picture(name: str) -> str | None:
        return thumbnail(found.root, str(images.at[name, "path"]), str(images.at[name, "sha256"]))

    def shots(table: pd.DataFrame) -> list[dict[Any, Any]]:
        """Rows of a table, each with its picture."""
        return [{**row, "thumbnail": picture(row["id"])} for row in table.to_dict("records")]

    told = found.label_issues
    groups: list[dict[str, Any]] = [
        {
            "number": number,
            "size": len(rows),
            "exact": bool((rows["kind"] == EXACT).all()),
            "bits": int(rows["bits"].max()),
            "both_labels": bool(rows["both_labels"].any()),
            # Those that stay first, so that a reader sees what a copy is a copy of.
            "shots": shots(rows.sort_values("keep", ascending=False, kind="stable").head(_MOST_OF_GROUP)),
        }
        for number, rows in itertools.islice(found.duplicates.groupby("group"), _MOST_GROUPS)
    ]
    shown = {shot["id"] for group in groups for shot in group["shots"]}
    unseen = [name for name in found.ignore if name not in shown]
    bad = found.unusual_files["kind"] == UNDECODABLE
    undecodable, odd = found.unusual_files[bad], found.unusual_files[~bad]
    html = (
        environment()
        .get_template("audit.html.j2")
        .render(
            kind="audit",
            title=found.source.name,
            reload_seconds=None,
            written=datetime.datetime.now(datetime.UTC),
            source=str(found.source),
            headline=sentences.headline(found),
            tiles=[(name, count(number), about) for name, number, about in found.counts()],
            asked=sentences.UNASKED if told is None else sentences.asked(told),
            judged="" if told is None else sentences.judged(told, len(found.rows)),
            look=sentences.LOOK,
            told=told,
            suspects=[] if told is None else shots(told.table.head(_MOST_SUSPECTS)),
            groups=groups,
            total_groups=found.duplicates["group"].nunique(),
            odd=shots(_odd(odd)),
            total_odd=odd["id"].nunique(),
            undecodable=undecodable.head(_MOST_UNDECODABLE).join(images["path"], on="id").to_dict("records"),
            total_undecodable=len(undecodable),
            leak=found.test_leakage,
            ignore=found.ignore,
            ignore_argument=found.ignore_argument,
            # Those whose box is on the page come by their box.
            ignored=found.already + unseen,
            beside=_beside(len(found.already), len(unseen)),
            files=[(addresses[name], f"{name}.csv", TITLES[name]) for name in addresses],
            link=addresses.get,
            css=markup("report.css"),
            page_script=markup("page.js"),
        )
    )
    write_text(output, html)


def _beside(already: int, unseen: int) -> str:
    """What is ignored beside the selected images."""
    parts = [f"{already} that {'is' if already == 1 else 'are'} ignored already"] if already else []
    parts += [f"{unseen} further {'copy' if unseen == 1 else 'copies'}"] if unseen else []
    return " and ".join(parts)


def _odd(table: pd.DataFrame) -> pd.DataFrame:
    """A row per image with all that is odd about it: turn by turn of every kind, so that many do not hide the few."""
    details = table.groupby("id", sort=False)["detail"].agg(list).rename("details")
    order = table.assign(turn=table.groupby("kind").cumcount()).sort_values("turn", kind="stable")
    return order[["id"]].drop_duplicates().head(_MOST_ODD).join(details, on="id")
