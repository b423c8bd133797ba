"""Groups of exact and near-duplicates, and the number of duplicates in a test set."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from catsdogs.data.near_duplicates import components, confirmed_pairs, copies_of

EXACT, NEAR = "exact", "near"


def find_duplicates(rows: pd.DataFrame, root: Path, cache: Path) -> pd.DataFrame:
    """Return a row per image that occurs more than once; `root` is the folder of the paths in the catalog `rows`.

    Groups with conflicting labels come first, then the order is that of their first image. New columns: group (from 1),
    kind ("exact" if the group has another image with the same bytes, else "near"), bits (number of hash bits that
    differ from the nearest near-duplicate, 0 to 48), both_labels (whether the labels of the group conflict) and keep
    (whether it is the first of the largest images of the group and the labels agree).
    """
    rows = rows[rows["width"] > 0].reset_index(drop=True)
    near = confirmed_pairs(cache, (rows, root))
    exact = rows["sha256"].duplicated(keep=False)
    bits = pd.concat([near.set_index(end)["bits"] for end in ("one", "other")]).groupby(level=0).min()
    table = rows[["id", "label", "sha256", "width", "height"]].assign(
        group=components(rows["sha256"], near),
        kind=exact.map({True: EXACT, False: NEAR}),
        bits=rows["sha256"].map(bits).mask(exact, 0),
    )
    table = table[table["group"].duplicated(keep=False)].astype({"bits": int})
    groups = table.groupby("group")
    table["both_labels"] = groups["label"].transform("nunique") > 1
    pixels = table["width"] * table["height"]
    largest = pixels.groupby(table["group"]).transform("max") == pixels
    table["keep"] = largest & ~table["group"].where(largest).duplicated() & ~table["both_labels"]
    table["_start"] = groups["id"].transform(lambda ids: ids.index[0])
    table = table.sort_values(["both_labels", "_start"], ascending=[False, True], kind="stable")
    table["group"] = pd.factorize(table["group"])[0] + 1
    columns = ["group", "id", "label", "sha256", "width", "height", "kind", "bits", "both_labels", "keep"]
    return table[columns].reset_index(drop=True)


@dataclass(frozen=True)
class TestLeakage:
    """Numbers of duplicates between test and training images.

    Their ids are withheld, because the label of the training image reveals that of the test image.
    """

    test_images: int  # with an exact or near-duplicate among the training images
    of_test_images: int  # all decodable ones
    exact: int  # test images with the same bytes as a training image


def count_test_duplicates(
    rows: pd.DataFrame, root: Path, test: pd.DataFrame, test_root: Path, cache: Path
) -> TestLeakage:
    """Count the duplicates of training images in a test set; both are rows of a catalog."""
    test = test[test["width"] > 0]
    found, exact = copies_of(test, test_root, rows, root, cache), test["sha256"].isin(rows["sha256"])
    return TestLeakage(int(found.sum()), len(test), int(exact.sum()))
