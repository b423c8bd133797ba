"""Texts shared by the terminal summary and the page of an audit."""

from __future__ import annotations

from catsdogs.data_audit.findings import Findings
from catsdogs.data_audit.label_issues import LabelIssues

CHECK_EACH = "These are candidates, not confirmed errors: some are hard images. Check each one before excluding it."
NOT_CHECKED = "Labels were not checked; to check them, add --study multirun/NAME of a study run on these images."


def headline(findings: Findings) -> str:
    """Return a line such as `12 of 10,000 images in train.zip need review.`."""
    names = set(findings.unusual_files["id"]) | set(findings.duplicates["id"])
    if findings.label_issues is not None:
        names |= set(findings.label_issues.table["id"])
    total = f"{len(findings.rows):,} image{'' if len(findings.rows) == 1 else 's'} in {findings.source.name}"
    if not names:
        return f"No problems found in {total}."
    return f"{len(names):,} of {total} need{'s' if len(names) == 1 else ''} review."


def label_source(issues: LabelIssues) -> str:
    """Return which predictions the labels were compared with."""
    if len(issues.jobs) == 1:
        return f"Labels were compared with the predictions of the best trial of job {issues.jobs[0]}."
    return f"Labels were compared with the mean predictions of the best trials of {len(issues.jobs)} jobs."


def coverage(issues: LabelIssues, images: int) -> str:
    """Return how many of the images have predictions."""
    skipped = images - issues.checked
    if not skipped:
        return f"All {images:,} labels were checked, each by models that were not trained on the image."
    return (
        f"{issues.checked:,} labels were checked, each by models that were not trained on the image; {skipped:,} were "
        "not, because no job validated on these images."
    )
