"""Self-contained HTML page of an audit, in the layout of the report."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.base.files import write_text
from catsdogs.comparison.gallery import thumbnail
from catsdogs.comparison.page.writing import render
from catsdogs.data_audit.duplicates import EXACT
from catsdogs.data_audit.findings import CHECK_EACH, TITLES, UNDECODABLE, Findings
from catsdogs.pages.formats import count, counted

# A thumbnail takes about 5 kB. The tables list all images.
_MOST_LABEL_ERRORS = 48
_MOST_GROUPS = 40
_MOST_OF_GROUP = 6
_MOST_UNUSUAL = 36
_MOST_UNDECODABLE = 100  # rows without thumbnails

Row = dict[Any, Any]


def write_page(output: Path, findings: Findings, tables: Sequence[str]) -> None:
    """Write the page with links to tables of these names, in the folder of the same name without the suffix."""
    tiles = [(name, count(number), about) for name, number, about in findings.counts()]
    values = _sections(findings) | {"findings": findings, "title": findings.source.name, "tiles": tiles}
    titles = {name: TITLES[name] for name in tables}
    write_text(output, render("audit", output.with_suffix(""), titles, reload_seconds=None, **values))


def _sections(findings: Findings) -> dict[str, Any]:
    images = findings.rows.set_index("id")

    @functools.cache
    def image_thumbnail(name: str) -> str | None:
        return thumbnail(findings.root, str(images.at[name, "path"]), str(images.at[name, "sha256"]))

    def shots(table: pd.DataFrame) -> list[Row]:
        return [{**row, "thumbnail": image_thumbnail(row["id"])} for row in table.to_dict("records")]

    issues = findings.label_issues
    groups = _groups(findings.duplicates, shots)
    with_box = {shot["id"] for group in groups for shot in group["shots"]}
    without_box = [name for name in findings.ignore if name not in with_box]
    # Describes the ignored images without a box on the page.
    also_ignored = [f"{len(findings.already_ignored)} already ignored"] if findings.already_ignored else []
    also_ignored += [counted(len(without_box), "further duplicate")] if without_box else []
    is_undecodable = findings.unusual_files["kind"] == UNDECODABLE
    undecodable, unusual = findings.unusual_files[is_undecodable], findings.unusual_files[~is_undecodable]
    details = unusual.groupby("id", sort=False)["detail"].agg(list)
    return {
        "check_each": CHECK_EACH,
        "label_errors": [] if issues is None else shots(issues.table.head(_MOST_LABEL_ERRORS)),
        "groups": groups,
        "total_groups": findings.duplicates["group"].nunique(),
        "unusual": shots(details.reset_index(name="details").head(_MOST_UNUSUAL)),
        "total_unusual": len(details),
        "undecodable": undecodable.head(_MOST_UNDECODABLE).join(images["path"], on="id").to_dict("records"),
        "total_undecodable": len(undecodable),
        "ignored": findings.already_ignored + without_box,
        "also_ignored": " and ".join(also_ignored),
    }


def _groups(duplicates: pd.DataFrame, shots: Callable[[pd.DataFrame], list[Row]]) -> list[Row]:
    return [
        {
            "number": number,
            "size": len(rows),
            "exact": bool((rows["kind"] == EXACT).all()),
            "bits": int(rows["bits"].max()),
            "both_labels": bool(rows["both_labels"].any()),
            # The image to keep is first.
            "shots": shots(rows.sort_values("keep", ascending=False, kind="stable").head(_MOST_OF_GROUP)),
        }
        for number, rows in itertools.islice(duplicates.groupby("group"), _MOST_GROUPS)
    ]
