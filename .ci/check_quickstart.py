"""Check the output of the quick start: `python .ci/check_quickstart.py multirun/quickstart CACHE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss

study, cache = Path(sys.argv[1]), Path(sys.argv[2])


def expect(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"the quick start went wrong: {what}")


board = pd.read_csv(study / "leaderboard.csv")
expect(list(board["status"]) == ["ok"] * 4, f"jobs ended as {list(board['status'])}")
expect(bool(board["trials_completed"].eq(3).all()), "not every trial completed")
best = board["val_log_loss"].min()
# Chance is 0.693. The drawn images are made to be learnt clearly better than that, and short of perfectly.
expect(bool(0.02 < best < 0.55), f"the best validation log loss is {best:.3f}")

metrics = json.loads((study / "best" / "metrics.json").read_text())
expect(abs(metrics["log_loss"] - best) < 1e-3, f"retrained to {metrics['log_loss']:.4f}, selected at {best:.4f}")

submission = pd.read_csv(study / "best" / "submission.csv")
expect(list(submission["id"]) == list(range(1, 101)), "the submission's ids are not 1 to 100 in order")
expect(bool(submission["label"].between(0, 1, inclusive="neither").all()), "a probability is not inside (0, 1)")
truth = pd.read_csv(next((cache / "sample").glob("*/test_labels.csv"))).set_index("id")["label"]
scored = log_loss(truth.loc[submission["id"]], submission["label"])
expect(scored < 0.6, f"the submission scores {scored:.3f} on the labels that training never saw")
for name in ("model.keras", "predictions.csv", "MODEL_CARD.md"):
    expect((study / "best" / name).stat().st_size > 0, f"{name} is missing or empty")
expect(bool(np.isfinite(metrics["log_loss_tta"])), "no TTA score")
print(f"quick start: best validation log loss {best:.4f}, submission {scored:.4f} on the hidden labels")
