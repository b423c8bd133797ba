"""Evidence -> which job is best, by how much, whether that is more than noise, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import listed
from catsdogs.comparison.choices import unlisted_differences
from catsdogs.comparison.study_data import WAITING, StudyData
from catsdogs.pages.formats import between, counted, loss, percent
from catsdogs.scoring.intervals import Estimate, mean_intervals, share_lowest
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import FAILED, OK, RUNNING, State, best_job, chosen_trial, retrain_command

SIGNIFICANT, WITHIN_NOISE, IDENTICAL, ONLY_JOB, UNKNOWN = "larger", "noise", "equal", "alone", "unknown"

# Log losses of the same predictions by Keras, in float32 and batches, and by us differ by less.
_SAME_LOG_LOSS = 1e-4


@dataclass(frozen=True)
class Summary:
    """What a comparison says at a glance.

    Attributes:
        headline: the answer in one sentence.
        best: label of the best job, the first of the board; None: no trial has completed anywhere.
        trial: its best trial.
        log_loss: of its predictions on validation; None: they are lost.
        accuracy: likewise, else as its trial told it.
        runner_up: label of the next job that was validated on the same images.
        margin: log loss of the runner-up minus that of the best, image by image; None: nothing to compare so.
        significance: what the lead is: "larger" than the noise of the images, no more than "noise", "equal" (the same
            predictions), "alone" (no other job has a result), "unknown".
        share_best: by label of the comparable jobs, the share of resamples of the images in which it is the best.
        command: that trains the best trial again, quoted for a shell; None: that cannot be done.
        sentences: what supports it.
        caveats: sentences on what it does not say.
    """

    headline: str
    best: str | None = None
    trial: str | None = None
    log_loss: Estimate | None = None
    accuracy: float | None = None
    runner_up: str | None = None
    margin: Estimate | None = None
    significance: str = UNKNOWN
    share_best: dict[str, float] = field(default_factory=dict)
    command: str | None = None
    sentences: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def summarize(study_data: StudyData) -> Summary:
    """Which job is best, as the board ranks them, and how far the validation images support that."""
    board = study_data.leaderboard
    able = board[board["val_log_loss"].notna()]
    if able.empty:
        return Summary(_nothing_yet(board), caveats=[*_unfinished(board), *_stopped(study_data)])
    first = able.iloc[0]
    best = str(first["label"])
    # Some do not tell their images; such a best job compares with itself alone.
    alike = able[
        (able["label"] == best) | (able["data_digest"].notna() & (able["data_digest"] == first["data_digest"]))
    ]
    runner_up = str(alike["label"].iloc[1]) if len(alike) > 1 else None
    losses = study_data.losses()
    log_loss, accuracy = None, None if pd.isna(first["val_accuracy"]) else float(first["val_accuracy"])
    if best in study_data.predictions:
        log_loss, accuracy = _own_scores(study_data.predictions[best])
    margin = None
    if {best, runner_up} <= set(losses) and len(losses):
        margin = mean_intervals((losses[runner_up] - losses[best]).to_numpy()[None])[0]
    significance = _significance(margin, alone=len(able) == 1)
    shares = share_lowest(losses.to_numpy().T).tolist() if len(losses) else []
    share_best = dict(zip(map(str, losses), shares, strict=True)) if shares else {}
    command, refused = _command(study_data, best)
    return Summary(
        headline=_headline(board, first, runner_up, margin, significance),
        best=best,
        trial=None if pd.isna(first["best_trial"]) else str(first["best_trial"]),
        log_loss=log_loss,
        accuracy=accuracy,
        runner_up=runner_up,
        margin=margin,
        significance=significance,
        share_best=share_best,
        command=command,
        sentences=[
            _score_sentence(first, log_loss, accuracy),
            *_lead_sentences(alike, runner_up, margin, significance),
            *_field_sentences(best, losses, share_best),
        ],
        caveats=[
            *_unfinished(board),
            *_stopped(study_data),
            *_not_compared(study_data, able, alike),
            *_ranking_caveats(study_data, best, losses),
            *refused,
            *_selection_caveats(study_data, alike),
        ],
    )


def score_intervals(study_data: StudyData) -> dict[str, Estimate]:
    """Log loss of every comparable job on the validation images, by label, best first."""
    losses = study_data.losses()
    if losses.empty:
        return {}
    return dict(zip(map(str, losses), mean_intervals(losses.to_numpy().T), strict=True))


def _own_scores(table: pd.DataFrame) -> tuple[Estimate, float]:
    """Log loss and accuracy of a job's predictions."""
    labels, p_dog = table["label"].to_numpy(), table["p_dog"].to_numpy()
    # Dog above one half, as Keras counts.
    return mean_intervals(log_loss_per_image(labels, p_dog)[None])[0], float(((p_dog > 0.5) == (labels == 1)).mean())


def _significance(margin: Estimate | None, alone: bool) -> str:
    if margin is None:
        return ONLY_JOB if alone else UNKNOWN
    if margin.low is None or margin.high is None:
        return UNKNOWN
    if margin.value == margin.low == margin.high == 0:
        return IDENTICAL
    if margin.excludes_zero:
        # Below 0: the predictions say the opposite of the board.
        return SIGNIFICANT if margin.value > 0 else UNKNOWN
    return WITHIN_NOISE


def _headline(
    board: pd.DataFrame, first: pd.Series, runner_up: str | None, margin: Estimate | None, significance: str
) -> str:
    now = "So far " if board["status"].isin([RUNNING, WAITING]).any() else ""
    best, score = now + first["label"], f"validation log loss {loss(first['val_log_loss'])}"
    ahead = "" if margin is None else loss(margin.value)
    return {
        SIGNIFICANT: f"{best} is best: {score}, ahead of {runner_up} by {ahead}, which is more than noise.",
        WITHIN_NOISE: f"{best} is first with {score}, but its lead over {runner_up} is no more than noise.",
        IDENTICAL: f"{best} and {runner_up} are equally good, with the same predictions: {score}.",
        ONLY_JOB: f"{best} is the only job with a result: {score}.",
        UNKNOWN: f"{best} is first with {score}; whether its margin is more than noise cannot be told.",
    }[significance]


def _score_sentence(first: pd.Series, log_loss: Estimate | None, accuracy: float | None) -> str:
    right = "" if accuracy is None else f", accuracy {percent(accuracy, 2)}"
    if log_loss is None:
        told = f"log loss {loss(first['val_log_loss'])}{right}"
        return f"Its trial told {told}; its predictions are lost, so there is no interval."
    bounds = "" if log_loss.low is None else f" (95 % interval {between(log_loss)})"
    return f"On {counted(log_loss.size, 'validation image')}: log loss {loss(log_loss.value)}{bounds}{right}."


def _lead_sentences(
    alike: pd.DataFrame, runner_up: str | None, margin: Estimate | None, significance: str
) -> list[str]:
    if runner_up is None:
        return []
    if margin is None:
        gap = float(alike["val_log_loss"].iloc[1] - alike["val_log_loss"].iloc[0])
        return [
            f"It is ahead of {runner_up} by {loss(gap)}; predictions are lost, so whether that is noise is unknown."
        ]
    if significance == IDENTICAL:
        return [f"It and {runner_up} say the same of every image."]
    if margin.low is None:
        return [f"It is ahead of {runner_up} by {loss(margin.value)}, on a single image."]
    more = f"{loss(abs(margin.value))} {'higher' if margin.value >= 0 else 'lower'}"
    meaning = {
        SIGNIFICANT: "other images of the same kind would hardly reverse the order",
        WITHIN_NOISE: "that includes 0, so other images could reverse the order. More validation images or seeds "
        "could tell the two apart",
        UNKNOWN: "so the predictions contradict the ranking",
    }[significance]
    return [
        f"Compared image by image, the log loss of {runner_up} is {more} (95 % interval {between(margin)}): {meaning}."
    ]


def _field_sentences(best: str, losses: pd.DataFrame, share_best: dict[str, float]) -> list[str]:
    """How it stands among three or more jobs."""
    if best not in losses or losses.shape[1] < 3 or len(losses) < 2:
        return []
    others = [str(label) for label in losses if label != best]
    leads = mean_intervals((losses[others].sub(losses[best], axis=0)).to_numpy().T)
    near = [label for label, lead in zip(others, leads, strict=True) if lead.low is None or lead.low <= 0]
    told = f"It is the best of {len(share_best)} jobs in {_share(share_best[best])} of resamples of the images"
    away = len(others) - len(near)
    if not near or not away:
        which = "none of the others is" if near else "all others are"
        return [f"{told}; {which} behind it by more than noise."]
    behind = f"{away} of the other {len(others)} {_are(away)} behind it by more than noise"
    return [f"{told}; {behind}, {listed(near, 3)} {_are(len(near))} not."]


def _nothing_yet(board: pd.DataFrame) -> str:
    if board["status"].isin([RUNNING, WAITING]).any():
        return "No trial has completed yet."
    failed = int((board["status"] == FAILED).sum())
    return f"No trial has completed: {counted(failed, 'job')} failed." if failed else "No trial has completed."


def _unfinished(board: pd.DataFrame) -> list[str]:
    """Sentences about jobs that run, were killed, wait or have failed."""
    killed, running = board[board["state"] == State.KILLED], board[board["state"] == State.RUNNING]
    waiting, failed = board[board["status"] == WAITING], board[board["status"] == FAILED]
    kept = "; the trials completed before that count" if failed["val_log_loss"].notna().any() else ""
    told = [
        (running, f"{_jobs_are(running)} still running, so the ranking may change."),
        (
            killed,
            f"{_jobs(killed['label'])} ended without saying how, and may have been killed; the same command goes on.",
        ),
        (waiting, f"{_jobs_are(waiting)} still waiting to start."),
        (failed, f"{_jobs(failed['label'])} failed{kept}."),
    ]
    return [sentence for rows, sentence in told if len(rows)]


def _stopped(study_data: StudyData) -> list[str]:
    """A sentence about jobs that the time of the study ran out for."""
    labels = [label for label, job in study_data.jobs.items() if job.status == OK and job.result.get("stopped")]
    told = f"{_jobs(labels)} ended early, as the time of the study was over; the same command goes on."
    return [told] if labels else []


def _not_compared(study_data: StudyData, able: pd.DataFrame, alike: pd.DataFrame) -> list[str]:
    found = []
    elsewhere = able[~able["label"].isin(alike["label"])]
    if len(elsewhere):
        jobs = _jobs_are(elsewhere)
        found.append(f"{jobs} not compared with the best: validated on other images, so log losses do not compare.")
    lost = alike[~alike["label"].isin(list(study_data.predictions))]
    if len(lost) and len(alike) > 1:
        jobs = _jobs_are(lost)
        found.append(f"{jobs} ranked by the trial's log loss alone: the predictions in validation.csv are lost.")
    settings = unlisted_differences(study_data)
    if settings:
        found.append(f"The jobs differ also in {listed(settings)}, which no choice tells: a lead may come from there.")
    return found


def _ranking_caveats(study_data: StudyData, best: str, losses: pd.DataFrame) -> list[str]:
    """Where the kept predictions and the board disagree."""
    found = []
    told = study_data.leaderboard.set_index("label")["val_log_loss"]
    own = {label: _own_scores(study_data.predictions[label])[0].value for label in study_data.comparable()}
    apart = [label for label, score in own.items() if abs(score - told[label]) > _SAME_LOG_LOSS]
    several = [label for label in apart if _executions(study_data, label) > 1]
    others = [label for label in apart if label not in several]
    if several:
        found.append(
            "The ranking is by the mean over the executions of a trial, the predictions are those of the first: they "
            f"differ in log loss for {listed(several, 3)}."
        )
    if others:
        found.append(
            f"The predictions in validation.csv of {listed(others, 3)} do not have the log loss of the best trial, so "
            "they may be of another."
        )
    means = losses.mean()
    if best in means.index and float(means.min()) < float(means[best]):
        found.append(
            f"By the predictions alone {means.idxmin()} would be first ({loss(means.min())} against "
            f"{loss(means[best])}); the ranking is that of the trials' log loss."
        )
    most = max((len(study_data.predictions[label]) for label in own), default=0)
    if len(losses) < most:
        found.append(
            f"Jobs are compared on {counted(len(losses), 'image')}: not every job has predictions of all {most:,}."
        )
    return found


def _executions(study_data: StudyData, label: str) -> int:
    job = study_data.jobs[label]
    executions = job.result["config"].get("fit", {}).get("executions_per_trial")
    # The winner of a selection is ranked by its fresh seeds.
    return max(number if isinstance(number, int) else 1 for number in (executions, job.best().get("seeds")))


def _selection_caveats(study_data: StudyData, alike: pd.DataFrame) -> list[str]:
    chosen = "the epoch and the trial" if len(alike) == 1 else "the epoch, the trial and the job"
    found = [f"The same images chose {chosen}, so they flatter it: expect a somewhat higher log loss on new images."]
    seeds = {repr(study_data.jobs[str(label)].result.get("seed")) for label in alike["label"]}
    if len(seeds) == 1:
        found.append(
            "The intervals are about the images alone. The training seed was not varied: another one could move every "
            "score, and a sweep over seed=1,2,3 would show by how much."
        )
    return found


def _command(study_data: StudyData, best: str) -> tuple[str | None, list[str]]:
    """The command that trains the best trial again; where there is none, why."""
    job = study_data.jobs[best]
    study = job.folder.parent
    try:
        chosen_trial(job, None)
    except UserError:
        return None, ["The best job cannot be trained again: its trials.csv is missing or damaged."]
    if not job.result["config"]:
        return None, ["The best job cannot be trained again: its result.json does not tell what it was run with."]
    alone = False
    # Where its jobs were validated on different images, `retrain` does not choose.
    with suppress(UserError):
        alone = len(study_data.studies) == 1 and best_job(study, list(study_data.jobs.values())).name == job.name
    return retrain_command(study, None if alone else job.name), []


def _share(share: float) -> str:
    """Never 0 or 100 where it is not."""
    rounded = percent(share, 0)
    if rounded == "100%" and share < 1:
        return "more than 99%"
    return "less than 1%" if rounded == "0%" and share > 0 else rounded


def _jobs(labels: Sequence[str] | pd.Series) -> str:
    """`1 job (a)` or `2 jobs (a, b)`."""
    return f"{counted(len(labels), 'job')} ({listed(list(map(str, labels)), 3)})"


def _jobs_are(rows: pd.DataFrame) -> str:
    return f"{_jobs(rows['label'])} {_are(len(rows))}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
