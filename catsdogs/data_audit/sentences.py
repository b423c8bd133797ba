"""Findings -> what terminal and page both say."""

from __future__ import annotations

from catsdogs.data_audit.findings import Findings
from catsdogs.data_audit.label_issues import LabelIssues

LOOK = "A suspect is no proof: hard pictures are among them, so look before you ignore one."
UNASKED = "Labels were not checked; add --study multirun/NAME of a study that was searched on these images."


def headline(found: Findings) -> str:
    """`12 of 10,000 images of train.zip deserve a look.`"""
    names = set(found.unusual_files["id"]) | set(found.duplicates["id"])
    if found.label_issues is not None:
        names |= set(found.label_issues.table["id"])
    total = f"{len(found.rows):,} image{'' if len(found.rows) == 1 else 's'} of {found.source.name}"
    if not names:
        return f"Nothing odd was found in {total}."
    return f"{len(names):,} of {total} deserve{'s' if len(names) == 1 else ''} a look."


def asked(told: LabelIssues) -> str:
    """Who judged the labels."""
    if len(told.jobs) == 1:
        return f"Labels were checked with what the best trial of job {told.jobs[0]} says."
    return f"Labels were checked with the mean of what the best trials of {len(told.jobs)} jobs say."


def judged(told: LabelIssues, images: int) -> str:
    """How many of the images were judged."""
    left = images - told.judged
    if not left:
        return f"All {images:,} images were judged, each by models that were not trained on it."
    return (
        f"{told.judged:,} images were judged, each by models that were not trained on it; {left:,} were not, "
        "as no job validated on them."
    )
