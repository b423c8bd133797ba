"""Untrusted studies: retraining one runs none of its code and follows none of its paths."""

import copy
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic_images import folder_of

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.config.saved_config import check_builder, named_builders, saved_config

STUDY = Path(__file__).parents[1] / "golden" / "studies" / "0.2"
JOB = "small_cnn-light-cosine-none"
OTHERS = [file.parent.name for file in STUDY.glob("small_cnn-*/result.json") if file.parent.name != JOB]

# Creates a file when it is imported or called.
EVIL = """
from pathlib import Path
Path("executed").touch()
class Anything:
    def __init__(self, *args, **kwargs):
        Path("executed").touch()
build = Anything
"""


@pytest.fixture
def retrain(run, tmp_path):
    """Return a function that changes the saved configurations of jobs and retrains the best job."""
    study = tmp_path / "multirun" / "theirs"
    shutil.copytree(STUDY, study)
    for folder in (tmp_path, study):
        (folder / "evil.py").write_text(EVIL)
    (tmp_path / "elsewhere.log").write_text("precious")

    def command(change, *arguments, jobs=(JOB,), **environment):
        for job in jobs:
            result = read_json(study / job / "result.json")
            for key, value in change.items():
                *groups, name = key.split(".")
                functools.reduce(lambda node, group: node.setdefault(group, {}), groups, result["config"])[name] = value
            write_json(study / job / "result.json", result)
        environment["PYTHONPATH"] = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
        done = run("retrain", "study=theirs", f"job={JOB}", *arguments, **environment)
        assert not (tmp_path / "executed").exists()
        assert (tmp_path / "elsewhere.log").read_text() == "precious"
        return done

    return command


ATTACKS = {
    "hydra.callbacks": {"evil": {"_target_": "evil.Anything"}},
    "hydra.job_logging.handlers": {
        "evil": {"class": "evil.Anything"},
        "file": {"class": "logging.FileHandler", "filename": "elsewhere.log", "mode": "w"},
    },
    "hydra.job_logging.root.handlers": ["evil", "file"],
    "hydra.launcher._target_": "os.system",
    "hydra.sweeper._target_": "evil.Anything",
    "hydra.output_subdir": "../../../../outside",
    "hydra.run.dir": "outside",
    "studies_dir": "outside",
    "study": "outside",
    "cache": "outside",
    "data.ignore": ["${oc.env:TOKEN}"],
    "backbone.arguments": {"name": "${oc.env:TOKEN}\\${oc.env:TOKEN}"},
}


def test_hydra_settings_folders_and_interpolations_of_a_study_are_not_used(retrain, tmp_path):
    folder_of(tmp_path / "images", {f"{'cat' if n % 2 else 'dog'}.{n}.png": b"not an image" for n in range(8)})
    # Stops at the unknown id, after Hydra is configured and before anything is trained.
    done = retrain(ATTACKS, "data.sample=null", "data.train=images", TOKEN="s3cret")
    assert done.returncode == 2
    assert "data.ignore" in done.stderr
    assert "${oc.env:TOKEN}" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "cache").exists()


def test_an_invalid_value_of_a_study_names_its_file(retrain):
    assert retrain({}, "tta.views=0").stderr.startswith("error: tta.views=0: must")
    done = retrain({"tta.views": 1e9})
    assert done.returncode == 2
    problem = "result.json is corrupted (config.tta.views=1000000000.0: must"
    assert done.stderr.startswith(f"error: job multirun/theirs/{JOB}: {problem}")


@pytest.mark.parametrize(("jobs", "arguments"), [([JOB], []), (OTHERS, ["ensemble=jobs", "ensemble.num_jobs=2"])])
def test_a_builder_that_only_the_study_names_is_not_called(retrain, jobs, arguments):
    done = retrain({"backbone.builder": "evil.build"}, *arguments, jobs=jobs)
    assert done.returncode == 2
    assert "backbone.builder=evil.build" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "builder", ["os.system", "catsdogs.base.files.write_text", "keras.models.load_model", "kerasXapplications.a"]
)
def test_builders_are_of_keras_or_catsdogs_or_named_by_the_user(builder):
    with pytest.raises(UserError, match=f"backbone.builder={builder}: .* job j "):
        check_builder(builder, "j", {"catsdogs", "other"})
    check_builder(builder, "j", {builder})
    check_builder("keras.applications.MobileNetV2", "j", ())
    check_builder("catsdogs.network.backbones.small_cnn", "j", ())
    check_builder("catsdogs.network.efficientnet_lite.efficientnet_lite0", "j", ())


def test_only_keys_of_the_schema_are_read():
    known: dict[str, Any] = {"seed": 3, "data": {"sample": {"seed": 1}}, "backbone": {"arguments": {"alpha": 0.35}}}
    known["space"] = {"dropout": {"kind": "float", "low": 0.1}}
    saved = copy.deepcopy(known) | {"study": "s", "studies_dir": "/", "cache": "/", "hydra": {"callbacks": {}}}
    saved["defaults"] = ["x"]
    for group in (saved["data"], saved["data"]["sample"], saved["space"]["dropout"]):
        group["_target_"] = "os.system"
    assert saved_config(saved) == known


def test_the_user_names_a_builder_on_the_command_line_or_in_a_folder(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text("builder: my.network\nweights: ???\n")
    (tmp_path / "experiment.yaml").write_text("backbone:\n  builder: my.other\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "other.yaml").write_bytes(b"builder: ${oc.env:TOKEN}\nname: \xff")
    (tmp_path / "inert.yaml").write_text("builder: ${oc.env:TOKEN}\nbackbone: ${nowhere}")
    # The current folder often contains the studies, and files of a study name no builder.
    for folder in ("multirun/theirs/job/.hydra", "multirun/theirs/backbone", ".hydra"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("builder: evil.one\nbackbone: {builder: evil.other}")
    named = named_builders(["seed=1", "+backbone.builder='their.net'"], [tmp_path], tmp_path / "multirun")
    assert named == {"their.net", "my.network", "my.other", "${oc.env:TOKEN}"}
