"""Coverage of 95% confidence intervals: samples of real predictions, of which the true score is known.

python benchmarks/intervals.py                       # about 20 minutes on one core
python benchmarks/intervals.py train.zip WEIGHTS     # first makes the predictions again, in 20 minutes on two cores

The out-of-fold predictions of three models for 10,000 photographs are the populations. Samples are taken from them with
replacement. An interval covers if it contains the score of the population. WEIGHTS is the folder of the weights without
top of MobileNetV2 (1.0 and 0.35) and EfficientNet-Lite0. Prints a table in Markdown and writes
benchmarks/results/intervals.json; the predictions are in benchmarks/results/interval_predictions.npz.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.base.files import write_json
from catsdogs.network.efficientnet_lite import efficientnet_lite0
from catsdogs.scoring.classes import DEFAULT
from catsdogs.scoring.intervals import mean_intervals, resamples
from catsdogs.scoring.scores import clip, score_images, scores

RESULTS = Path(__file__).parent / "results" / "intervals.json"
PREDICTIONS = RESULTS.with_name("interval_predictions.npz")

SIZES = (100, 400, 2000, 10000)
PAIRS = (("medium", "similar"), ("medium", "large"), ("small", "large"))
REPETITIONS = 4000
ROC_REPETITIONS = 2000

Ends = dict[str, np.ndarray]  # (R, 2) lower and upper ends of R samples, by method


def mean_ends(values: np.ndarray) -> Ends:
    """Return intervals of the mean of each row of (R, N) values by several methods."""
    size, means = values.shape[1], values.mean(axis=1, keepdims=True)
    deviation = np.maximum(values.std(axis=1, keepdims=True), 1e-12)
    standardized = ((values - means) / deviation).astype(np.float32)
    parts = [
        (standardized @ counts.T / size, standardized**2 @ counts.T / size)
        for counts in (batch.astype(np.float32) for batch in resamples(size))
    ]
    resampled, squares = (np.hstack(part).astype(np.float64) for part in zip(*parts, strict=True))
    t = resampled / np.sqrt(np.maximum(squares - resampled**2, 1e-9))
    percentile, studentized = (np.quantile(one, [0.025, 0.975], axis=1).T for one in (resampled, t))
    own = mean_intervals(values)
    return {
        "percentile bootstrap": means + deviation * percentile,
        "BCa bootstrap": means + deviation * bca_ends(standardized, resampled),
        "studentized bootstrap": means - deviation * studentized[:, ::-1],
        "normal": means + deviation * np.array([-1.96, 1.96]) / np.sqrt(size - 1),
        "catsdogs": np.array([(one.low, one.high) for one in own]),
    }


def bca_ends(standardized: np.ndarray, resampled: np.ndarray) -> np.ndarray:
    """Return (R, 2) BCa intervals of the means of standardized rows; equal to method="BCa" of scipy.stats.bootstrap."""
    bias = norm.ppf(np.clip((resampled < 0).mean(axis=1), 0.0005, 0.9995))
    acceleration = (standardized.astype(np.float64) ** 3).mean(axis=1) / (6 * np.sqrt(standardized.shape[1]))
    ordered, ends = np.sort(resampled, axis=1), []
    for quantile in norm.ppf([0.025, 0.975]):
        shares = norm.cdf(bias + (bias + quantile) / (1 - acceleration * (bias + quantile)))
        ends.append(ordered[np.arange(len(ordered)), (shares * (ordered.shape[1] - 1)).round().astype(int)])
    return np.stack(ends, axis=1)


def coverage(truth: float, samples: Iterator[np.ndarray], ends: Callable[[np.ndarray], Ends]) -> dict[str, Any]:
    """Return coverage, misses on either side in percent, and mean width, by method."""
    batches = [ends(sample) for sample in samples]
    table: dict[str, Any] = {}
    for method in batches[0]:
        low, high = np.concatenate([batch[method] for batch in batches]).T
        # Rounding of a constant sample is no miss.
        below, above = (100 * float(miss.mean()) for miss in (truth < low - 1e-12, truth > high + 1e-12))
        numbers = {"covered": 100 - below - above, "true_below": below, "true_above": above}
        numbers["width"] = float((high - low).mean())
        table[method] = {name: float(f"{number:.4g}") for name, number in numbers.items()}
    return table


def sampled(population: np.ndarray, size: int, repetitions: int) -> Iterator[np.ndarray]:
    """Yield batches of samples (R, size, ...) of the rows of a population."""
    rng, batch = np.random.default_rng(size), max(1, 4_000_000 // size)
    for start in range(0, repetitions, batch):
        yield population[rng.integers(0, len(population), (min(batch, repetitions - start), size))]


def roc_ends(samples: np.ndarray) -> Ends:
    """Return intervals of the ROC AUC of (R, N, 2) labels and probabilities of dog."""
    areas = [scores(sample[:, 0], DEFAULT.from_output(sample[:, 1:]))["roc_auc"] for sample in samples]
    return {"catsdogs": np.array([(area.low, area.high) for area in areas if area.low is not None])}


def simulate(labels: np.ndarray, models: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return a row per score and size of the samples."""
    losses, wrong = {}, {}
    for name, p_dog in models.items():
        losses[name], wrong[name] = score_images(labels, DEFAULT.from_output(p_dog[:, None]))
    means = [(f"log loss, {name} model", losses[name], wrong[name]) for name in ("small", "medium", "large")]
    means += [(f"{one} minus {other}", losses[one] - losses[other], wrong[one] | wrong[other]) for one, other in PAIRS]
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        for name, values, errors in means:
            result = coverage(float(values.mean()), sampled(values, size, REPETITIONS), mean_ends)
            rows.append({"score": name, "images": size, "errors": size * float(errors.mean()), "methods": result})
            print_row(rows[-1])
        for name in ("small", "medium", "large"):
            population = np.stack([labels, models[name]], axis=1)
            truth = scores(labels, DEFAULT.from_output(models[name][:, None]))["roc_auc"].value
            result = coverage(truth, sampled(population, size, ROC_REPETITIONS), roc_ends)
            count = size * float(wrong[name].mean())
            rows.append({"score": f"ROC AUC, {name} model", "images": size, "errors": count, "methods": result})
            print_row(rows[-1])
    return rows


def print_row(row: dict[str, Any]) -> None:
    """Print covered (true below, true above) in percent, by method."""
    cells = [f"{m['covered']:.1f} ({m['true_below']:.1f}, {m['true_above']:.1f})" for m in row["methods"].values()]
    print(f"| {row['score']} | {row['images']:,} | {row['errors']:.0f} | {' | '.join(cells)} |", flush=True)


def make_predictions(train: Path, weights: Path) -> None:
    """Write out-of-fold predictions of logistic regressions on the outputs of frozen backbones for `train.zip`."""
    networks = [(pretrained(weights, alpha, size), size) for alpha, size in ((0.35, 48), (1.0, 224))]
    networks.append((lite0(weights), 224))
    with zipfile.ZipFile(train) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        parts: list[list[np.ndarray]] = [[] for _ in networks]
        for start in range(0, len(names), 64):
            data = [np.frombuffer(archive.read(name), np.uint8) for name in names[start : start + 64]]
            images = [cv2.cvtColor(cv2.imdecode(one, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for one in data]
            for part, (network, size) in zip(parts, networks, strict=True):
                pixels = np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA) for one in images])
                part.append(network.predict_on_batch(pixels.astype(np.float32)))
    labels = np.array(["dog." in name for name in names]).astype(np.int8)
    poor, good, other = (np.concatenate(part) for part in parts)
    # Features, inverse strength of the regularization, training images per fold, folds.
    probes = {
        "small": (poor, 1e-3, None, 5),
        "medium": (good, 0.3, 150, 5),
        "similar": (good, 0.03, 150, 5),
        "large": (np.hstack([good, other]), 3e-3, None, 8),
    }
    logits = {name: out_of_fold(labels, *probe).round(2).astype(np.float32) for name, probe in probes.items()}
    np.savez_compressed(PREDICTIONS, allow_pickle=False, labels=labels, **logits)


def out_of_fold(labels: np.ndarray, features: np.ndarray, c: float, images: int | None, folds: int) -> np.ndarray:
    """Return (N,) logits, each of a regression that was not trained on the image."""
    logits = np.zeros(len(labels))
    for train, rest in StratifiedKFold(folds, shuffle=True, random_state=0).split(features, labels):
        chosen = train if images is None else np.random.default_rng(0).permutation(train)[:images]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300))
        model.fit(features[chosen], labels[chosen])
        logits[rest] = logit(clip(model.predict_proba(features[rest])[:, 1]))
    return logits


def pretrained(weights: Path, alpha: float, size: int) -> keras.Model:
    """Return MobileNetV2 from pixels 0..255 to features."""
    settings = {"include_top": False, "weights": None, "pooling": "avg"}
    network = keras.applications.MobileNetV2(alpha=alpha, input_shape=(size, size, 3), **settings)
    network.load_weights(weights / f"mobilenet_v2_{alpha}_224_no_top.weights.h5")
    return keras.Sequential([keras.layers.Rescaling(1 / 127.5, -1.0), network])


def lite0(weights: Path) -> keras.Model:
    """Return EfficientNet-Lite0 from pixels 0..255 to features."""
    network = efficientnet_lite0()
    network.load_weights(weights / "efficientnet_lite0_224_no_top.weights.h5")
    return keras.Sequential([network, keras.layers.GlobalAveragePooling2D()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("make", nargs="*", type=Path, metavar="train.zip WEIGHTS")
    if make := parser.parse_args().make:
        make_predictions(*make)
    with np.load(PREDICTIONS) as stored:
        models = {name: expit(stored[name].astype(np.float64)) for name in stored.files if name != "labels"}
        labels = stored["labels"].astype(np.float64)
    rows = simulate(labels, models)
    write_json(RESULTS, {"repetitions": REPETITIONS, "roc_repetitions": ROC_REPETITIONS, "rows": rows})


if __name__ == "__main__":
    main()
