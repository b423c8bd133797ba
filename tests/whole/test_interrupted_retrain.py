"""A `retrain` that is interrupted, and continues after the members that it has trained."""

import pandas as pd
import pytest
from final_study import FLIP, NONE, Study

from catsdogs.final import members
from catsdogs.training import execution as training


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("interrupted"), config)
    study.search(FLIP, "select.top_k=1")
    return study


def _corrupt(kept):
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("between", "trainings"),
    [
        (lambda kept: None, 1),
        (lambda kept: _corrupt(next(kept.glob("*/*.bin"))), 2),
        (lambda kept: next(kept.glob("*/*.json")).write_text("{}"), 2),
        (lambda kept: next(kept.glob("*/*.bin")).parent.rename(kept / "other"), 2),
    ],
    ids=["kept", "corrupted values", "corrupted record", "other settings"],
)
def test_an_interrupted_retrain_continues_after_its_trained_members(study, monkeypatch, caplog, between, trainings):
    def retrained(interrupt=None, tta=FLIP):
        runs: list[int] = []

        def counted(config, records, data, models, run, listener):
            if len(runs) == interrupt:
                raise KeyboardInterrupt
            runs.append(run)
            return training.execute(config, records, data, models, run, listener)

        monkeypatch.setattr(members, "execute", counted)
        metrics, predictions, best = study.retrain(kind="folds", tta=tta)
        history = pd.read_csv(best / "history.csv").drop(columns="seconds")
        return len(runs), {**metrics, "seconds": None}, predictions, history

    _, metrics, predictions, history = retrained()
    kept, files = study.folder / ".retrain" / "kept", {file.name for file in study.folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        retrained(interrupt=1, tta=NONE)
    assert {file.name for file in study.folder.iterdir()} == files
    between(kept)
    runs, again, *tables = retrained()
    assert (runs, again) == (trainings, metrics)
    pd.testing.assert_frame_equal(tables[0], predictions)
    pd.testing.assert_frame_equal(tables[1], history)
    assert not kept.exists()
    assert caplog.text.count("already trained") + caplog.text.count("training this model again") <= 1
