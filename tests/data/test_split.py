from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from catsdogs.base.errors import UserError
from catsdogs.config.schema import SplitConfig
from catsdogs.data.archive import natural_key
from catsdogs.data.split import assign_splits, subset


def rows_of(contents: list[tuple[float, int]]) -> pd.DataFrame:
    """A row for every (label, number of the image); the same number is the same image."""
    names = [f"{'dog' if label else 'cat'}.{place}" for place, (label, _) in enumerate(contents)]
    rows = pd.DataFrame({"id": names, "label": [label for label, _ in contents]})
    rows["sha256"] = [f"{number:064x}" for _, number in contents]
    return rows


def distinct(cats: int, dogs: int) -> pd.DataFrame:
    return rows_of([(0.0, number) for number in range(cats)] + [(1.0, 10_000 + number) for number in range(dogs)])


def divided(rows: pd.DataFrame, holdout: float, folds: int, fraction: float, seed: int) -> pd.DataFrame:
    return assign_splits(rows, SplitConfig(holdout, folds, "copies"), fraction, seed)


# With copies, and now and then one image under both labels.
tables = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 40)), min_size=4, max_size=80).map(rows_of)
seeds = st.integers(0, 2**31 - 1)


# hold-out, training and validation, folds


@settings(max_examples=60)
@given(
    tables, st.booleans(), st.sampled_from([0.0, 0.2, 0.4]), st.sampled_from([1, 1, 2, 5]), st.floats(0.05, 0.95), seeds
)
def test_every_image_has_one_place_whatever_the_order_and_the_ids(
    rows: pd.DataFrame, grouped: bool, holdout: float, folds: int, fraction: float, seed: int
) -> None:
    unit = rows["sha256"].str[-1] if grouped else rows["sha256"]  # up to 16 groups of images that resemble each other
    rows = rows.assign(groups=unit) if grouped else rows
    try:
        table = divided(rows, holdout, folds, fraction, seed)
    except UserError:
        assume(False)
    assert list(table) == ["split", "fold"]
    assert list(table.index) == list(rows.index)
    assert (table.groupby(unit).nunique() == 1).all(axis=None)
    held = table["split"] == "holdout"
    assert held.any() == (holdout > 0)
    assert (table["fold"][held] == -1).all()
    assert ((table["fold"] == 0) == (table["split"] == "validation")).all()
    assert set(table["fold"][~held]) == ({-1, 0} if folds == 1 else set(range(folds)))
    for _, side in rows.assign(**table).groupby(["split", "fold"]):
        assert set(side["label"]) == {0.0, 1.0}
    others = rows.assign(id=rows["id"] + "x").sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(divided(others, holdout, folds, fraction, seed).sort_index(), table)
    if not grouped:  # groups of one image each, named by its sha256, change nothing
        pd.testing.assert_frame_equal(divided(rows.assign(groups=unit), holdout, folds, fraction, seed), table)


@pytest.mark.parametrize(("fraction", "cats", "dogs"), [(0.2, 20, 10), (0.5, 50, 25), (0.1, 10, 5)])
def test_every_side_has_its_share_of_each_class(fraction: float, cats: int, dogs: int) -> None:
    rows = distinct(100, 50)
    for side, table in (
        ("validation", divided(rows, 0.0, 1, fraction, 7)),
        ("holdout", divided(rows, fraction, 1, 0.3, 7)),
    ):
        assert rows["label"][table["split"] == side].value_counts().to_dict() == {0.0: cats, 1.0: dogs}
    sizes = pd.crosstab(divided(rows.iloc[:141], 0.0, dogs, 0.2, 3)["fold"], rows["label"])
    assert len(sizes) == dogs
    assert (np.ptp(sizes, axis=0) <= 1).all()


def test_what_a_seed_draws_is_pinned() -> None:
    """Results of other days are compared image by image, so what a seed draws must not drift."""
    rows = distinct(6, 6)
    validation = divided(rows, 0.0, 1, 1 / 3, 0)["split"] == "validation"
    assert rows["id"][validation].tolist() == ["cat.0", "cat.4", "dog.8", "dog.11"]
    assert subset(rows, 4, 0)["id"].tolist() == ["cat.1", "cat.3", "dog.10", "dog.11"]
    table = divided(rows, 1 / 3, 2, 0.2, 0)
    assert rows["id"][table["split"] == "holdout"].tolist() == ["cat.2", "cat.4", "dog.8", "dog.10"]
    assert table["fold"].tolist() == [1, 1, -1, 0, -1, 0, 0, 1, -1, 0, -1, 1]


def test_the_holdout_depends_on_its_share_and_the_seed_alone() -> None:
    rows = distinct(500, 500)
    ways = [(folds, fraction) for folds in (1, 2, 5) for fraction in (0.1, 0.5)]
    first, *others = (divided(rows, 0.2, *way, 7)["split"] == "holdout" for way in ways)
    assert all(other.tolist() == first.tolist() for other in others)
    assert (divided(rows, 0.2, 1, 0.1, 8)["split"] == "holdout").tolist() != first.tolist()
    # It is not what a study without one validated on.
    earlier = divided(rows, 0.0, 1, 0.2, 7)["split"] == "validation"
    assert 20 < (first & earlier).sum() < 60  # 40 expected by chance


def test_what_is_drawn_depends_on_the_seed() -> None:
    rows = distinct(50, 50)
    for draw in (
        lambda seed: divided(rows, 0.0, 1, 0.2, seed)["split"],
        lambda seed: divided(rows, 0.0, 5, 0.2, seed)["fold"],
        lambda seed: subset(rows, 10, seed)["id"],
    ):
        assert draw(1).tolist() != draw(2).tolist()


@pytest.mark.parametrize(
    ("cats", "dogs", "holdout", "folds", "fraction", "said"),
    [
        *(
            (c, d, 0.0, 1, f, f"data.validation_fraction={f:g}: {c} distinct cats and {d} distinct dogs .* validation;")
            for c, d, f in [(1, 10, 0.5), (2, 2, 0.2), (50, 0, 0.2), (100, 2, 0.05), (3, 3, 0.9)]
        ),
        (5, 8, 0.05, 1, 0.5, "split.holdout_fraction=0.05: 5 distinct cats and 8 distinct dogs .* outside it; give"),
        (4, 8, 0.0, 5, 0.2, "split.folds=5: 4 distinct cats and 8 distinct dogs .* lower split.folds$"),
        # The hold-out takes some of what was enough.
        (4, 8, 0.25, 4, 0.2, "split.folds=4: 3 distinct cats and 6 distinct dogs outside the hold-out"),
    ],
)
def test_too_few_images_are_told(cats: int, dogs: int, holdout: float, folds: int, fraction: float, said: str) -> None:
    rows = distinct(cats, dogs)
    for some in (rows, pd.concat([rows] * 20, ignore_index=True)):  # copies do not count
        with pytest.raises(UserError, match=f"^{said}"):
            divided(some, holdout, folds, fraction, 0)


# subset


@given(tables, st.none() | st.integers(4, 90), seeds)
def test_subset_is_exact_sorted_and_independent_of_order(rows: pd.DataFrame, limit: int | None, seed: int) -> None:
    drawn = subset(rows, limit, seed)
    assert len(drawn) == min(limit or len(rows), len(rows))
    assert drawn["id"].tolist() == sorted(drawn["id"], key=natural_key)
    pd.testing.assert_frame_equal(drawn, rows.loc[drawn.index])
    pd.testing.assert_frame_equal(subset(rows.sample(frac=1, random_state=seed), limit, seed), drawn)
    for label, count in rows["label"].value_counts().items():
        assert (drawn["label"] == label).sum() >= min(2, count)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(4, 60), seeds)
def test_subset_takes_the_share_of_each_class(cats: int, dogs: int, limit: int, seed: int) -> None:
    assume(limit < cats + dogs)
    drawn = subset(distinct(cats, dogs), limit, seed)
    share = limit * dogs / (cats + dogs)
    assert abs((drawn["label"] == 1).sum() - share) <= max(0.5, 2 - share, 2 - (limit - share))


def test_copies_are_drawn_last() -> None:
    rows = rows_of([(0.0, number % 10) for number in range(30)] + [(1.0, 100 + number % 10) for number in range(30)])
    for limit, different in ((20, 20), (19, 19), (30, 20)):
        assert [subset(rows, limit, seed)["sha256"].nunique() for seed in range(5)] == [different] * 5
