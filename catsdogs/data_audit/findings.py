"""Findings of an audit, their tables, and the ids to exclude from the next search."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import listed, natural_key, quoted
from catsdogs.comparison import tables
from catsdogs.comparison.study_data import clean, read_study_data
from catsdogs.data.archive import ImageFolder
from catsdogs.data.labels import NO_LABEL, OTHER_CLASS, Labels
from catsdogs.data.parts import Parts, with_validation_ids
from catsdogs.data_audit.duplicates import EXACT, TestLeakage, count_test_duplicates, find_duplicates
from catsdogs.data_audit.label_issues import LabelIssues, best_jobs, find_label_issues
from catsdogs.pages.formats import counted

_log = logging.getLogger(__name__)

CHECK_EACH = "These are candidates, not confirmed errors: some are hard images. Check each one before excluding it."

UNDECODABLE, LABEL, TINY = "undecodable", "label", "tiny"

# Pixels of the shorter side. Smaller images are enlarged more than twofold for the smallest usual input (160).
TINY_PIXELS = 64

TITLES = {
    "suspects": "likely label errors",
    "copies": "groups of exact and near-duplicates",
    "oddities": "undecodable, unlabeled and tiny images",
    "ignore": "ids of duplicates to exclude",
    "skipped": "files that are hidden or not images",
}


@dataclass(frozen=True)
class Findings:
    """Findings of an audit."""

    source: Path  # of the images, as passed by the user
    rows: pd.DataFrame  # their catalog
    root: Path  # folder of the paths in it
    skipped: Sequence[str]  # paths of the files that are hidden or not images
    unusual_files: pd.DataFrame  # see `find_unusual_files`
    duplicates: pd.DataFrame  # see `find_duplicates`; without the images that the study ignores already
    label_issues: LabelIssues | None  # None without a study
    test_leakage: TestLeakage | None  # None without a test set
    classes: tuple[str, ...]  # names by label

    @property
    def already_ignored(self) -> list[str]:
        """Ids that the study ignores."""
        return [] if self.label_issues is None else self.label_issues.ignored

    @property
    def ignore(self) -> list[str]:
        """Further ids to ignore without review: surplus duplicates, and all duplicates with conflicting labels."""
        return sorted(self.duplicates.loc[~self.duplicates["keep"], "id"], key=natural_key)

    @property
    def ignore_argument(self) -> str:
        """Override for the next search with both, in Hydra's syntax; a shell needs single quotes around it."""
        return f"data.ignore=[{','.join(map(quoted, [*self.already_ignored, *self.ignore]))}]"

    @property
    def headline(self) -> str:
        """A line such as `12 of 10,000 images in train.zip need review.`."""
        names = set(self.unusual_files["id"]) | set(self.duplicates["id"])
        if self.label_issues is not None:
            names |= set(self.label_issues.table["id"])
        total = f"{counted(len(self.rows), 'image')} in {self.source.name}"
        if not names:
            return f"No problems found in {total}."
        return f"{len(names):,} of {total} need{'s' if len(names) == 1 else ''} review."

    @property
    def labels_checked(self) -> str:
        """Which predictions the labels were compared with, and of how many images."""
        issues = self.label_issues
        if issues is None:
            return "Labels were not checked; to check them, add --study multirun/NAME of a study run on these images."
        count = int(issues.checked.sum())
        skipped = len(self.rows) - count
        best = f"mean predictions of the best trials of {len(issues.jobs)} jobs"
        if len(issues.jobs) == 1:
            best = f"predictions of the best trial of job {issues.jobs[0]}"
        checked = f"{count:,} labels were checked, each by models that were not trained on the image"
        others = f"; {skipped:,} were not, because no job validated on these images" if skipped else ""
        wrong = issues.table["class"].value_counts()
        checked_classes = [name for name in self.classes if name in issues.checked]
        by_class = [f"{name} {wrong.get(name, 0):,} of {issues.checked[name]:,}" for name in checked_classes]
        found = f" Likely label errors by class: {listed(by_class, 20)}."
        return f"Labels were compared with the {best}. {checked}{others}.{found}"

    def counts(self) -> list[tuple[str, int, str]]:
        """Return (kind of finding, number of images, explanation) of each check."""
        kinds = self.unusual_files.drop_duplicates(["id", "kind"])["kind"].value_counts()
        exact = int(self.duplicates.loc[self.duplicates["kind"] == EXACT, "sha256"].duplicated().sum())
        near = len(self.duplicates) - self.duplicates["group"].nunique() - exact
        conflicting = int(self.duplicates["both_labels"].sum())
        counts = [
            ("undecodable", int(kinds.get(UNDECODABLE, 0)), "skipped by every search"),
            ("no unique label", int(kinds.get(LABEL, 0)), "skipped by every search"),
            ("exact duplicates", exact, "same bytes as another image"),
            ("near-duplicates", near, "similar to another image, with other bytes"),
            ("conflicting labels", conflicting, "of duplicates; identical files are skipped by every search"),
            ("tiny", int(kinds.get(TINY, 0)), f"shorter side under {TINY_PIXELS} pixels"),
        ]
        if self.skipped:
            counts.append(("other files", len(self.skipped), f"hidden or not images: {clean(listed(self.skipped))}"))
        if self.label_issues is not None:
            about = f"contradicted by predictions; {self.label_issues.checked.sum():,} labels checked"
            counts.insert(0, ("likely label errors", len(self.label_issues.table), about))
        if self.test_leakage is not None:
            about = f"of {self.test_leakage.of_test_images:,}; {self.test_leakage.exact:,} with the same bytes"
            counts.append(("duplicates in the test set", self.test_leakage.test_images, about))
        return counts


def audit_images(
    source: Path,
    folder: ImageFolder,
    studies: Sequence[Path],
    test_folder: ImageFolder | None,
    cache: Path,
    labels_file: Path | None = None,
) -> Findings:
    """Run all checks on the training part. Labels of a validation part are checked too.

    Labels are read as by the best job of the studies, else from the paths; `labels_file` replaces the table of the job.
    Without `studies`, they are not checked. Raise UserError if an image, the labels or a study cannot be read.
    """
    parts = Parts.of(clean(str(source)), folder, cache)
    training = parts.images("train")
    # First, because a wrong --study fails here.
    study_data = read_study_data(list(studies)) if studies else None
    best = best_jobs(study_data) if study_data else []
    settings = study_data.jobs[best[0]].result["config"].get("data", {}) if study_data and best else {}
    if labels_file is not None:
        settings = {**settings, "labels": str(labels_file)}
    labels = None
    try:
        labels = Labels.of(training, parts.source, settings)
    except UserError as error:
        if studies or labels_file:
            raise
        _log.warning("%s", error)
    training = rows = labels.label(training) if labels else training.assign(label=np.nan, problem=NO_LABEL)
    issues = None
    if study_data and labels:
        if parts.part("validation"):
            own = with_validation_ids(labels.label(parts.images("validation")), rows)
            rows = pd.concat([rows, own], ignore_index=True)
        issues = find_label_issues(study_data, rows, labels.classes)
    in_use = training if issues is None else training[~training["id"].isin(issues.ignored)]
    leakage, notes = None, [parts.note("train"), f"{parts.source}: {labels.counts(rows)}" if labels else ""]
    if test_folder is not None:
        testing = Parts.of("--test", test_folder, cache)
        notes.append(testing.note("test"))
        leakage = count_test_duplicates(training, folder.root, testing.images("test"), test_folder.root, cache)
    for note in filter(None, notes):
        _log.info("%s", note)
    images = (Path(clean(str(source))), rows, folder.root, folder.skipped)
    unusual, duplicates = find_unusual_files(rows), find_duplicates(in_use, folder.root, cache)
    return Findings(*images, unusual, duplicates, issues, leakage, labels.classes.names if labels else ())


def find_unusual_files(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per problem of an image, in the order of a catalog: id, kind (see the constants above), detail."""
    sizes, undecodable = rows[["width", "height"]], rows["width"] == 0
    tiny = sizes["width"].astype(str) + " x " + sizes["height"].astype(str) + " pixels"
    found = (
        (UNDECODABLE, rows["problem"], undecodable),
        (LABEL, rows["problem"], ~undecodable & rows["label"].isna() & (rows["problem"] != OTHER_CLASS)),
        (TINY, tiny, ~undecodable & (sizes.min(axis=1) < TINY_PIXELS)),
    )
    tables = [rows[["id"]].assign(kind=kind, detail=detail)[mask] for kind, detail, mask in found]
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)


def write_tables(folder: Path, findings: Findings) -> list[str]:
    """Write `<name>.csv` for each nonempty table and return the names; delete the other tables."""
    by_name = {
        "suspects": pd.DataFrame() if findings.label_issues is None else findings.label_issues.table,
        "copies": findings.duplicates,
        "oddities": findings.unusual_files,
        "ignore": pd.DataFrame({"id": findings.ignore}),
        "skipped": pd.DataFrame({"path": findings.skipped}),
    }
    return list(tables.write_tables(folder, by_name))
