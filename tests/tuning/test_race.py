"""Decisions of a race, which depend on files of losses; see `test_resume` for a race that is interrupted."""

import numpy as np
import pytest

from catsdogs.base.errors import UserError
from catsdogs.tuning.race import LEADERS, RacingTrial, behind_all

SIZE = 200


@pytest.fixture
def losses():
    """Return skewed losses (T, SIZE) of four trials, of which each is 0.1 above the one before."""
    rng = np.random.default_rng(0)
    images = rng.exponential(0.3, SIZE)
    return np.stack([images + 0.1 * trial + rng.uniform(0, 0.1, SIZE) for trial in range(4)])


def test_a_trial_stops_only_behind_all_leaders(losses):
    leaders = dict(zip("012", losses, strict=False))
    stopped = behind_all(losses[3], leaders)
    assert stopped is not None
    leader, difference = stopped
    assert (leader, difference.value) == ("2", pytest.approx((losses[3] - losses[2]).mean()))
    assert difference.excludes_zero
    assert behind_all(losses[3], {**leaders, "2": losses[3] - np.tile([0.1, -0.09], SIZE // 2)}) is None
    assert behind_all(losses[0], leaders) is None
    assert behind_all(losses[3], {"0": losses[0], "1": losses[1]}) is None


def race(folder, trial, leaders=(), sizes=(SIZE,), epochs=8):
    return RacingTrial(folder, trial, leaders, sizes, epochs)


def test_a_decision_compares_rounded_losses_at_the_same_rung(losses, tmp_path):
    assert race(tmp_path, "0").rungs(0) == [1, 2, 4]
    assert race(tmp_path, "0").rungs(1) == race(tmp_path, "0", epochs=1).rungs(0) == []
    for trial, values in zip("012", losses, strict=False):
        one = race(tmp_path, trial)
        # After the first epoch, all leaders were worse than the new trial.
        assert not one.reached(0, 1, values + 5)
        assert not one.reached(0, 2, values)
        # Early stopping ended them before the rung of four epochs.
        assert not one.reached(0, 3, values, last=True)
    new = race(tmp_path, "3", "0129")
    assert not new.reached(0, 1, losses[3])
    assert new.reached(0, 4, losses[3])
    rounded = [values.astype(np.float16).astype(float) for values in losses]
    assert new.behind.difference.value == (rounded[3] - rounded[2]).mean()
    assert str(new.behind).startswith("behind trial=2 by 0.1")
    assert str(new.behind).endswith(") after 4 epochs")
    # The last epoch never stops a trial, and a damaged file of a leader stops none.
    assert not race(tmp_path, "3", "012").reached(0, 8, losses[3], last=True)
    file = tmp_path / "rungs" / "1-0-3.bin"
    file.with_name("1-0-3 (copy).bin").touch()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert not race(tmp_path, "3", "012").reached(0, 4, losses[3])


@pytest.mark.parametrize("epochs", [3, 8])
def test_after_a_fold_all_images_so_far_are_compared(losses, tmp_path, epochs):
    sizes = (50, 70, 80)
    ends = np.cumsum((0, *sizes))
    for trial, values in zip("012", losses, strict=False):
        for fold in range(3):
            assert not race(tmp_path, trial, sizes=sizes).reached(
                fold, 5, values[ends[fold] : ends[fold + 1]], last=True
            )
    # Better in the first fold, and worse by more in the second.
    own = losses[3].copy()
    own[:50] = losses[0][:50] - 0.01
    new = race(tmp_path, "3", "012"[:LEADERS], sizes)
    assert not new.reached(0, epochs, own[:50], last=True)
    own[50:120] += 1
    assert new.reached(1, epochs, own[50:120], last=True)
    assert str(new.behind).endswith("after 2 folds")
    assert new.behind.difference.size == 120


def test_several_executions_are_refused(config):
    with pytest.raises(UserError, match=r"fit.executions_per_trial=2: not supported with tuner=race"):
        config("tuner=race", "fit.executions_per_trial=2")
