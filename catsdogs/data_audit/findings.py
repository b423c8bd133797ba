"""Oddities, copies and suspects -> one record, its tables, and the ids that had better be ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from catsdogs.base.files import write_csv
from catsdogs.base.text import quoted
from catsdogs.comparison.study_data import clean
from catsdogs.data.archive import ImageFolder, natural_key
from catsdogs.data.catalog import build_catalog
from catsdogs.data_audit.duplicates import EXACT, TestLeakage, count_test_duplicates, find_duplicates
from catsdogs.data_audit.label_issues import LabelIssues, find_label_issues
from catsdogs.data_audit.unusual_files import LABEL, TINY, TINY_PIXELS, UNDECODABLE, find_unusual_files

TITLES = {
    "suspects": "images whose label the models contradict",
    "copies": "groups of copies and near-duplicates",
    "oddities": "undecodable, unclear and tiny images",
    "ignore": "ids that had better be ignored",
}


@dataclass(frozen=True)
class Findings:
    """All that an audit found.

    Attributes:
        source: as the user named it.
        rows: its catalogue.
        root: what the paths of `rows` are relative to.
        oddities, copies: as these functions give them; copies are told of images only that no study ignores already.
        label_issues: None: no study was given.
        test_leakage: None: no test set was given.
    """

    source: Path
    rows: pd.DataFrame
    root: Path
    unusual_files: pd.DataFrame
    duplicates: pd.DataFrame
    label_issues: LabelIssues | None
    test_leakage: TestLeakage | None

    @property
    def already(self) -> list[str]:
        """Ids that the study ignores."""
        return [] if self.label_issues is None else self.label_issues.ignored

    @property
    def ignore(self) -> list[str]:
        """Further ids, to ignore without looking: surplus copies, and copies under both labels."""
        return sorted(self.duplicates.loc[~self.duplicates["keep"], "id"], key=natural_key)

    @property
    def ignore_argument(self) -> str:
        """Both for the next search, as Hydra reads it; a shell needs it in single quotes."""
        return f"data.ignore=[{','.join(map(quoted, [*self.already, *self.ignore]))}]"

    def counts(self) -> list[tuple[str, int, str]]:
        """Kind of finding, how many images, what that means; the kinds that were looked for."""
        kinds = self.unusual_files.drop_duplicates(["id", "kind"])["kind"].value_counts()
        exact = int(self.duplicates.loc[self.duplicates["kind"] == EXACT, "sha256"].duplicated().sum())
        near = len(self.duplicates) - self.duplicates["group"].nunique() - exact
        told = [
            ("does not decode", int(kinds.get(UNDECODABLE, 0)), "left out of every search"),
            ("no clear label", int(kinds.get(LABEL, 0)), "left out of every search"),
            ("exact copies", exact, "the same bytes as another image"),
            ("near-duplicates", near, "the same picture as another image, in other bytes"),
            ("under both labels", int(self.duplicates["both_labels"].sum()), "copies labeled both cat and dog"),
            ("tiny", int(kinds.get(TINY, 0)), f"shorter side under {TINY_PIXELS} pixels"),
        ]
        if self.label_issues is not None:
            about = f"models contradict it, of {self.label_issues.judged:,} judged"
            told.insert(0, ("suspected wrong label", len(self.label_issues.table), about))
        if self.test_leakage is not None:
            about = f"of {self.test_leakage.of_test_images:,}; {self.test_leakage.exact:,} with the same bytes"
            told.append(("test images that are copies", self.test_leakage.test_images, about))
        return told


def findings(
    source: Path, folder: ImageFolder, studies: Sequence[Path], test_folder: ImageFolder | None, cache: Path
) -> Findings:
    """Look for everything.

    Args:
        source: what the user named the images.
        studies: whose models are asked about the labels; none: nobody is asked.
        test_folder: the test images, in which copies are counted; None: nothing is counted.

    Raises:
        UserError: an image or a study cannot be read.
    """
    rows = build_catalog(folder, cache)
    # First what a wrong argument spoils.
    told = find_label_issues(list(studies), rows) if studies else None
    in_use = rows if told is None else rows[~rows["id"].isin(told.ignored)]
    return Findings(
        source=Path(clean(str(source))),
        rows=rows,
        root=folder.root,
        unusual_files=find_unusual_files(rows),
        duplicates=find_duplicates(in_use),
        label_issues=told,
        test_leakage=None if test_folder is None else count_test_duplicates(rows, build_catalog(test_folder, cache)),
    )


def write_tables(folder: Path, found: Findings) -> list[str]:
    """Write `<name>.csv` of every table that has a row, and give the names; those of an earlier audit go."""
    tables = {
        "suspects": pd.DataFrame() if found.label_issues is None else found.label_issues.table,
        "copies": found.duplicates,
        "oddities": found.unusual_files,
        "ignore": pd.DataFrame({"id": found.ignore}),
    }
    for name, table in tables.items():
        if len(table):
            write_csv(folder / f"{name}.csv", table)
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    return [name for name, table in tables.items() if len(table)]
