"""Numbers, names and dates as text, for pages, terminal and model card."""

import datetime
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from catsdogs.base.text import counted, format_duration, listed, short_numbers
from catsdogs.scoring.intervals import FEW_ERRORS, Estimate, wilson_interval

MISSING = "–"


def number(thing: Any) -> float:
    """Return a finite float, or NaN for anything else."""
    try:
        converted = float(thing)
    except (TypeError, ValueError):
        return math.nan
    return converted if math.isfinite(converted) else math.nan


def loss(thing: Any) -> str:
    """Format a log loss or a difference of two: `0.0276`; below 0.001 with two significant digits."""
    parsed = number(thing)
    if math.isnan(parsed):
        return MISSING
    if parsed == 0 or abs(parsed) >= 0.001:
        return f"{parsed if parsed else 0:.4f}"
    return np.format_float_positional(parsed, precision=2, fractional=False, trim="-")


def signed(thing: Any) -> str:
    """Format a difference of two log losses with its sign: `+0.0041`."""
    return ("+" if number(thing) > 0 else "") + loss(thing)


def minus(text: str) -> str:
    """Replace the hyphen of negative numbers with a minus sign, for HTML."""
    return re.sub(r"(?<![^\s(])-(?=\d)", "−", text)


def percent(thing: Any, decimals: int = 1) -> str:
    """Format a share: `98.8%`."""
    share = number(thing)
    return MISSING if math.isnan(share) else f"{100 * share:.{decimals}f}%"


def probability(thing: Any) -> str:
    """Format a probability: `99.8%`; `0.0%` and `100.0%` only if exact."""
    parsed = number(thing)
    if 0 < parsed < 0.001:
        return "< 0.1%"
    return "> 99.9%" if 0.999 < parsed < 1 else percent(parsed)


def count(thing: Any) -> str:
    """Format an integer: `2,000`."""
    parsed = number(thing)
    return MISSING if math.isnan(parsed) else f"{parsed:,.0f}"


def value(thing: Any) -> str:
    """Format a hyperparameter or another single value; floats with 4 significant digits."""
    if thing is None or (isinstance(thing, float) and math.isnan(thing)):
        return MISSING
    if isinstance(thing, float):
        return str(int(thing)) if thing.is_integer() and abs(thing) < 1e15 else f"{thing:.4g}"
    return short_numbers(str(thing))


def breakable(text: Any) -> Markup:
    """Escape a name and allow line breaks after `-`, `_`, `/` and `,`."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_/,])", str(text)))


def time_spent(seconds: Any) -> str:
    """Format a duration: `12 min`."""
    parsed = number(seconds)
    return MISSING if math.isnan(parsed) else format_duration(parsed)


def day_and_time(when: datetime.datetime) -> str:
    """Format a time in UTC: `23 Nov 2026, 08:06 UTC`."""
    when = when.astimezone(datetime.UTC)
    return f"{when.day} {when:%b %Y, %H:%M} UTC"


def words(name: Any) -> str:
    """Replace underscores with spaces."""
    return str(name).replace("_", " ")


def cut_in_the_middle(text: str, longest: int) -> str:
    """Shorten a text to `longest` characters; its end is kept, because names of jobs often differ only there."""
    tail = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[: longest - 1 - tail]}…{text[len(text) - tail :]}"


def between(interval: Estimate | None, shown: Callable[[Any], str] = loss) -> str:
    """Format the ends of an interval: `0.0160 to 0.0454`, or an empty text without an interval."""
    return "" if interval is None or interval.low is None else f"{shown(interval.low)} to {shown(interval.high)}"


def accuracy_text(errors: int | None, images: int) -> str:
    """Format the accuracy with Wilson's interval: `98.85% (95% CI 98.28% to 99.23%)`."""
    if errors is None:
        return MISSING
    low, high = wilson_interval(images - errors, images)
    return f"{percent(1 - errors / images, 2)} (95% CI {percent(low, 2)} to {percent(high, 2)})"


def chosen_on_validation(several_jobs: bool, final: Mapping[str, Any]) -> list[str]:
    """List what the validation images chose in a search and for a final model (its `metrics.json`, or empty)."""
    ensemble = final.get("ensemble") or {}
    members, of_trials = ensemble.get("members") or [], ensemble.get("kind") == "trials"
    choices = {
        "epoch": True,
        "trial": True,
        "job": several_jobs,
        "test-time augmentation (kind and average)": (final.get("tta") or {}).get("chosen"),
        "calibration": final.get("calibration"),
        "threshold of the submission": (final.get("submission") or {}).get("chosen"),
        "combination of the jobs": len({str(member.get("job")) for member in members}) > 1 and not of_trials,
        "ensemble": of_trials,
    }
    return [name for name, chosen in choices.items() if chosen]


def few_errors(errors: Any, images: Any, by: str = "", most: Any = None) -> str:
    """Warn about the interval of a log loss if fewer than FEW_ERRORS images are misclassified, otherwise return ''."""
    if not number(errors) < FEW_ERRORS:
        return ""
    reason = f"with fewer than {FEW_ERRORS}, the confidence interval of the log loss may be too narrow"
    upper = f" to {count(most)}" if number(most) > number(errors) else ""
    return f"Misclassified{by}: {count(errors)}{upper} of {count(images)} images; {reason}."


def format_tta_choice(choice: Mapping[str, Any]) -> str:
    """Describe the kind that tta=auto took, with its reason, from `tta_choice` of `metrics.json`."""
    if not choice["tested"]:
        return f"tta=auto: {choice['kind']}, because {choice['reason']}."
    difference, low, high = (number(choice.get(name)) for name in ("value", "low", "high"))
    change, interval = _change(difference, low, high, "lower", "higher")
    tie = "" if difference >= 0 else ", a tie"
    kinds = "neither kind" if len(choice["kinds"]) == 2 else "no kind"
    averages = {"probability": "averaged as probabilities, ", "logit": "averaged as logits, "}
    average = averages.get(str(choice.get("average")), "")
    rows = f" ({average}best of the {choice['rows']} kinds and averages in tta.csv)" if choice.get("rows") else ""
    chosen = f"{choice['kind']} chosen on {count(choice['size'])} {choice['split']} images{rows}, log loss {change} by"
    than = f"than with {choice['against']}{tie}; these images also chose the trial, which favors {kinds}"
    return f"tta=auto: {chosen} {loss(abs(difference))}{interval} {than}."


def describe_model(metrics: Mapping[str, Any]) -> str:
    """Name the trial, or the trials of an ensemble, that the final model consists of."""
    trial, ensemble = f"trial={value(metrics.get('trial'))}", metrics.get("ensemble") or {}
    members = ensemble.get("members") or []
    if len(members) < 2 or ensemble.get("way") == "single":
        return f"{trial} of job {metrics.get('job')}"
    jobs = list(dict.fromkeys(str(member.get("job")) for member in members))
    trials = len({(member.get("job"), member.get("trial")) for member in members})
    which = f"the jobs {listed(jobs)}" if len(jobs) > 1 else f"job {jobs[0]}"
    if ensemble.get("kind") == "trials" and trials > 1:
        return f"ensemble of {trials} trials of {which}"
    return f"ensemble of {len(members)} models of {which if len(jobs) > 1 else f'{trial} of {which}'}"


def format_ensemble_gain(ensemble: Mapping[str, Any]) -> list[str]:
    """Compare an ensemble of trials with the best trial, in at most one sentence, from `ensemble` of `metrics.json`."""
    gain = ensemble.get("gain") or {}
    difference, low, high = (number(gain.get(name)) for name in ("value", "low", "high"))
    if math.isnan(difference) or gain.get("trials") == 1:
        return []
    where = f"on {count(gain.get('size'))} {gain.get('split')} images, in nested folds"
    if ensemble.get("method") == "single":
        return [f"Ensemble: no combination of {count(gain.get('trials'))} trials is better than the best one {where}."]
    change, interval = _change(difference, low, high, "lower", "higher")
    ours, alone = (number(ensemble.get(f"ms_per_image{end}")) for end in ("", "_single"))
    time = f"; it takes {ours:.3g} ms per image, one of its models {alone:.3g} ms"
    effect = f"log loss {change} by {loss(abs(difference))}{interval} than that of the best trial"
    return [f"Ensemble: {effect} {where}{time}."]


def format_gains(
    tta: Mapping[str, Any], calibration: Mapping[str, Any], choice: Mapping[str, Any] | None = None
) -> list[str]:
    """Describe how TTA and calibration change the log loss, one sentence per step and split, from `metrics.json`.

    `choice` is described in place of the gain on its images. `metrics.warnings` names the splits with few errors.
    """
    if choice and choice["tested"]:
        tta = {split: gain for split, gain in tta.items() if split != "validation"}
    fixes = ("", "") if choice else (", so retrain with tta=none", ", and tta=none is faster")
    steps = (("Test-time augmentation", tta, fixes), ("Calibration", calibration, ("", "")))
    gains = [
        _describe_gain(step, gain, fixes)
        for step, by_split, fixes in steps
        for gain in by_split.values()
        if isinstance(gain.get("size"), int) and (gain.get("reason") or not math.isnan(number(gain.get("value"))))
    ]
    return [format_tta_choice(choice), *gains] if choice else gains


def not_scored(images: int | None) -> list[str]:
    """Describe why labeled test images have no score, in at most one sentence."""
    which = "exact or near-duplicates of training, validation or holdout images, or in their groups"
    return [f"Not scored: {counted(images, 'labeled test image')}, {which}."] if images else []


def _change(difference: float, low: float, high: float, better: str, worse: str) -> tuple[str, str]:
    """Return the word for a gain or a loss, and its interval in that direction; "" without an interval."""
    low, high = (low, high) if difference >= 0 else (-high, -low)
    interval = "" if math.isnan(low) else f" (95% CI {loss(low)} to {loss(high)})"
    return better if difference >= 0 else worse, interval


def _describe_gain(step: str, gain: Mapping[str, Any], fixes: tuple[str, str]) -> str:
    difference, low, high = (number(gain.get(name)) for name in ("value", "low", "high"))
    images = f"{count(gain['size'])} {gain.get('split')} images"
    if gain.get("kept") is False:
        # Earlier versions recorded no reason, and a gain of 0 for too few images.
        earlier = f"{images} are too few" if difference == 0 else "it does not improve the cross-validated log loss"
        return f"{step} not applied: {gain.get('reason') or earlier}."
    significance = "significant" if low > 0 or high < 0 else "within noise"
    advice = fixes[0] if high < 0 else fixes[1] if difference < 0 else ""
    change, interval = _change(difference, low, high, "lowers", "raises")
    effect = f"{step} {change} the log loss by {loss(abs(difference))}{interval} on {images}"
    return f"{effect}; the difference is {significance}{advice}."
