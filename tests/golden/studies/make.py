"""A finished study -> a small copy of what the report reads of it, to be read for ever.

python tests/golden/studies/make.py STUDY tests/golden/studies/VERSION

The folders beside this file were made so, each by the version of catsdogs that it is named after, of

python -m catsdogs.search -m experiment=quickstart && python -m catsdogs.retrain study=quickstart

A version that writes other files, or writes them differently, gets a folder of its own; those that are here stay as
they are. Models and Keras Tuner's own files are left out, of `split.csv` the training images, and absolute paths become
`/data/...`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

OF_STUDY = ("study.json", "leaderboard.csv")
OF_JOB = ("result.json", "trials.csv", "history.csv", "validation.csv", "split.csv")
OF_FINAL = ("metrics.json", "recipe.json", "history.csv", "predictions.csv", "submission.csv")

_ABSOLUTE = re.compile(r"(?<![\w.])/(?:[^/\s=,:]+/)+")


def make(study: Path, golden: Path) -> None:
    """Write the copy; what was there goes."""
    shutil.rmtree(golden, ignore_errors=True)
    folders = {study: OF_STUDY, study / "best": OF_FINAL}
    folders |= {file.parent: OF_JOB for file in sorted(study.glob("*/result.json"))}
    for folder, names in folders.items():
        for name in names:
            source, target = folder / name, golden / folder.relative_to(study) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == "split.csv":
                rows = pd.read_csv(source, dtype=str, keep_default_na=False)
                rows[rows["split"] == "validation"].to_csv(target, index=False, lineterminator="\n")
            elif name.endswith(".json"):
                text = json.dumps(neutral(json.loads(source.read_text(encoding="utf-8"))), indent=1, ensure_ascii=False)
                target.write_text(text + "\n", encoding="utf-8")
            else:
                shutil.copyfile(source, target)


def neutral(value: Any) -> Any:
    """The same without the folders of a machine."""
    if isinstance(value, dict):
        return {key: neutral(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [neutral(inner) for inner in value]
    return _ABSOLUTE.sub("/data/", value) if isinstance(value, str) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("golden", type=Path)
    options = parser.parse_args()
    make(options.study, options.golden)
