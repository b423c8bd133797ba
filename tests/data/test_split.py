import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from catsdogs.base.errors import UserError
from catsdogs.base.text import natural_key
from catsdogs.config.schema import SplitConfig
from catsdogs.data.split import assign_splits, subset

NAMES = ("cat", "dog", "emu", "fly", "gnu")


def rows_of(contents):
    """Return a row per (label, image number); equal numbers are identical images."""
    names = [f"{NAMES[int(label)]}.{row}" for row, (label, _) in enumerate(contents)]
    rows = pd.DataFrame({"id": names, "label": [label for label, _ in contents]})
    rows["sha256"] = [f"{number:064x}" for _, number in contents]
    return rows


def distinct(cats, dogs):
    return rows_of([(0.0, number) for number in range(cats)] + [(1.0, 10_000 + number) for number in range(dogs)])


def split_of(rows, holdout, folds, fraction, seed):
    return assign_splits(rows, SplitConfig(holdout, folds, "copies"), fraction, seed, NAMES)


# With duplicates, some of them with conflicting labels.
numbers_of_classes = st.sampled_from([2, 2, 3, 5])
tables = numbers_of_classes.flatmap(
    lambda classes: st.lists(
        st.tuples(st.integers(0, classes - 1).map(float), st.integers(0, 40)), min_size=4, max_size=80
    )
).map(rows_of)
seeds = st.integers(0, 2**31 - 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    tables, st.booleans(), st.sampled_from([0.0, 0.2, 0.4]), st.sampled_from([1, 1, 2, 5]), st.floats(0.05, 0.95), seeds
)
def test_splits_keep_groups_together_and_ignore_order_and_ids(rows, grouped, holdout, folds, fraction, seed):
    unit = rows["sha256"].str[-1] if grouped else rows["sha256"]  # up to 16 groups
    rows = rows.assign(unit=unit, group=unit) if grouped else rows
    try:
        table = split_of(rows, holdout, folds, fraction, seed)
    except UserError:
        assume(False)
    assert list(table) == ["split", "fold"]
    assert list(table.index) == list(rows.index)
    assert (table.groupby(unit).nunique() == 1).all(axis=None)
    in_holdout = table["split"] == "holdout"
    assert in_holdout.any() == (holdout > 0)
    assert (table["fold"][in_holdout] == -1).all()
    assert ((table["fold"] == 0) == (table["split"] == "validation")).all()
    assert set(table["fold"][~in_holdout]) == ({-1, 0} if folds == 1 else set(range(folds)))
    for _, side in rows.assign(**table).groupby(["split", "fold"]):
        assert set(side["label"]) == set(rows["label"])
    others = rows.assign(id=rows["id"] + "x").sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(split_of(others, holdout, folds, fraction, seed).sort_index(), table)
    if not grouped:  # groups of single images change nothing
        pd.testing.assert_frame_equal(split_of(rows.assign(unit=unit), holdout, folds, fraction, seed), table)


@pytest.mark.parametrize(("fraction", "cats", "dogs"), [(0.5, 50, 25), (0.1, 10, 5)])
def test_splits_are_stratified(fraction, cats, dogs):
    rows = distinct(100, 50)
    for side, table in (
        ("validation", split_of(rows, 0.0, 1, fraction, 7)),
        ("holdout", split_of(rows, fraction, 1, 0.3, 7)),
    ):
        assert rows["label"][table["split"] == side].value_counts().to_dict() == {0.0: cats, 1.0: dogs}
    sizes = pd.crosstab(split_of(rows.iloc[:141], 0.0, dogs, 0.2, 3)["fold"], rows["label"])
    assert len(sizes) == dogs
    assert (np.ptp(sizes, axis=0) <= 1).all()


def test_splits_are_pinned():
    """Results of earlier studies are compared image by image."""
    rows = distinct(6, 6)
    validation = split_of(rows, 0.0, 1, 1 / 3, 0)["split"] == "validation"
    assert rows["id"][validation].tolist() == ["cat.0", "cat.4", "dog.8", "dog.11"]
    assert subset(rows, 4, 0)["id"].tolist() == ["cat.1", "cat.3", "dog.10", "dog.11"]
    table = split_of(rows, 1 / 3, 2, 0.2, 0)
    assert rows["id"][table["split"] == "holdout"].tolist() == ["cat.2", "cat.4", "dog.8", "dog.10"]
    assert table["fold"].tolist() == [1, 1, -1, 0, -1, 0, 0, 1, -1, 0, -1, 1]


def test_holdout_depends_only_on_its_fraction_and_the_seed():
    rows = distinct(500, 500)
    variants = [(folds, fraction) for folds in (1, 2, 5) for fraction in (0.1, 0.5)]
    first, *others = (split_of(rows, 0.2, *variant, 7)["split"] == "holdout" for variant in variants)
    assert all(other.tolist() == first.tolist() for other in others)
    assert (split_of(rows, 0.2, 1, 0.1, 8)["split"] == "holdout").tolist() != first.tolist()
    # The validation images of a study without a holdout are different.
    earlier = split_of(rows, 0.0, 1, 0.2, 7)["split"] == "validation"
    assert 20 < (first & earlier).sum() < 60  # 40 expected by chance


@pytest.mark.parametrize(
    ("cats", "dogs", "holdout", "folds", "fraction", "validation"),
    [
        (2, 2, 0.0, 1, 0.2, 2),
        (100, 2, 0.0, 1, 0.05, 7),
        (3, 3, 0.0, 1, 0.9, 4),
        (5, 3, 0.05, 1, 0.5, 3),
        (20, 4, 0.5, 3, 0, 5),
    ],
)
def test_every_class_is_on_both_sides_if_it_has_enough_images(cats, dogs, holdout, folds, fraction, validation):
    rows = distinct(cats, dogs)
    table = split_of(rows, holdout, folds, fraction, 0)
    assert (table["split"] == "validation").sum() == validation
    assert (rows["label"].groupby([table["split"], table["fold"]]).nunique() == 2).all()


@pytest.mark.parametrize(
    ("cats", "dogs", "holdout", "folds", "message"),
    [
        (1, 10, 0.0, 1, "class cat has 1 distinct images .*, at least 2 are needed for training and validation; add"),
        (5, 2, 0.95, 1, "split.holdout_fraction=0.95: class dog has 2 .*, at least 3 are needed .*; set"),
        (3, 8, 0.25, 4, "class cat has 3 .*, at least 5 are needed for 4 folds and holdout; .* lower split.folds$"),
    ],
)
def test_too_few_images(cats, dogs, holdout, folds, message):
    rows = distinct(cats, dogs)
    for table in (rows, pd.concat([rows] * 20, ignore_index=True)):  # duplicates do not count
        with pytest.raises(UserError, match=f"^{message}"):
            split_of(table, holdout, folds, 0.5, 0)


def test_groups_that_cannot_be_split_are_refused():
    """Each of three groups lacks one of three classes."""
    rows = rows_of([(0.0, 0), (1.0, 1), (1.0, 2), (2.0, 3), (2.0, 4), (0.0, 5)]).assign(unit=[*"aabbcc"])
    with pytest.raises(UserError, match=r"^groups of data.group_column are too few or too large"):
        split_of(rows.assign(group=rows["unit"]), 0.0, 2, 0.2, 0)


@given(tables, st.none() | st.integers(10, 90), seeds)
def test_subset_is_exact_sorted_and_independent_of_order(rows, limit, seed):
    sampled = subset(rows, limit, seed)
    assert len(sampled) == min(limit or len(rows), len(rows))
    assert sampled["id"].tolist() == sorted(sampled["id"], key=natural_key)
    pd.testing.assert_frame_equal(sampled, rows.loc[sampled.index])
    pd.testing.assert_frame_equal(subset(rows.sample(frac=1, random_state=seed), limit, seed), sampled)
    for label, count in rows["label"].value_counts().items():
        assert (sampled["label"] == label).sum() >= min(2, count)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(4, 60), seeds)
def test_subset_is_stratified(cats, dogs, limit, seed):
    assume(limit < cats + dogs)
    sampled = subset(distinct(cats, dogs), limit, seed)
    expected = limit * dogs / (cats + dogs)
    assert abs((sampled["label"] == 1).sum() - expected) <= max(0.5, 2 - expected, 2 - (limit - expected))


def test_duplicates_are_sampled_last():
    rows = rows_of([(0.0, number % 10) for number in range(30)] + [(1.0, 100 + number % 10) for number in range(30)])
    for limit, images in ((20, 20), (19, 19), (30, 20)):
        assert [subset(rows, limit, seed)["sha256"].nunique() for seed in range(5)] == [images] * 5
