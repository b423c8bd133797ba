"""Check the output of the quick start: `python .ci/check_quickstart.py multirun/quickstart CACHE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss

study, cache = Path(sys.argv[1]), Path(sys.argv[2])


def expect(holds: bool, problem: str) -> None:
    if not holds:
        sys.exit(f"{study}: {problem}")


board = pd.read_csv(study / "leaderboard.csv")
expect(list(board["status"]) == ["ok"] * 4, f"status of the jobs: {list(board['status'])}, expected four times ok")
expect(bool(board["trials_completed"].eq(3).all()), "leaderboard.csv: trials_completed must be 3 for every job")
best = board["val_log_loss"].min()
# Chance is 0.693. The synthetic images can be learned much better than that, but not perfectly.
expect(bool(0.02 < best < 0.55), f"best validation log loss {best:.3f}, expected 0.02 to 0.55")

metrics = json.loads((study / "best" / "metrics.json").read_text())
expect(abs(metrics["log_loss"] - best) < 1e-3, f"log loss {metrics['log_loss']:.4f} after retrain, {best:.4f} before")

submission = pd.read_csv(study / "best" / "submission.csv")
expect(list(submission["id"]) == list(range(1, 101)), "submission.csv: ids are not 1 to 100 in order")
expect(bool(submission["label"].between(0, 1, inclusive="neither").all()), "submission.csv: probability not in (0, 1)")
truth = pd.read_csv(next((cache / "sample").glob("*/test_labels.csv"))).set_index("id")["label"]
scored = log_loss(truth.loc[submission["id"]], submission["label"])
expect(scored < 0.6, f"log loss of the submission {scored:.3f}, expected less than 0.6")
for name in ("model.keras", "predictions.csv", "MODEL_CARD.md"):
    expect((study / "best" / name).stat().st_size > 0, f"{name} is missing or empty")
expect(metrics["tta_choice"]["tested"], "metrics.json: tta=auto was not tested")
expect(metrics["tta"]["kind"] == "none" or bool(np.isfinite(metrics["log_loss_tta"])), "metrics.json: log_loss_tta")
print(f"quick start: best validation log loss {best:.4f}, submission {scored:.4f}")
