"""A `retrain` that is interrupted, and continues after the members that it has trained."""

import pandas as pd
import pytest
from final_study import FLIP, Study

from catsdogs.final import members
from catsdogs.training import execution as training


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("interrupted"), config)
    study.search(FLIP, "select.top_k=1")
    return study


@pytest.mark.parametrize(
    ("change", "trainings"),
    [
        (lambda values: None, 1),
        (lambda values: values.write_bytes(values.read_bytes()[:-1] + bytes([values.read_bytes()[-1] ^ 1])), 2),
        (lambda values: values.write_bytes(b""), 2),
        (lambda values: values.with_suffix(".json").write_text("{}"), 2),
        (lambda values: values.parent.rename(values.parents[1] / "other"), 2),
    ],
    ids=["kept", "corrupted values", "no values", "corrupted record", "other settings"],
)
def test_an_interrupted_retrain_continues_after_its_trained_members(study, monkeypatch, change, trainings):
    def retrained(interrupt=None):
        runs: list[int] = []

        def counted(config, records, data, models, run, listener):
            if len(runs) == interrupt:
                raise KeyboardInterrupt
            runs.append(run)
            return training.execute(config, records, data, models, run, listener)

        monkeypatch.setattr(members, "execute", counted)
        metrics, predictions, best = study.retrain(kind="folds", tta=FLIP)
        history = pd.read_csv(best / "history.csv").drop(columns="seconds")
        return len(runs), {**metrics, "seconds": None}, predictions, history

    _, metrics, *tables = retrained()
    files = set(study.folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        retrained(interrupt=1)
    assert set(study.folder.iterdir()) == files
    kept = study.folder / ".retrain" / "kept"
    change(next(kept.glob("*/*.bin")))
    runs, again, *others = retrained()
    assert (runs, again) == (trainings, metrics)
    for table, other in zip(tables, others, strict=True):
        pd.testing.assert_frame_equal(other, table)
    assert not kept.exists()
