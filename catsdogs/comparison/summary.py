"""Summary of a comparison: final model, best job, its lead, whether the lead is significant, and the next command."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import joined, listed, short_numbers
from catsdogs.comparison.choices import unlisted_differences
from catsdogs.comparison.final_models import FinalModel
from catsdogs.comparison.study_data import WAITING, StudyData, clean
from catsdogs.pages.formats import (
    accuracy_text,
    between,
    chosen_on_validation,
    counted,
    describe_model,
    few_errors,
    loss,
    percent,
    signed,
)
from catsdogs.scoring.intervals import FEW_ERRORS, Estimate, ImageScores, paired_intervals, share_lowest
from catsdogs.scoring.scores import log_loss_interval
from catsdogs.study.jobs import OK, RUNNING, State, best_job, chosen_trial
from catsdogs.study.plan import predict_command, retrain_command

# The interval of the margin is above 0, or includes 0; or predictions are equal, or no other job has a result.
SIGNIFICANT, WITHIN_NOISE, IDENTICAL, ONLY_JOB = "significant", "within noise", "identical", "only job"
UNKNOWN = "unknown"

_PREDICT = "Predict images (IMAGES: files, a folder or a zip)"

# A class with fewer validation images has uncertain scores.
FEW_IMAGES = 20

# Keras averages in float32 and batches; its log loss of the same predictions differs by less than this.
_SAME_LOG_LOSS = 1e-4


@dataclass(frozen=True)
class Summary:
    """Result of a comparison."""

    headline: str
    best: str | None = None  # label of the first job of the leaderboard; None if no trial has completed
    intervals: dict[str, Estimate] = field(default_factory=dict)  # log loss of every comparable job, best first
    log_loss: Estimate | None = None  # that of the best job; None if its predictions are missing
    runner_up: str | None = None  # label of the next job that was validated on the same images
    margin: Estimate | None = None  # log loss of the runner-up minus that of the best job, image by image
    significance: str = UNKNOWN  # of the margin
    share_best: dict[str, float] = field(default_factory=dict)  # share of resamples in which a job is the best
    final: FinalModel | None = None  # that of the study of the best job
    commands: dict[str, str] = field(default_factory=dict)  # what to do next: shell commands by title
    sentences: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)

    @property
    def command(self) -> str | None:
        """The next shell command: predicts with the final model, or trains it; None if that is not possible."""
        return next(iter(self.commands.values()), None)


def summarize(study_data: StudyData) -> Summary:
    """Return the best job of the leaderboard, and how strongly the validation images support this rank."""
    leaderboard = study_data.leaderboard
    ranked = leaderboard[leaderboard["val_log_loss"].notna()]
    if ranked.empty:
        yet = " yet" if leaderboard["status"].isin([RUNNING, WAITING]).any() else ""
        return Summary(f"No trial has completed{yet}.", caveats=_unfinished(study_data))
    first = ranked.iloc[0]
    best = str(first["label"])
    comparable = study_data.on_same_images()
    runner_up = str(comparable["label"].iloc[1]) if len(comparable) > 1 else None
    losses, errors = study_data.losses(), study_data.errors()
    tables = {label: study_data.predictions[label] for label in study_data.comparable()}
    intervals = {
        label: log_loss_interval(table["label"].to_numpy(), study_data.jobs[label].classes.read(table))
        for label, table in tables.items()
    }
    margins = _margins(best, losses, errors)
    margin = margins.get(str(runner_up))
    significance = _significance(margin, only_job=len(ranked) == 1)
    shares = share_lowest(losses.to_numpy().T).tolist() if len(losses) else []
    share_best = dict(zip(map(str, losses), shares, strict=False))
    retrain, no_command = _retrain(study_data, best)
    headline, log_loss = _headline(leaderboard, first, runner_up, margin, significance), intervals.get(best)
    commands = {"Train the final model": retrain} if retrain else {}
    sentences = [_score_sentence(first, log_loss, study_data.jobs[best].classes.names)]
    sentences += _margin_sentences(best, runner_up, margin, significance) + _rank_sentences(best, margins, share_best)
    caveats = _unfinished(study_data) + _not_compared(study_data, ranked, comparable)
    caveats += _ranking_caveats(study_data, losses, intervals) + _few_errors(intervals, best)
    caveats += _few_images(study_data, best) + no_command + _selection_caveats(study_data, comparable)
    final = study_data.final_models.get(first["study"])
    if final is not None:
        own, scores = _final_sentences(final, first), sentences[0].partition(": ")[2]
        # Weights that the trial left are the final model, with the same scores.
        rest = sentences[1:] if scores and any(scores in sentence for sentence in own) else sentences
        sentences = [*own, f"Search: {headline}", *rest]
        headline = _final_headline(final)
        replace = {} if _is_current(final, first) or not retrain else {"Replace the final model": retrain}
        commands = {_PREDICT: predict_command(study_data.jobs[best].folder.parent)} | replace
    compared = (runner_up, margin, significance, share_best)
    return Summary(headline, best, intervals, log_loss, *compared, final, commands, sentences, caveats)


def _final_headline(final: FinalModel) -> str:
    model = f"The final model is {short_numbers(describe_model(final.metrics))}"
    if (result := final.result()) is None:
        return f"{model}; it has no score."
    split, _, score = result
    accuracy = accuracy_text(score.errors, score.size).partition(" ")[0]
    return f"{model}: {split} log loss {loss(score.value)}, accuracy {accuracy}."


def _final_sentences(final: FinalModel, first: pd.Series) -> list[str]:
    """Return its score with the interval, and a warning if another trial ranks first (`first`: row of the best job)."""
    sentences = []
    if (result := final.result()) is not None:
        split, step, score = result
        sentences.append(_scored(f"{counted(score.size, f'{split} image')}{step}", score))
    if not _is_current(final, first):
        best = f"trial={first['best_trial']} of job {short_numbers(first['job'])}"
        sentences.append(f"The final model is not the winner of the search: {best} now ranks first.")
    return sentences


def _scored(images: str, score: Estimate) -> str:
    bounds = "" if score.low is None else f" (95% CI {between(score)})"
    scored = f"log loss {loss(score.value)}{bounds}, accuracy {accuracy_text(score.errors, score.size)}"
    return f"On {images}: {scored}. {few_errors(score.errors, score.size)}".rstrip()


def _is_current(final: FinalModel, first: pd.Series) -> bool:
    return bool(pd.isna(first["best_trial"]) or final.contains(first["job"], first["best_trial"]))


def _margins(best: str, losses: pd.DataFrame, errors: pd.DataFrame) -> dict[str, Estimate]:
    """Return by label how much higher the log loss of every other job is, image by image."""
    if best not in losses or losses.empty:
        return {}
    labels = [label for label in losses if label != best]
    others, own = (ImageScores(losses[name].to_numpy().T, errors[name].to_numpy(bool).T) for name in (labels, best))
    return dict(zip(map(str, labels), paired_intervals(others, own), strict=True))


def _significance(margin: Estimate | None, only_job: bool) -> str:
    if margin is None or margin.low is None:
        return ONLY_JOB if only_job else UNKNOWN
    if margin.value == margin.low == margin.high == 0:
        return IDENTICAL
    # Below 0, the predictions contradict the leaderboard.
    decided = SIGNIFICANT if margin.value > 0 else UNKNOWN
    return decided if margin.excludes_zero else WITHIN_NOISE


def _headline(
    leaderboard: pd.DataFrame, first: pd.Series, runner_up: str | None, margin: Estimate | None, significance: str
) -> str:
    so_far = "So far " if leaderboard["status"].isin([RUNNING, WAITING]).any() else ""
    best, score = so_far + first["label"], f"validation log loss {loss(first['val_log_loss'])}"
    lead = "" if margin is None else loss(margin.value)
    best, runner_up = short_numbers(best), short_numbers(runner_up or "")
    few = f", but with fewer than {FEW_ERRORS} errors" if margin and margin.few_errors else ""
    sure = f"statistically significant{few}"
    return {
        SIGNIFICANT: f"{best} is the best job: {score}, {lead} lower than {runner_up} ({sure}).",
        WITHIN_NOISE: f"{best} ranks first with {score}, but the difference from {runner_up} is within noise.",
        IDENTICAL: f"{best} and {runner_up} are tied, with identical predictions: {score}.",
        ONLY_JOB: f"{best} is the only job with a result: {score}.",
        UNKNOWN: f"{best} ranks first with {score}; it is unknown whether its lead is significant.",
    }[significance]


def _score_sentence(first: pd.Series, log_loss: Estimate | None, names: Sequence[str]) -> str:
    if log_loss is None:
        scored = "" if pd.isna(first["val_accuracy"]) else f", accuracy {percent(first['val_accuracy'], 2)}"
        recorded = f"log loss {loss(first['val_log_loss'])}{scored}"
        return f"The trial recorded {recorded}; its predictions are missing, so there is no confidence interval."
    return _scored(
        f"{counted(log_loss.size, 'validation image')} of {len(names)} classes ({listed(names, 3)})", log_loss
    )


def _margin_sentences(best: str, runner_up: str | None, margin: Estimate | None, significance: str) -> list[str]:
    if margin is None or significance == IDENTICAL:
        return []
    difference = f"the log loss of {runner_up} minus that of {best} is {signed(margin.value)}"
    if margin.low is None:
        return [f"On this single image, {difference}."]
    meaning = {
        SIGNIFICANT: "other images of the same kind are unlikely to reverse the order",
        WITHIN_NOISE: "the interval includes 0, so other images could reverse the order. More validation images or "
        "more seeds could separate the two jobs",
        UNKNOWN: "the predictions contradict the ranking",
    }[significance]
    few = few_errors(margin.errors, margin.size, " by either job")
    compared = f"Compared image by image, {difference} (95% CI {between(margin, signed)})"
    return [f"{compared}: {meaning}. {few}".rstrip()]


def _rank_sentences(best: str, margins: dict[str, Estimate], share_best: dict[str, float]) -> list[str]:
    """Compare the best job with all others if there are at least two others and two images."""
    if len(margins) < 2 or all(margin.low is None for margin in margins.values()):
        return []
    rank = f"{best} is the best of {len(share_best)} jobs in {percent(share_best[best])} of resamples of the images"
    worse = sum(margin.low is not None and margin.low > 0 for margin in margins.values())
    return [f"{rank}; {worse} of the {len(margins)} others {_are(worse)} significantly worse."]


def _unfinished(study_data: StudyData) -> list[str]:
    leaderboard = study_data.leaderboard
    killed, running, waiting, deleted, failed = (
        leaderboard[leaderboard["state"].isin(group)]
        for group in (["killed"], ["running"], ["waiting"], ["deleted"], [State.FAILED, State.INTERRUPTED])
    )
    early = [label for label, job in study_data.jobs.items() if job.status == OK and job.result.get("stopped")]
    stopped = leaderboard[leaderboard["label"].isin(early)]
    ranked = "; the trials that they completed are ranked" if failed["val_log_loss"].notna().any() else ""
    limit = "because timeout.study_seconds was reached; run the same command again to continue"
    sentences = [
        (running, f"{_jobs_are(running)} still running, so the ranking may change."),
        (killed, f"{_jobs(killed['label'])} stopped without reporting a result; run the same command again to resume."),
        (waiting, f"{_jobs_are(waiting)} waiting to start."),
        (deleted, f"The results of {_jobs(deleted['label'])} were deleted; run the same command again to repeat them."),
        (failed, f"{_jobs(failed['label'])} failed{ranked}."),
        (stopped, f"{_jobs(stopped['label'])} stopped early {limit}."),
    ]
    return [sentence for rows, sentence in sentences if len(rows)]


def _not_compared(study_data: StudyData, ranked: pd.DataFrame, comparable: pd.DataFrame) -> list[str]:
    sentences = []
    elsewhere = ranked[~ranked["label"].isin(comparable["label"])]
    if len(elsewhere):
        reason = "validated on other images or classes"
        sentences.append(f"{_jobs_are(elsewhere)} not compared with the best job: {reason}.")
    missing = comparable[~comparable["label"].isin(list(study_data.predictions))]
    if len(missing) and len(comparable) > 1:
        reason = "validation.csv is missing or corrupted"
        sentences.append(f"{_jobs_are(missing)} ranked by recorded log loss only: {reason}.")
    settings = unlisted_differences(study_data)
    if settings:
        sentences.append(f"The jobs also differ in other settings ({listed(settings)}), which may explain a lead.")
    return sentences


def _ranking_caveats(study_data: StudyData, losses: pd.DataFrame, intervals: dict[str, Estimate]) -> list[str]:
    """Describe contradictions between the saved predictions and the leaderboard."""
    sentences = []
    recorded = study_data.leaderboard.set_index("label")["val_log_loss"]
    unequal = [label for label, own in intervals.items() if abs(own.value - recorded[label]) > _SAME_LOG_LOSS]
    if unequal:
        unlike = "have another log loss than recorded: they are from one execution, or from another trial"
        sentences.append(f"The predictions in validation.csv of {listed(unequal, 3)} {unlike}.")
    images = max((own.size for own in intervals.values()), default=0)
    if len(losses) < images:
        common = counted(len(losses), "image")
        sentences.append(f"Jobs are compared on {common}: not every job has predictions for all {images:,}.")
    return sentences


def _few_errors(intervals: dict[str, Estimate], best: str) -> list[str]:
    """Name the other jobs with few misclassified images, with their accuracy; `_score_sentence` is about the best."""
    others = {label: one for label, one in intervals.items() if one.few_errors and label != best}
    accuracy = {label: accuracy_text(one.errors, one.size) for label, one in others.items()}
    few = [f"{name} ({one.errors} of {one.size:,}, accuracy {accuracy[name]})" for name, one in others.items()]
    reason = f"with fewer than {FEW_ERRORS} misclassified images, they may be too narrow"
    return [f"Confidence intervals of the log loss of {listed(few, 3)}: {reason}."] if few else []


def _few_images(study_data: StudyData, best: str) -> list[str]:
    if best not in study_data.predictions:
        return []
    names, images = study_data.jobs[best].classes.names, study_data.predictions[best]["label"]
    counts = zip(names, np.bincount(images, minlength=len(names)), strict=True)
    few = [f"{name} ({number})" for name, number in counts if number < FEW_IMAGES]
    about = f"Fewer than {FEW_IMAGES} validation images"
    return [f"{about}: {listed(few)}; precision and recall of such classes are uncertain."] if few else []


def _selection_caveats(study_data: StudyData, comparable: pd.DataFrame) -> list[str]:
    reason = f"the same images were used to select the {joined(chosen_on_validation(len(comparable) > 1, {}))}"
    optimistic = f"Validation scores are optimistic: {reason}. Expect a somewhat higher log loss on new images."
    seeds = {repr(study_data.jobs[str(label)].result.get("seed")) for label in comparable["label"]}
    if len(seeds) > 1:
        return [optimistic]
    fixed = "The training seed was not varied; sweep seed=1,2,3 to measure its effect on the scores."
    return [optimistic, f"Confidence intervals (CI) reflect only the choice of images. {fixed}"]


def _retrain(study_data: StudyData, best: str) -> tuple[str | None, list[str]]:
    """Return the command that retrains the best trial, or None and the reason."""
    job = study_data.jobs[best]
    study = job.folder.parent
    try:
        chosen_trial(job, None)
        if not job.result["config"]:
            raise UserError("its result.json contains no configuration")
    except UserError as error:
        return None, [f"The best job cannot be retrained: {clean(str(error))}."]
    is_default = False
    # `retrain` chooses a job itself unless the jobs were validated on different images.
    with suppress(UserError):
        is_default = len(study_data.studies) == 1 and best_job(study, list(study_data.jobs.values())).name == job.name
    return retrain_command(study, None if is_default else job.name), []


def _jobs(labels: Sequence[str] | pd.Series) -> str:
    """`1 job (a)` or `2 jobs (a, b)`."""
    return f"{counted(len(labels), 'job')} ({listed(list(map(str, labels)), 3)})"


def _jobs_are(rows: pd.DataFrame) -> str:
    return f"{_jobs(rows['label'])} {_are(len(rows))}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
