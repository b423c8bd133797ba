"""Findings -> one self-contained HTML page, in the frame of the report."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from catsdogs.comparison.formats import count
from catsdogs.comparison.gallery import thumbnail
from catsdogs.comparison.page import environment, markup
from catsdogs.data_audit import sentences
from catsdogs.data_audit.findings import TITLES, Findings
from catsdogs.files import write_text

_KIND = "audit"

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
        found: what it shows.
        written: names of the tables that lie there.

    Raises:
        OSError: it cannot be written.
    """
    beside = quote(output.with_suffix("").name)
    write_text(output, _rendered(found, {name: f"{beside}/{name}.csv" for name in written}))


def _rendered(found: Findings, addresses: dict[str, str]) -> str:
    pictures = _Pictures(found)
    told = found.suspects
    groups = _groups(found, pictures)
    odd = _odd(found, pictures)
    shown = {shot["id"] for group in groups for shot in group["shots"]}
    unseen = [name for name in found.ignore if name not in shown]
    return (
        environment()
        .get_template("audit.html.j2")
        .render(
            kind=_KIND,
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
            suspects=_suspects(found, pictures),
            groups=groups,
            total_groups=int(found.copies["group"].nunique()),
            odd=odd,
            total_odd=int(found.oddities.loc[found.oddities["kind"] != "undecodable", "id"].nunique()),
            undecodable=_undecodable(found),
            total_undecodable=int((found.oddities["kind"] == "undecodable").sum()),
            leak=found.leak,
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


def _beside(already: int, unseen: int) -> str:
    """What is ignored beside the selected images."""
    parts = [f"{already} that {'is' if already == 1 else 'are'} ignored already"] if already else []
    parts += [f"{unseen} further {'copy' if unseen == 1 else 'copies'}"] if unseen else []
    return " and ".join(parts)


class _Pictures:
    """Thumbnails of images by id, each made once."""

    def __init__(self, found: Findings) -> None:
        rows = found.rows
        self._root = found.root
        self._images = {
            name: (path, sha256) for name, path, sha256 in zip(rows["id"], rows["path"], rows["sha256"], strict=True)
        }
        self._made: dict[str, str | None] = {}

    def __call__(self, name: str) -> str | None:
        if name not in self._made:
            path, sha256 = self._images[name]
            self._made[name] = thumbnail(self._root, path, sha256)
        return self._made[name]


def _shots(table: pd.DataFrame, pictures: _Pictures) -> list[dict[str, Any]]:
    """Rows of a table, each with its picture."""
    return [
        {**{str(key): value for key, value in row.items()}, "thumbnail": pictures(row["id"])}
        for row in table.to_dict("records")
    ]


def _suspects(found: Findings, pictures: _Pictures) -> list[dict[str, Any]]:
    if found.suspects is None:
        return []
    return _shots(found.suspects.table.head(_MOST_SUSPECTS), pictures)


def _groups(found: Findings, pictures: _Pictures) -> list[dict[str, Any]]:
    """Copies, a group after the other; a group's first images have pictures."""
    groups: list[dict[str, Any]] = []
    for number, rows in found.copies.groupby("group"):
        if len(groups) == _MOST_GROUPS:
            break
        # Those that stay first, so that a reader sees what a copy is a copy of.
        shown = rows.sort_values("keep", ascending=False, kind="stable").head(_MOST_OF_GROUP)
        groups.append(
            {
                "number": number,
                "size": len(rows),
                "exact": bool((rows["kind"] == "exact").all()),
                "bits": int(rows["bits"].max()),
                "both_labels": bool(rows["both_labels"].any()),
                "shots": _shots(shown, pictures),
            }
        )
    return groups


def _odd(found: Findings, pictures: _Pictures) -> list[dict[str, Any]]:
    """Images with a picture and all that is odd about each, by kind: of every kind some."""
    table = found.oddities[found.oddities["kind"] != "undecodable"]
    details = table.groupby("id", sort=False)["detail"].agg(list)
    # Turn by turn of every kind, so that a thousand of one do not hide the only one of another.
    order = table.assign(turn=table.groupby("kind").cumcount())
    names = order.sort_values("turn", kind="stable")["id"].drop_duplicates().head(_MOST_ODD)
    return [{"id": name, "details": details[name], "thumbnail": pictures(name)} for name in map(str, names)]


def _undecodable(found: Findings) -> list[dict[str, Any]]:
    table = found.oddities[found.oddities["kind"] == "undecodable"]
    paths = dict(zip(found.rows["id"], found.rows["path"], strict=True))
    table = table.head(_MOST_UNDECODABLE)
    return [{"path": paths[name], "detail": detail} for name, detail in zip(table["id"], table["detail"], strict=True)]
