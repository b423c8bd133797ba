"""Catalogue -> groups of exact copies and near-duplicates; copies in a test set, counted."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from catsdogs.data.near_duplicates import components, near_pairs, perceptual_hashes

EXACT, NEAR = "exact", "near"


def find_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    """Images that occur more than once.

    Args:
        rows: of a catalogue.

    Returns:
        A row per image of a group of two or more, groups under both labels first, then by their first image: group
        (numbered from 1), id, label, sha256, width, height, kind ("exact": another one of the group has the same
        bytes, "near": none has), bits (0 to 48, by which the hash differs from the nearest other one), both_labels
        (of the group), keep (one image of a group whose labels agree: the largest, the first of those; none of
        a group under both labels, as who is right is not known).
    """
    rows = rows[rows["width"] > 0].reset_index(drop=True)
    near = near_pairs(perceptual_hashes(rows))
    both_ways = pd.concat([near, near.rename(columns={"one": "other", "other": "one"})])
    bits = both_ways.groupby("one")["bits"].min()
    table = rows[["id", "label", "sha256", "width", "height"]].assign(
        group=components(rows["sha256"], near),
        kind=rows["sha256"].duplicated(keep=False).map({True: EXACT, False: NEAR}),
        bits=bits.reindex(rows.index),
    )
    table = table[table["group"].duplicated(keep=False)]
    labels = table.groupby("group")["label"]
    table = table.assign(both_labels=labels.transform("nunique") > 1)
    pixels = table["width"] * table["height"]
    largest = pixels.groupby(table["group"]).transform("max") == pixels
    first = ~table["group"].where(largest).duplicated()
    table = table.assign(keep=largest & first & ~table["both_labels"], bits=table["bits"].astype(int))
    place = table.groupby("group")["id"].transform(lambda ids: ids.index[0])
    table = table.assign(_place=place).sort_values(["both_labels", "_place"], ascending=[False, True], kind="stable")
    table["group"] = pd.factorize(table["group"])[0] + 1
    columns = ["group", "id", "label", "sha256", "width", "height", "kind", "bits", "both_labels", "keep"]
    return table[columns].reset_index(drop=True)


@dataclass(frozen=True)
class TestLeakage:
    """How many test images, of how many, occur among the training images, exactly or nearly, and of how many of these.

    Which ones is not told: the training image's label would be the test image's answer.
    """

    test_images: int
    of_test_images: int
    exact: int
    train_images: int


def count_test_duplicates(rows: pd.DataFrame, test: pd.DataFrame) -> TestLeakage:
    """Count the copies of training images in a test set; both are rows of a catalogue."""
    rows, test = rows[rows["width"] > 0], test[test["width"] > 0]
    near = near_pairs(perceptual_hashes(test), perceptual_hashes(rows))
    return TestLeakage(
        test_images=near["one"].nunique(),
        of_test_images=len(test),
        exact=int(test["sha256"].isin(rows["sha256"]).sum()),
        train_images=near["other"].nunique(),
    )
