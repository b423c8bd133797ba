"""Plain side of the benchmark: the same search with only Keras Tuner and tf.data.

python benchmarks/plain_search.py SETTINGS.json

`benchmarks/search.py` writes the settings (the fields of `plain_input.Settings`) and reads `output`. Both sides must
train on the same images, so they share decoded pixels, image order and, unless `augmentation_source` is "layers", the
augmentation function. Everything else is Keras, Keras Tuner and tf.data.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from plain_input import Images, Settings

_TRIAL_STEPS = 20  # for comparing the input pipelines


def build_model(settings: Settings, values: dict[str, Any], total_steps: int, seed: int) -> keras.Model:
    """Build and compile MobileNetV2 with its last `unfreeze_depth` layers unfrozen and a new classifier.

    Args:
        seed: seed of the classifier's initial weights and dropout.
    """
    size = settings.image_size
    backbone = keras.applications.MobileNetV2(input_shape=(size, size, 3), include_top=False, weights=None)
    backbone.load_weights(settings.weights)
    backbone.trainable = True
    first_trained = len(backbone.layers) - values["unfreeze_depth"]
    for position, layer in enumerate(backbone.layers):
        batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = position >= first_trained and not batch_norm

    keras.utils.set_random_seed(seed)
    images = keras.Input((size, size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = backbone(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.BatchNormalization(momentum=settings.head_batch_norm_momentum)(x)
    l2 = keras.regularizers.L2(values["l2"])
    x = keras.layers.Dense(settings.dense_units, activation="relu", kernel_regularizer=l2)(x)
    x = keras.layers.Dropout(values["dropout"])(x)
    x = keras.layers.Dense(1, activation="sigmoid", kernel_regularizer=l2)(x)
    model = keras.Model(images, x)
    schedule = keras.optimizers.schedules.CosineDecay(settings.peak_lr, total_steps, alpha=settings.final_fraction)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.BinaryCrossentropy(label_smoothing=settings.label_smoothing),
        metrics=[keras.metrics.MeanMetricWrapper(log_loss, name="log_loss"), keras.metrics.BinaryAccuracy("accuracy")],
        jit_compile=False,  # "auto" uses XLA, which is several times slower on a CPU
    )
    return model


def log_loss(labels: Any, p_dog: Any) -> Any:
    """Return the binary cross-entropy (B,) with unsmoothed labels, clipped like in catsdogs."""
    p_label = labels * p_dog + (1 - labels) * (1 - p_dog)
    return -keras.ops.log(keras.ops.maximum(p_label[:, 0], 1e-7))


class PlainHyperModel(keras_tuner.HyperModel):
    """Builds and fits a trial; `measured` contains times and losses by trial id."""

    def __init__(self, settings: Settings, images: Images) -> None:
        super().__init__()
        self._settings = settings
        self._images = images
        self.trial: str | None = None
        self.measured: dict[str, dict[str, Any]] = {}

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        started = time.monotonic()
        values = {
            "unfreeze_depth": hp.Choice("unfreeze_depth", [0, 10, 30]),
            "dropout": hp.Float("dropout", 0.1, 0.5, step=0.1),
            "l2": hp.Float("l2", 1e-6, 1e-3, sampling="log"),
        }
        total_steps = self._images.steps * self._settings.epochs
        model = build_model(self._settings, values, total_steps, self._trial_seed())
        if self.trial is not None:
            self.measured[self.trial] = {"build_seconds": time.monotonic() - started}
        return model

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, **kwargs: Any) -> Any:
        times = EpochTimes()
        kwargs |= {"callbacks": [*kwargs.get("callbacks", []), times], "verbose": 2}
        history = model.fit(
            self._images.training(self._trial_seed()),
            validation_data=self._images.validation(),
            steps_per_epoch=self._images.steps,
            epochs=self._settings.epochs_run,
            **kwargs,
        )
        self.measured[str(self.trial)] |= {
            "epoch_seconds": times.seconds,
            "val_log_loss": [float(value) for value in history.history["val_log_loss"]],
        }
        return history

    def _trial_seed(self) -> int:
        """Return the seed that catsdogs uses for the first execution of the trial."""
        sequence = np.random.SeedSequence([self._settings.seed, int(self.trial or 0), 0])
        return int(sequence.generate_state(1)[0] >> 1)


class EpochTimes(keras.callbacks.Callback):
    """Wall time of every epoch, including validation and earlier callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.monotonic() - self._started)


class PlainSearch(keras_tuner.RandomSearch):
    """Random search that passes the trial id to its hypermodel and can skip repeated depths."""

    def __init__(self, settings: Settings, hypermodel: PlainHyperModel) -> None:
        self._settings = settings
        self._depths: set[int] = set()
        self.proposed: list[dict[str, Any]] = []
        super().__init__(
            hypermodel,
            objective=keras_tuner.Objective("val_log_loss", "min"),
            max_trials=settings.trials,
            seed=settings.seed + 1,  # 0 would be a random seed
            directory=settings.folder,
            project_name="plain",
            max_consecutive_failed_trials=1,  # a failed trial would look like a skipped one
            overwrite=True,
        )

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        values = dict(trial.hyperparameters.values)
        record: dict[str, Any] = {"trial": trial.trial_id, "hyperparameters": values, "trained": False}
        self.proposed.append(record)
        if values["unfreeze_depth"] in self._depths and not self._settings.all_trials:
            return {"val_log_loss": 1.0}  # random search ignores scores
        self._depths.add(values["unfreeze_depth"])
        started = time.monotonic()
        self.hypermodel.trial = trial.trial_id
        keras.backend.clear_session()
        results = super().run_trial(trial, *args, **kwargs)
        record |= {"trained": True, "seconds": time.monotonic() - started, **self.hypermodel.measured[trial.trial_id]}
        return results


def search(settings: Settings) -> dict[str, Any]:
    """Run the search and return its trials in the order of their proposal."""
    tuner = PlainSearch(settings, PlainHyperModel(settings, Images(settings)))
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_log_loss", mode="min", patience=settings.patience, restore_best_weights=True
    )
    tuner.search(callbacks=[stopping], verbose=0)
    return {"trials": tuner.proposed}


def faster_input(settings: Settings) -> dict[str, Any]:
    """Train a few steps at depth 0, where input takes the largest share, with and without autotune, twice each.

    Returns:
        `autotune`, True if it is faster, and `seconds_per_batch` of both, the better of two runs.
    """
    pipelines = {name: Images(settings, autotune=name == "autotune") for name in ("autotune", "fixed")}
    steps = min(_TRIAL_STEPS, pipelines["fixed"].steps * settings.epochs)
    model = build_model(settings, {"unfreeze_depth": 0, "dropout": 0.3, "l2": 1e-4}, steps, seed=0)
    model.fit(pipelines["fixed"].training(0), steps_per_epoch=min(3, steps), verbose=0)
    seconds: dict[str, float] = {}
    for name in ("autotune", "fixed", "fixed", "autotune"):
        batches = pipelines[name].training(0)
        started = time.monotonic()
        model.fit(batches, steps_per_epoch=steps, verbose=0)
        seconds[name] = min((time.monotonic() - started) / steps, seconds.get(name, float("inf")))
    return {"autotune": seconds["autotune"] <= seconds["fixed"], "seconds_per_batch": seconds}


def main(path: Path) -> None:
    settings = Settings(**json.loads(path.read_text(encoding="utf-8")))
    results = search(settings) if settings.task == "search" else faster_input(settings)
    Path(settings.output).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
