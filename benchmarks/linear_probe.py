"""Thirty lines of scikit-learn to compare with: logistic regression on the pooled activations of a frozen backbone.

python benchmarks/linear_probe.py PROBE.csv data.train=train.zip split.holdout_fraction=0.2 [KEY=VALUE ...]
python benchmarks/linear_probe.py PROBE.csv data.train=train.zip split.folds=5 --compare best/predictions.csv ...

Settings are those of `search`, so the images, the split and the backbone are those of a study with the same settings.
The regression is scored on the holdout if there is one, otherwise out of fold (with one fold, on the validation
images). Its strength is chosen by five stratified folds of its training images. Prints the log loss with its 95%
confidence interval, and writes id, label and a column per output. --compare also prints the log loss of a table with
these columns, such as `best/predictions.csv` or the `validation.csv` of a job, and the paired difference of the first
table to each of the others and to the probe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.base.files import write_csv
from catsdogs.config.compose import to_search_config
from catsdogs.config.locations import conf_dir
from catsdogs.config.schema import SearchConfig
from catsdogs.data.dataset import Dataset, load_dataset
from catsdogs.data.fitting import fit_to_data
from catsdogs.data.images import pixels
from catsdogs.features.engine import build_engine
from catsdogs.launching.registration import register
from catsdogs.network.backbones import build_backbone
from catsdogs.network.cut import find_cut, prefix
from catsdogs.scoring.classes import STEPS, Classes
from catsdogs.scoring.intervals import Estimate, ImageScores, paired_intervals
from catsdogs.scoring.scores import log_loss_interval, score_images

STRENGTHS = np.logspace(-4, 1, 11)  # inverse strength of the regularization
BATCH = 256


def activations(config: SearchConfig, dataset: Dataset) -> np.ndarray:
    """Return the pooled activations of all images, float32 (N, C)."""
    images = pixels(dataset.rows, dataset.root, config.backbone.image_size, Path(config.cache), config.backbone.resize)
    network = build_backbone(config.backbone)
    engine = build_engine(prefix(network, config.backbone.preprocessing, [find_cut(network, 0)]))
    return np.concatenate([engine(images[start : start + BATCH])[0] for start in range(0, len(images), BATCH)])


def fit_and_predict(features: np.ndarray, labels: np.ndarray, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the probabilities (R, K) of `rows` by a regression that is fitted on the rows `train`."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring="neg_log_loss", cv=folds)
    search.fit(features[train], labels[train])
    strength = search.best_params_["logisticregression__C"]
    print(f"{len(train)} training images, C={strength:.1e}, {len(rows)} images to score", flush=True)
    return search.predict_proba(features[rows]).astype(np.float64)


def out_of_sample(features: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are scored (R,), and their probabilities (R, K)."""
    labels, holdout = dataset.rows["label"].to_numpy(int), dataset.holdout_rows
    if len(holdout):
        return holdout, fit_and_predict(features, labels, np.setdiff1d(np.arange(len(labels)), holdout), holdout)
    folds = dataset.folds()
    parts = [fit_and_predict(features, labels, fold.train_rows, fold.validation_rows) for fold in folds]
    return np.concatenate([fold.validation_rows for fold in folds]), np.concatenate(parts)


def final_probabilities(path: Path, ids: pd.Series, classes: Classes) -> np.ndarray:
    """Return the probabilities (R, K) of these images in a table: those of the last step that was computed."""
    table = pd.read_csv(path, dtype={"id": str})
    table = table[table["label"].notna() & (table.get("split") != "test")].set_index("id").loc[ids]
    steps = [step for step in STEPS if set(classes.columns(step)) <= set(table.columns)]
    return next(p for p in (classes.read(table, step) for step in reversed(steps)) if not np.isnan(p).any())


def described(estimate: Estimate) -> str:
    """Return an estimate with its interval."""
    return f"{estimate.value:.4f} (95% CI {estimate.low:.4f} to {estimate.high:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probe", type=Path, metavar="PROBE.csv")
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE")
    parser.add_argument("--compare", type=Path, action="append", default=[], metavar="TABLE.csv")
    options = parser.parse_args()
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = to_search_config(compose("search", overrides=["study=probe", *options.overrides]))
    dataset = load_dataset(config.data, Path(config.cache), config.split)
    config, _ = fit_to_data(config, dataset)
    classes = dataset.classes
    rows, p = out_of_sample(activations(config, dataset), dataset)
    table = dataset.rows.iloc[rows][["id", "label"]].astype({"label": int}).assign(**classes.to_columns(p))
    write_csv(options.probe, table)
    labels = table["label"].to_numpy()
    tables = [(str(path), final_probabilities(path, table["id"], classes)) for path in options.compare]
    first = ImageScores(*(part[None] for part in score_images(labels, tables[0][1] if tables else p)))
    for number, (name, probabilities) in enumerate([*tables, ("probe", p)]):
        line = f"{name}: log loss {described(log_loss_interval(labels, probabilities))}, {len(labels)} images"
        (difference,) = paired_intervals(first, score_images(labels, probabilities))
        print(f"{line}; first minus this {described(difference)}" if number else line)


if __name__ == "__main__":
    main()
