"""Copy the files of a finished study that the report reads, for tests that they stay readable.

python tests/golden/studies/make.py STUDY tests/golden/studies/VERSION

Each folder next to this file is named after the version of catsdogs that ran

python -m catsdogs.search -m experiment=quickstart && python -m catsdogs.retrain study=quickstart

Add a folder for every version that writes other files or another format, and keep the existing folders unchanged. The
copy has no models, no files of Keras Tuner and no training images in `split.csv`; absolute paths become `/data/...`.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd

STUDY_FILES = ("study.json", "leaderboard.csv")
JOB_FILES = ("result.json", "trials.csv", "history.csv", "validation.csv", "split.csv")
FINAL_FILES = ("metrics.json", "recipe.json", "history.csv", "predictions.csv", "submission.csv")

_ABSOLUTE = re.compile(r'(?:(?<=\\n)|(?<![\w.]))/(?:[^/\s=,:"]+/)+')  # in JSON, where a new line is \n


def make(study: Path, golden: Path) -> None:
    """Write the copy, and replace an existing one."""
    shutil.rmtree(golden, ignore_errors=True)
    folders = {study: STUDY_FILES, study / "best": FINAL_FILES}
    folders |= {file.parent: JOB_FILES for file in sorted(study.glob("*/result.json"))}
    for folder, names in folders.items():
        for name in names:
            source, target = folder / name, golden / folder.relative_to(study) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == "split.csv":
                rows = pd.read_csv(source, dtype=str, keep_default_na=False)
                rows[rows["split"] == "validation"].to_csv(target, index=False, lineterminator="\n")
            elif name.endswith(".json"):
                text = json.dumps(json.loads(source.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
                target.write_text(_ABSOLUTE.sub("/data/", text) + "\n", encoding="utf-8")
            else:
                shutil.copyfile(source, target)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
