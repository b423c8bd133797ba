"""The rows of `submission.csv`, of catsdogs' own form or of a competition's sample submission (the template)."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import counted, joined, listed, natural_key, sanitize_line
from catsdogs.config.schema import SubmissionConfig
from catsdogs.data.catalog import nfc
from catsdogs.data.label_table import match_rows, read_cells
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import clip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmissionForm:
    """Header, ids and columns of a submission."""

    classes: Classes
    header: list[str]  # name of the column of ids, and of the others
    ids: list[str]
    rows: np.ndarray  # int, of the test images, in the order of the ids
    places: list[int] | None  # class of each column of probabilities; None: one column, the name of the predicted class

    @classmethod
    def of(cls, config: SubmissionConfig, classes: Classes, test: pd.DataFrame) -> Self:
        """Return the form for test images, rows of a catalog; a UserError if the template does not fit them.

        Without a template, ids are in natural order (1, 2, 10, 100). Then two classes have the column label, the
        probability of the second one, and more classes a column each.
        """
        if config.threshold is not None and len(classes) > 2:
            problem = f"not supported with {len(classes)} classes; remove it"
            raise UserError(f"submission.threshold={config.threshold}: {problem}")
        by_class = config.kind == "probability"
        if config.template is not None:
            return cls._of_template(config.template, classes, test, by_class)
        rows = sorted(range(len(test)), key=lambda row: natural_key(test["id"].iloc[row]))
        places = list(range(len(classes)))[-classes.outputs :] if by_class else None
        columns = ["label"] if places is None or classes.outputs == 1 else list(classes.names)
        return cls(classes, ["id", *columns], list(test["id"].iloc[rows]), np.array(rows, dtype=int), places)

    @classmethod
    def _of_template(cls, file: str, classes: Classes, test: pd.DataFrame, by_class: bool) -> Self:
        key = f"submission.template={file}"
        cells = read_cells(Path(file), key)
        ids, *columns = cells.columns
        places: list[Any] | None = None
        if not columns:
            problem = f"has only the column {ids}; separate columns by commas, or use another template"
            raise UserError(f"{key}: {problem}")
        if by_class:
            # Class names that differ only in case are refused by `check_names`.
            known = {name.casefold(): place for place, name in enumerate(classes.names)}
            single = 1 if len(classes) == 2 and len(columns) == 1 else None
            places = [known.get(name.casefold(), single) for name in nfc(columns)]
            if None in places or (len({*places}) < len(classes) and single is None):
                fixes = ["set data.classes", "use submission.kind=class"][: 1 + (len(columns) == 1)]
                problem = f"columns {listed(columns, 20)} are not the classes {listed(classes.names, 20)}"
                raise UserError(f"{key}: {problem}; {' or '.join(fixes[::-1])}, or use another template")
            if single:
                _check_single(columns[0], classes.names, places[0], key)
        elif len(columns) != 1:
            problem = f"{len(columns)} columns after {ids}, expected one for the class"
            raise UserError(f"{key}: {problem}; use submission.kind=probability, or another template")
        if repeated := cells[ids][cells[ids].duplicated()].tolist():
            raise UserError(f"{key}: ids listed twice: {listed(repeated)}; remove the second row of each")
        matches = match_rows(cells[ids], test)["row"].to_numpy()
        unknown = cells[ids][~cells.index.isin(matches)].tolist()
        lacking = test["id"][matches < 0].tolist()
        named = [("ids without a test image", unknown), ("test images without an id", lacking)]
        if problems := [f"{len(group):,} {text} ({listed(group)})" for text, group in named if group]:
            raise UserError(f"{key}: {joined(problems)}; use template and data.test of the same competition")
        return cls(classes, [ids, *columns], cells[ids].tolist(), np.argsort(matches), places)

    def fill(self, probabilities: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
        """Return the submission, from probabilities (N, K) of the test images and their predicted classes (N,).

        Probabilities are clipped to [EPSILON, 1 - EPSILON], because a single error with a probability of 0 would make
        the log loss infinite. A ValueError is raised if one is missing or outside [0, 1].
        """
        if (
            probabilities.shape != (len(self.rows), len(self.classes))
            or not ((probabilities >= 0) & (probabilities <= 1)).all()
        ):
            raise ValueError(f"expected probabilities in [0, 1] of {len(self.rows)} images")
        if self.places is None:
            columns = [np.array(self.classes.names, dtype=object)[predicted[self.rows]]]
        else:
            columns = list(_rounded(clip(probabilities[self.rows]), self.classes)[:, self.places].T)
        return pd.DataFrame(dict(zip(self.header, [self.ids, *columns], strict=True)))


def _check_single(column: str, names: Sequence[str], place: int, key: str) -> None:
    """Log the class of the only column of probabilities; raise a `UserError` if its words name only the other class."""
    first, second = (re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", nfc([column])[0], re.I) for name in names)
    if place and first and not second:
        problem = f"column {column} names the class {names[0]}, but would have the probabilities of {names[1]}"
        raise UserError(f"{key}: {problem}; set data.classes in the other order, or use another template")
    log.info("%s: column %s: probability of class %s", key, column, names[place])


def prediction_table(
    ids: Sequence[str], probabilities: np.ndarray, classes: Classes, threshold: float | None
) -> pd.DataFrame:
    """Return rows as a submission without a template has them, in the given order, and the predicted class as `class`.

    `probabilities` are (N, K); NaN for an undecodable image, which gets equal ones and no class.
    """
    columns = ["label"] if classes.outputs == 1 else classes.names
    missing = np.isnan(probabilities).any(axis=1)
    values = classes.to_output(_rounded(np.where(missing[:, None], 1 / len(classes), probabilities), classes)).T
    table = pd.DataFrame({"id": ids, **dict(zip(columns, values, strict=True))})
    predicted = np.where(missing, -1, predicted_classes(probabilities, threshold))
    # One of the classes may have the name of this column.
    table.insert(len(table.columns), "class", np.array([*classes.names, ""], dtype=object)[predicted], True)
    return table


def _rounded(probabilities: np.ndarray, classes: Classes) -> np.ndarray:
    """Return probabilities of more than two classes between 0 and 1, with the decimals of `Classes.to_columns`."""
    return probabilities if classes.outputs == 1 else np.round(clip(probabilities), 8)


def predicted_classes(probabilities: np.ndarray, threshold: float | None) -> np.ndarray:
    """Return the class of every image, int (N,): the likeliest, or the second of two if it is above the threshold."""
    return probabilities.argmax(axis=1) if threshold is None else (probabilities[:, 1] > threshold).astype(int)


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the threshold with the highest accuracy for two classes, of equal ones the nearest to 0.5.

    `labels` (N,) and `probabilities` (N, 2) are of images that the model was not trained on.
    """
    second = np.sort(probabilities[:, 1])
    candidates = np.unique([0.5, *(second[1:] + second[:-1]) / 2])
    zeros, ones = (np.sort(probabilities[labels == label, 1]) for label in (0, 1))
    correct = np.searchsorted(zeros, candidates, "right") + len(ones) - np.searchsorted(ones, candidates, "right")
    best = candidates[correct == correct.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def describe_rows(ids: Sequence[str], images: int, undecodable: Sequence[str], fallback: str) -> str:
    """Return the number of rows and of images, the form of the ids, and which rows are `fallback` and why."""
    text = f"{counted(len(ids), 'row')} for {counted(images, 'image')}"
    if len(ids):
        text += f"; ids from {ids[0]} to {ids[-1]}"
    if undecodable:
        text += f"; {len(undecodable):,} with {fallback}, because the image cannot be decoded: {listed(undecodable)}"
    return sanitize_line(text)
