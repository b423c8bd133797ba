import signal
from contextlib import suppress
from unittest.mock import Mock

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import open_dict
from studies import write_job
from synthetic_images import cats_and_dogs, folder_of, jpeg

from catsdogs import retrain
from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.base.text import MOST_CHARACTERS
from catsdogs.config.compose import resume_command
from catsdogs.launching import application
from catsdogs.launching.study_hooks import StudyCallback, _typed
from catsdogs.search import main


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of one job, `a`; its summary is a line."""
    monkeypatch.setattr("catsdogs.comparison.reporting.report_study", lambda study: print(f"summary of {study.name}"))
    write_job(tmp_path / "s", {"backbone": "a"}, trials=1)
    return tmp_path / "s"


@pytest.fixture
def callback():
    yield StudyCallback()
    StudyCallback._running = None


@pytest.fixture
def job(composed):
    """Return a function that composes a job with the part of Hydra's configuration that the checks read."""

    def compose(*overrides, typed=(), params=None):
        config = composed(*overrides)
        with open_dict(config):
            config.hydra = {"overrides": {"task": list(typed)}, "sweeper": {"params": params}}
        return config

    return compose


@pytest.mark.parametrize(
    ("names", "kinds", "status"),
    [
        ([], ("UserError",), 2),
        ([], ("ValueError",), 1),
        (["b", "c"], ("UserError", "ValueError"), 1),
        (["b", "c"], ("UserError", None), 1),
        (["b", "gone"], ("UserError",), 1),
    ],
)
def test_exit_status_reflects_failed_and_killed_jobs(study, callback, capsys, names, kinds, status):
    callback._names = names
    for name, kind in zip("bc", kinds, strict=False):
        how = "failed" if kind else "killed"
        write_job(study, {"backbone": name}, trials=0, status=how, error="no luck\nat all")
        result = read_json(study / name / "result.json")
        write_json(study / name / "result.json", {**result, "error_type": kind})
    with pytest.raises(SystemExit) as stop:
        callback._finish(study)
    assert stop.value.code == status
    printed = capsys.readouterr()
    assert "error: job b: no luck\n" in printed.err
    assert (None in kinds) == ("error: job c exited without reporting a result" in printed.err)
    assert ("gone" in names) == ("error: job gone exited without reporting a result" in printed.err)
    assert printed.out == "summary of s\n"
    assert (study / "leaderboard.csv").is_file()


def test_interrupted_study_prints_its_summary_once_and_only_with_jobs(study, tmp_path, callback, capsys, monkeypatch):
    for running in (study, None, tmp_path):
        StudyCallback._running = running
        assert StudyCallback.report_interrupted() == running
    assert capsys.readouterr().out == "summary of s\n"
    # A second Ctrl-C stops the summary.
    monkeypatch.setattr("catsdogs.comparison.reporting.report_study", Mock(side_effect=KeyboardInterrupt))
    StudyCallback._running = study
    StudyCallback.report_interrupted()
    assert "Interrupted again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "number", "printed"),
    [
        (["search"], signal.SIGINT, "summary of s\nTo resume: python -m catsdogs.search study=s\n"),
        (["retrain", "cache=a b"], signal.SIGTERM, "To continue: python -m catsdogs.retrain 'cache=a b'\n"),
    ],
)
def test_an_interrupted_command_prints_the_command_to_continue(
    study, callback, capsys, monkeypatch, arguments, number, printed
):
    def complete(parsed, words):
        StudyCallback._running = study if arguments == ["search"] else None
        signal.raise_signal(number)

    monkeypatch.setattr("sys.argv", arguments)
    assert application.hydra_application(arguments[0], Mock(), complete) == 128 + number
    assert capsys.readouterr() == (printed, "\nInterrupted; finished trials and models are saved\n")


@pytest.mark.parametrize(
    ("arguments", "overrides", "expected"),
    [
        (["seed=1,2", "-m"], ["seed=1,2"], "seed=1,2 study=s -m"),
        (["-m"], [], "-m study=s"),
        (["study=other", "seed=1"], ["study=other", "seed=1"], "study=other seed=1"),
        (["data.train='a b.zip'"], ["data.train='a b.zip'"], """'data.train='"'"'a b.zip'"'"'' study=s"""),
    ],
)
def test_resume_command_names_the_study(arguments, overrides, expected):
    assert resume_command(arguments, overrides, "s") == f"python -m catsdogs.search {expected}"


def test_options_between_overrides_are_moved_behind_them(monkeypatch):
    complete = Mock(side_effect=UserError("stop"))
    monkeypatch.setattr("sys.argv", ["search", "-m", "seed=1", "--config-dir", "x", "-m", "study=s"])
    assert application.hydra_application("search", Mock(), complete) == 2
    assert complete.call_args.args[1] == ["seed=1", "study=s", "-m", "--config-dir", "x", "-m"]


@pytest.mark.parametrize("word", ["s", "./s/", "s/best", "study=./s", "{root}/s/best/"])
def test_retrain_takes_the_folder_of_a_study_or_of_its_model(study, monkeypatch, word):
    folder_of(study / "best", {"model.keras": b""})
    monkeypatch.chdir(study.parent)
    words = [word.format(root=study.parent), "tta=none", "--cfg", "job"]
    completed = retrain._complete(get_args_parser().parse_args(words), words)
    assert completed[-3:] == ["job=a", "--cfg", "job"]
    assert {"study=s", "tta=none"} < {*completed}


def test_a_study_that_does_not_exist_is_an_error_with_those_that_do(study, monkeypatch):
    monkeypatch.chdir(study.parents[1])
    words = [f"{study.parent.name}/t"]
    with pytest.raises(UserError, match=f"study {words[0]}: folder not found; studies in {study.parent.name}: s"):
        retrain._complete(get_args_parser().parse_args(words), words)


@pytest.mark.parametrize("multirun", [[], ["-m"]])
@pytest.mark.parametrize(
    ("error", "status", "words"), [(MemoryError, 2, "error: out of memory"), (ValueError, 1, "ValueError: injected")]
)
def test_an_error_in_the_checks_of_a_study_is_printed(tmp_path, capsys, monkeypatch, multirun, error, status, words):
    monkeypatch.setattr("catsdogs.data.dataset.load_dataset", Mock(side_effect=error("injected")))
    monkeypatch.setattr("sys.argv", ["catsdogs-search", *multirun, "experiment=debug", f"studies_dir={tmp_path}"])
    assert main() == status
    assert capsys.readouterr().err.splitlines()[-1].startswith(words)


def test_a_user_error_with_a_cause_keeps_its_own_message(capsys, monkeypatch):
    def complete(parsed, words):
        raise UserError("job a: its trials.csv is corrupted; set job=NAME") from UserError("trials.csv: corrupted")

    monkeypatch.setattr("sys.argv", ["catsdogs-search"])
    assert application.hydra_application("search", Mock(), complete) == 2
    assert capsys.readouterr().err == "error: job a: its trials.csv is corrupted; set job=NAME\n"


@pytest.mark.parametrize(
    "content", [b"a: \xff", b"a: [1", b"seed: 1\nseed: 1", b"a: !!python/name:os.system x", b"a: " + b"9" * 5000]
)
def test_a_file_that_is_not_yaml_is_named(tmp_path, capsys, monkeypatch, content):
    folder_of(tmp_path, {"tuner/mine.yaml": content})
    monkeypatch.setattr("sys.argv", ["catsdogs-search", "--cfg=job", "tuner=mine", f"hydra.searchpath=[{tmp_path}]"])
    assert main() == 2
    assert capsys.readouterr().err.startswith(
        f"error: {tmp_path}/tuner/mine.yaml: cannot be read; save it as YAML in UTF-8 ("
    )


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("data.ignore=" + "[" * 500 + "]" * 500, "data.ignore=[[["),
        ("study=" + "a" * 100_000 + "/b", "study=aaa"),
        ("study='a\nb/c'", "study=a?b/c: must be a folder name"),
    ],
)
def test_an_error_is_one_line_of_bounded_length(capsys, monkeypatch, word, start):
    monkeypatch.setattr("sys.argv", ["catsdogs-search", "experiment=debug", word])
    with suppress(SystemExit):  # of Hydra's hook
        assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {start}")
    assert len(line) <= MOST_CHARACTERS + 10


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (("tta=flip",), ("tta=none",), "the difference in tta.kind has no effect"),
        (("data.limit=100",), ("data.limit=200",), "the difference in data.limit has no effect"),
        (("data.limit=30",), ("data.limit=100",), None),
        (("space=fixed",), ("space=fixed", "tuner=grid"), "the difference in tuner.oracle"),
        (("tuner=bayesian", "tuner.max_trials=1"), ("tuner=bayesian", "tuner.max_trials=2"), None),
        (
            ("label_smoothing.epsilon=0.05", "label_smoothing=none"),
            ("label_smoothing.epsilon=0.05", "label_smoothing=mild"),
            "their settings are equal, because label_smoothing.epsilon=0.05 replaces",
        ),
        (("seed=1",), ("seed=1",), "job a: trains the same trials|job a: two jobs"),
        (("seed=1",), ("seed=2",), None),
    ],
)
def test_two_jobs_that_would_train_the_same_trials_are_refused(tmp_path, callback, job, first, second, words):
    jobs = [job("experiment=debug", f"cache={tmp_path / 'cache'}", *one, typed=one) for one in (first, second)]
    names = ["a", "a" if first == second else "b"]
    if words is None:
        callback._prepare(jobs, tmp_path / "multirun" / "s", names)
        return
    with pytest.raises(UserError, match=words):
        callback._prepare(jobs, tmp_path / "multirun" / "s", names)


def test_a_share_for_validation_is_refused_if_the_images_have_a_validation_part(tmp_path, callback, job):
    images = cats_and_dogs(8, 8) | {"valid/cat.1.jpg": jpeg(800), "valid/dog.1.jpg": jpeg(900)}
    typed = [f"data.train={folder_of(tmp_path / 'own', images)}", "data.validation_fraction=0.3"]
    config = job(f"cache={tmp_path / 'cache'}", *typed, typed=typed)
    with pytest.raises(UserError, match=r"^data.validation_fraction=0.3: no effect, because .* a part of data.train"):
        callback._prepare([config], tmp_path / "s", ["a"])


def test_a_setting_without_effect_is_refused_with_a_sweeper_that_chooses_jobs_one_by_one(job):
    params = {"model.dropout": "choice(0.1,0.2)"}
    config = job("experiment=debug", typed=["schedule.final_fraction=0.1"], params=params)
    assert _typed(config, planned=False) == ["model.dropout=choice(0.1,0.2)"]
    config.hydra.overrides.task = ["space=choice(small_cnn,fixed)"]
    assert _typed(config, planned=False) == []
