"""Times of trials and epochs, which experiment trackers require with every number."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd


def curves(epochs: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the epochs of the first execution of each trial, in order, by label and trial."""
    if epochs.empty:
        return {}
    first = epochs[epochs["execution"] == 0].sort_values("epoch")
    return {(str(label), str(trial)): table for (label, trial), table in first.groupby(["label", "trial"])}


def ended_at(trial: Mapping[Any, Any]) -> float:
    """Return the end of a trial (a row of `StudyData.trials`) in seconds since 1970.

    If the end was not recorded, it is counted from the start of the job, so only differences between trials are right.
    """
    return float(trial["ended_seconds"] if pd.isna(trial["ended"]) else trial["ended"].timestamp())


def epoch_rows(epochs: pd.DataFrame | None, last: float) -> Iterator[tuple[float, int, dict[str, Any]]]:
    """Yield end, number and metrics of every epoch; the last one ended at `last`, in seconds since 1970."""
    if epochs is None or epochs.empty:
        return
    seconds = epochs["seconds"].fillna(0.0).to_numpy() if "seconds" in epochs else np.zeros(len(epochs))
    times = last - (seconds.sum() - np.cumsum(seconds))
    metrics = epochs.select_dtypes("number").drop(columns=["execution", "epoch", "seconds"], errors="ignore")
    yield from zip(times.tolist(), epochs["epoch"].astype(int), metrics.to_dict("records"), strict=True)
