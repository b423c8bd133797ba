import dataclasses
import math

import pytest

from catsdogs.base.errors import UserError
from catsdogs.study.trials import COMPLETED, TrialRecord, read_trials, write_trials
from catsdogs.tuning.oracles import build_oracle, replay, searched_values

pytestmark = pytest.mark.lowest

TUNERS = {
    "random": ("tuner=random", "tuner.max_trials=9"),
    "bayesian": ("tuner=bayesian", "tuner.max_trials=9"),
    "hyperband": ("tuner=hyperband", "fit.epochs=4", "tuner.max_trials=null"),
    "grid": ("tuner=grid", "tuner.max_trials=9", "space=small_cnn"),
}


def score(values):
    """Return a score that depends on the hyperparameters, for oracles that learn from it."""
    return 9 + sum(
        math.sin(7 * float(value)) for value in searched_values(values).values() if not isinstance(value, str)
    )


def propose(oracle, trials, failing=()):
    """Run this many trials without training, and return their records."""
    records = []
    for number in range(trials):
        trial = oracle.create_trial("tuner0")
        if trial.status != "RUNNING":
            break
        values = trial.hyperparameters.values
        fails = number in failing
        scores = {} if fails else {"val_log_loss": score(values), "val_accuracy": 0.5}
        if not fails:
            oracle.update_trial(trial.trial_id, scores)
        trial.status = "INVALID" if fails else COMPLETED
        oracle.end_trial(trial)
        outcome = ("FAILED" if fails else COMPLETED, scores.get("val_log_loss"), scores.get("val_accuracy"))
        record = TrialRecord(trial.trial_id, *outcome, 1, 1, 1.0, searched_values(values))
        parent, first_epoch = str(values.get("tuner/trial_id") or ""), int(values.get("tuner/initial_epoch", 0))
        budget = int(values.get("tuner/epochs", 4))
        records.append(dataclasses.replace(record, parent=parent, first_epoch=first_epoch, epoch_budget=budget))
    return records


@pytest.fixture
def oracle(config, tmp_path):
    count = iter(range(100))

    def make(*overrides):
        oracle = build_oracle(config("space=default", "model.unfreeze_depth=0", *overrides))
        oracle.verbose = 0
        oracle._set_project_dir(str(tmp_path), f"tuner{next(count)}")
        return oracle

    return make


@pytest.mark.parametrize("finished", [1, 4, 7])
@pytest.mark.parametrize("name", TUNERS)
def test_a_replayed_oracle_makes_the_same_proposals_as_an_uninterrupted_one(oracle, tmp_path, name, finished):
    uninterrupted = propose(oracle(*TUNERS[name]), 9, failing={2, 5})
    assert len(uninterrupted) == 9
    write_trials(tmp_path / "trials.csv", uninterrupted[:finished])
    resumed = oracle(*TUNERS[name])
    replay(resumed, read_trials(tmp_path / "trials.csv"), "tuner0", "j")
    rest = propose(resumed, 9 - finished, failing={number - finished for number in (2, 5)})
    assert rest == uninterrupted[finished:]


@pytest.mark.parametrize("name", ["random", "hyperband"])
@pytest.mark.parametrize("pad", [0, 4])
def test_more_trials_extend_a_search(oracle, tmp_path, name, pad):
    overrides = TUNERS[name][:-1]
    before = propose(oracle(*overrides, "tuner.max_trials=9"), 20)
    assert [record.trial for record in before] == list("012345678")
    assert any(record.parent for record in before) == (name == "hyperband")
    # Versions up to 0.2 padded the numbers if tuner.max_trials was above 9.
    padded = [
        dataclasses.replace(r, trial=r.trial.zfill(pad), parent=r.parent.zfill(pad) if r.parent else "") for r in before
    ]
    write_trials(tmp_path / "trials.csv", padded)
    read = read_trials(tmp_path / "trials.csv")
    assert read == before
    more = oracle(*overrides, "tuner.max_trials=12")
    replay(more, read, "tuner0", "j")
    uninterrupted = propose(oracle(*overrides, "tuner.max_trials=12"), 20)
    assert uninterrupted[:9] == before
    assert propose(more, 20) == uninterrupted[9:]
    assert len(uninterrupted) > 9
    assert [record.trial for record in uninterrupted] == [str(number) for number in range(len(uninterrupted))]


OTHER = r"job j: cannot resume .*trial=. has .*dropout=.* now proposed: .*study=NAME"
CHANGES = dict.fromkeys(("seed=5", "space.l2.low=1e-5", "~space.l2", "tuner=grid"), OTHER)
CHANGES["tuner.max_trials=3"] = r"job j: it has 4 finished trials.*set tuner.max_trials to at least 4"


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_search_or_fewer_trials_than_finished_are_refused(oracle, change):
    records = propose(oracle("tuner.max_trials=4"), 4)
    with pytest.raises(UserError, match=CHANGES[change]):
        replay(oracle("tuner.max_trials=4", change), records, "tuner0", "j")


def test_promoted_trials_must_have_the_same_parents(oracle):
    records = propose(oracle(*TUNERS["hyperband"]), 20)
    assert any(record.parent for record in records)
    changed = [dataclasses.replace(record, parent="") for record in records]
    with pytest.raises(UserError, match="job j: cannot resume"):
        replay(oracle(*TUNERS["hyperband"]), changed, "tuner0", "j")


def test_a_search_resumes_despite_rounding_differences_in_proposals(oracle):
    uninterrupted = propose(oracle(*TUNERS["bayesian"]), 5)
    rounded = []
    for one in uninterrupted:
        values = {n: v * (1 + 1e-6) if isinstance(v, float) else v for n, v in one.hyperparameters.items()}
        rounded.append(dataclasses.replace(one, hyperparameters=values))
    assert rounded != uninterrupted
    again = oracle(*TUNERS["bayesian"])
    replay(again, rounded, "tuner0", "job")
    proposed = [searched_values(trial.hyperparameters.values) for trial in again.trials.values()]
    assert proposed == [one.hyperparameters for one in rounded]
