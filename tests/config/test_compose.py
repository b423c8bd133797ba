import json
import re
from operator import attrgetter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from synthetic_images import folder_of

from catsdogs.base.errors import UserError
from catsdogs.base.text import quoted
from catsdogs.config.checks import validated
from catsdogs.config.compose import (
    EXTRAS,
    MAX_JOB_NAME,
    as_typed,
    format_config_error,
    job_name,
    parse_overrides,
    resolved,
    to_search_config,
    with_default_study,
    with_value,
)
from catsdogs.config.locations import conf_dir, sweeps_dir
from catsdogs.config.saved_config import saved_config
from catsdogs.config.schema import AugmentationConfig, RetrainConfig
from catsdogs.study.jobs import read_job, read_jobs

pytestmark = pytest.mark.lowest

GOLDEN = Path(__file__).parents[1] / "golden" / "studies"

CHOICES = {"backbone": "b", "augmentation": "a", "schedule": "s", "label_smoothing": "l", "space": "default"}


def retrained(job, *overrides):
    ConfigStore.instance().store(name="chosen_job", node=job)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validated(resolved(compose("retrain", overrides=["study=s", *overrides])), RetrainConfig)


@pytest.mark.parametrize(("group", "option"), [file.with_suffix("").parts[-2:] for file in conf_dir().glob("*/*.yaml")])
def test_every_option_of_every_group_composes_and_every_ensemble_on_top_of_a_job(composed, group, option):
    if group != "ensemble":
        given = ["backbone.weights=null"] if option == "efficientnet_lite0" else []
        to_search_config(composed("data.train=train.zip", f"{group}={option}", *given))
        return
    job = OmegaConf.to_container(composed("data.train=train.zip", "split.folds=3"), resolve=True)
    assert retrained(job, "job=j", f"ensemble={option}").ensemble.kind == option


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_jobs_of_older_versions_can_be_retrained(version):
    config = retrained(saved_config(read_jobs(GOLDEN / version)[0].result["config"]))
    assert (config.tta.kind, config.tta.views, config.split.group_by) == ("views", 10, "copies")


def test_tta_auto_is_the_default_and_earlier_jobs_keep_their_kinds(composed, tmp_path):
    config = to_search_config(composed("data.train=train.zip"))
    assert (config.tta.kind, config.tta.kinds) == ("auto", ["none", "flip"])
    with pytest.raises(UserError, match=r"tta.views=null: must be set with tta=views.*; set tta.views=10"):
        to_search_config(composed("data.train=train.zip", "tta=flip", "tta.kind=views"))
    result = {"config": {"tta": {"kind": "auto", "views": 10, "average": "probability"}}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert read_job(tmp_path).result["config"]["tta"]["kinds"] == ["none", "flip", "crops", "views"]
    saved = saved_config(read_jobs(GOLDEN / "0.2")[0].result["config"])
    assert retrained(saved, "tta=auto").tta.kinds == ["none", "flip"]


@pytest.mark.parametrize("sweep", [file.stem for file in sweeps_dir().glob("*.yaml")])
def test_every_job_of_every_declared_study_composes(composed, sweep):
    params = OmegaConf.load(sweeps_dir() / f"{sweep}.yaml").hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    jobs = BasicSweeper.split_arguments(overrides, None)[0]
    assert len(jobs) > 1
    # These contain every value; all combinations of a large study take a minute.
    for job in [job for job in jobs if sum(a != b for a, b in zip(job, jobs[0], strict=True)) <= 1]:
        to_search_config(composed("data.train=train.zip", f"sweeps={sweep}", *job))


def test_the_seed_recipe_matches_the_notebook(composed):
    config = to_search_config(composed("data.train=train.zip", "experiment=seed_recipe"))
    assert (config.backbone.builder, config.model.unfreeze_depth) == ("keras.applications.MobileNetV2", 30)
    assert (config.space, config.schedule.kind, config.fit.patience) == ({}, "cosine", 7)
    assert (config.tta.kind, config.tta.views, config.data.validation_fraction) == ("views", 10, 0.2)
    assert config.label_smoothing.epsilon > 0
    assert (config.augmentation.flip_probability, config.augmentation.rotation_degrees > 0) == (0.5, True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fit.epochs=0", ["fit.epochs=0", "greater than or equal to 1"]),
        ("schedule.kind=cosin", ["schedule.kind=cosin", "did you mean 'cosine'?"]),
        ("+split.together=copies", ["split.together: unknown setting; did you mean 'split.group_by'?"]),
        ("++space.dropuot.low=0.1", ["space.dropuot: unknown hyperparameter; did you mean 'dropout'?"]),
        ("tuner.max_trials=null", ["tuner.max_trials=null", "random"]),
        ("tta.kinds=[flip,views]", ["tta.kinds=[flip,views]: must be none and at least one other"]),
        ("study=a/b", ["study=a/b", "studies"]),
        ('study="\udcc3"', ["its path is not UTF-8 text; set LC_ALL=C.UTF-8"]),
        ("backbone.weights=/dev/zero", ["backbone.weights=", "/dev/zero: not a .h5 or .keras file"]),
        ("backbone=efficientnet_lite0", ["backbone.weights: not set; ", "path of a .weights.h5", "tensorflow/tpu"]),
        ("data.train=null", ["data.train=null", "python -m catsdogs.search data.train=train.zip, or use data=sample"]),
        ("data.validation=v split.folds=3", ["split.folds=3: not supported with data.validation; use split.folds=1"]),
        ("space.dropout.low=0.5", ["space.dropout.low=0.5", "below space.dropout.high=0.5"]),
        ("space.l2.low=0", ["space.l2.low=0", "log"]),
        ("+space.l2.lo=1e-6", ["space.l2.lo: unknown setting; did you mean 'space.l2.low'?", "sampling, step"]),
        ("~fit.epochs", ["fit.epochs: not set; add +fit.epochs=VALUE"]),
        ("data.sample=3", ["data.sample=3: must be a group of settings", "data.sample.KEY=VALUE"]),
        ("space.dropout.kind=int", ["space.dropout.kind=int: dropout takes fractions", "use kind float"]),
        ("++space.dense_units={kind:int,low:8,high:64,step:2.5}", ["space.dense_units.step=2.5: must be an integer"]),
        ("++space.dropout.step=1e-9", ["space.dropout.step=1e-09: gives more than 10,000 values"]),
        ("++space.l2.step=1", ["space.l2.step=1: must be above 1", "factor"]),
        ("++space.dropout.values=[0.1,0.2]", ["dropout.values=[0.1, 0.2]: not used", "or set space.dropout.kind"]),
        ("space.unfreeze_depth.values=[0,10,0]", ["space.unfreeze_depth.values=[0, 10, 0]: contains 0 twice"]),
        ("tuner=hyperband space=fixed", ["tuner=hyperband: not supported with an empty space; use tuner=random"]),
        ("+tuner.arguments.factor=3", ["tuner.arguments.factor=3: unknown argument of the random oracle; remove it"]),
        ("tuner=bayesian +tuner.arguments.betta=1", ["tuner.arguments.betta=1: ", "did you mean 'beta'?", "alpha"]),
    ],
)
def test_an_invalid_value_is_refused_with_its_key_and_the_allowed_values(composed, override, words):
    with pytest.raises(UserError) as caught:
        to_search_config(composed("data.train=train.zip", *override.split(" ")))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_number_with_too_many_digits_is_named():
    with pytest.raises(UserError, match=r"^tuner.max_trials=9+: too many digits; remove some$"):
        parse_overrides(["study=a", f"tuner.max_trials={'9' * 5000}"])


KERAS = "_weights_tf_dim_ordering_tf_kernels"


@pytest.mark.parametrize(
    ("backbone", "files", "expected"),
    [
        ("mobilenet_v2", "mobilenet_v2_1.0_224_no_top.weights.h5 mobilenet_v2_0.35_224_no_top.weights.h5", 0),
        ("mobilenet_v2_035", "MobileNet-v2.1_0_notop.h5 MobileNet-v2.0_35_notop.h5 mobilenet_v2_0.355_no_top.h5", 1),
        ("mobilenet_v2 backbone.arguments.alpha=1", f"mobilenet_v2{KERAS}_1.0_224_no_top.h5 mobilenet_v2_1.4.h5", 0),
        ("mobilenet_v2", f"mobilenet_v2{KERAS}_1.0_224.h5 mobilenet_v2{KERAS}_1.0_224_no_top.h5", 1),
        ("mobilenet_v3_large", "mobilenet_v2.h5 weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", 1),
        ("resnet50_v2", f"resnet50{KERAS}_notop.h5 resnet50v2{KERAS}_notop.h5 resnet50v2{KERAS}.h5", 1),
        ("resnet50_v2 backbone.builder=keras.applications.ResNet50", "resnet50v2_notop.h5 ResNet50.weights.h5", 1),
        ("efficientnet_v2_b0", "efficientnetv2-b0_notop.h5 efficientnetb0_notop.h5", 0),
        ("efficientnet_lite0", "efficientnet_lite0_224_no_top.weights.h5 efficientnet_lite0.txt", 0),
        ("xception", "xception.h5 model.keras", 1),
        ("xception", "a.h5 b.weights.h5 xception.txt", "no files named after Xception (a.h5, b.weights.h5); use the"),
        ("xception", "xception_1.h5 xception_2.h5", "several files named after Xception (xception_1.h5, xception_2"),
        (
            "resnet50_v2",
            "resnet50v2_152.txt",
            "no files named after ResNet50V2 (it has no .h5 file and no best/model.keras); use the path",
        ),
    ],
)
def test_the_weights_of_a_folder_are_the_file_named_after_the_network(composed, tmp_path, backbone, files, expected):
    for name in files.split():
        (tmp_path / name).touch()
    composition = composed("data.train=x", *f"backbone={backbone} backbone.weights={tmp_path}".split())
    if isinstance(expected, int):
        assert to_search_config(composition).backbone.weights == str(tmp_path / files.split()[expected])
    else:
        with pytest.raises(UserError, match=re.escape(f"backbone.weights={tmp_path}: {expected}")):
            to_search_config(composition)


def test_weights_of_an_own_model_and_an_augmentation_of_a_few_values(composed, tmp_path):
    folder_of(tmp_path, {"augmentation/mine.yaml": b"rotation_degrees: 10", "old/best/model.keras": b""})
    words = [f"hydra.searchpath=[file://{tmp_path}]", "data.train=train.zip", "augmentation=mine"]
    words += ["augmentation.zoom_fraction=0.1", f"backbone.weights={tmp_path}/old"]
    config = to_search_config(composed(*map(as_typed, words)))
    assert config.backbone.weights == f"{tmp_path}/old/best/model.keras"
    assert config.augmentation == AugmentationConfig(rotation_degrees=10, zoom_fraction=0.1)
    with pytest.raises(UserError, match=r"augmentation\.zoom_fractoin: unknown setting; did you mean"):
        to_search_config(composed(*map(as_typed, [*words, "augmentation.zoom_fractoin=0.1"])))


def test_every_number_in_the_schema_has_a_range():
    groups = TypeAdapter(RetrainConfig).json_schema()
    # low, high and step of a dimension are checked against the range of its setting.
    for name, group in [("", groups), *groups["$defs"].items()]:
        for key, kind in group["properties"].items() if name != "HyperparameterConfig" else ():
            for part in kind.get("anyOf", [kind]):
                if part.get("type") in ("integer", "number"):
                    assert {"minimum", "exclusiveMinimum"} & {*part}, f"{name}.{key}"


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["-m"], ["sweeps=default"]),
        (["-m", "data.limit=9"], ["sweeps=default"]),
        # A command that chooses something, or runs a single job, is not changed. Composed groups are in the name of the
        # job anyway.
        *((["-m", one], []) for one in ("augmentation=flip", "backbone=a,b", "sweeps=a", "experiment=debug")),
        (["seed=1"], []),
        (["-m", "backbone=a,b", "+seed=1,2"], ["varied=[seed]"]),
    ],
)
def test_the_command_line_is_completed(arguments, added):
    overrides = [argument for argument in arguments if "=" in argument]
    assert with_default_study(arguments, overrides, "-m" in arguments) == arguments + added


def test_a_job_is_named_after_its_choices_in_any_order_and_not_after_constants():
    assert job_name(CHOICES, ["augmentation=a", "data.limit=5"], []) == "b-a-s-l"
    overrides, varied = ["data.limit=5", "seed=3", "fit.batch_size=8", "+space.l2.low=1e-5"], ["seed", "fit.batch_size"]
    for order in (1, -1):
        name = job_name(CHOICES, overrides[::order], ["space.l2.low", *varied[::order]])
        assert name == "b-a-s-l-fit.batch_size-8-seed-3-space.l2.low-1e-5"


@given(value=st.text(max_size=400), other=st.text(max_size=400))
def test_any_value_gives_a_safe_and_distinct_name(value, other):
    name = job_name(CHOICES, [f"data.train={value}"], ["data.train"])
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)
    assert len(name) <= MAX_JOB_NAME
    if value != other:
        assert name != job_name(CHOICES, [f"data.train={other}"], ["data.train"])


@pytest.mark.parametrize(
    ("override", "typed"),
    [
        ("study=2024_01", "2024_01"),
        ("study='1_0'", "1_0"),
        ("data.train=null", None),
        ("data.ignore=[1_0, cat.1 ,'a,2', 1e3]", ["1_0", "cat.1", "a,2", "1e3"]),
        ("study=1_0,b,2_0", ["1_0", "b", "2_0"]),
        ("study=null", "null"),
        ("data={train: 2024_01, test: null, limit: 1_0}", {"train": "2024_01", "test": None, "limit": 10}),
        ("hydra.launcher.partition=1e3", "1e3"),
        ("data.train=~/a b~1.zip", "~/a b~1.zip"),
        ("data={train: ~/x.zip}", {"train": "~/x.zip"}),
        ("+backbone.arguments.file=~/cats&dögs#1", "~/cats&dögs#1"),
    ],
)
def test_a_text_stays_as_typed(override, typed):
    parsed = OverridesParser.create().parse_override(as_typed(override))
    if parsed.is_sweep_override():
        jobs = [OverridesParser.create().parse_override(f"study={one}") for one in parsed.sweep_string_iterator()]
        assert [job.value() for job in jobs] == typed
    else:
        assert parsed.value() == typed


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fit.epochz=1", "fit.epochz: unknown setting; did you mean 'fit.epochs'? known here: batch_size, class_"),
        ("~job", "~job: not set; remove it from the command"),
        ("+backbone=xception", "+backbone: already chosen; remove the +"),
        ("tuner.arguments.foo=1", "tuner.arguments.foo: not set in its file; add it with +tuner.arguments.foo=VALUE"),
        ("fit.epochs=1,2", "fit.epochs=1,2: several values need -m"),
        ("split.top=1", "split.top: unknown setting; did you mean 'select.top_k'? known here: folds, group_by"),
        ("~judged_by", "~judged_by: unknown setting; did you mean 'evaluate_with'?"),
        ("augmentation=lite", "augmentation=lite: unknown option; did you mean 'light'? known here: flip, light"),
        ("hydra/launcher=nowhere", "pip install 'catsdogs[some]' to add it; known here: basic, isolated"),
        ("fit.epochs=[", "fit.epochs=[: expected key=value"),
    ],
)
def test_hydras_errors_become_one_line_messages_without_its_advice(composed, monkeypatch, override, words):
    monkeypatch.setitem(EXTRAS, "nowhere", "some")
    with pytest.raises(HydraException) as refused:
        composed(override)
    message = format_config_error(refused.value)
    assert words in message
    for advice in ("multirun", "HYDRA_FULL_ERROR", "https://", "To append", "\n"):
        assert advice not in message


def test_the_name_of_a_study_is_not_swept_and_arguments_of_the_tuner_are_set_without_a_plus(composed):
    for key in ("study", "studies_dir", "cache"):
        with pytest.raises(UserError, match=f"{key}: cannot be swept"):
            with_default_study(["-m", f"{key}=a,b"], [f"{key}=a,b"], True)
    with pytest.raises(UserError, match="foo=3: unknown argument of the bayesian oracle; known here: num"):
        to_search_config(composed("data.train=t", "tuner=bayesian", as_typed("tuner.arguments.foo=3")))
    assert to_search_config(composed("data.train=train.zip", as_typed("space.l2.step=10"))).space["l2"].step == 10
    overrides = ["seed=1", "++space.l2.lo=5"]
    assert with_value("null: not an option", ["seed=1", "+tta=Null"]) == "+tta=null: not an option"
    assert with_value("space.l2.lo: unknown setting", overrides) == "space.l2.lo=5: unknown setting"
    assert with_value("interval(A,B): needs x", ["seed=interval(1,2)"]) == "seed=interval(1,2): needs x"
    error = HydraException("Error in call to target 'hydra.BasicSweeper':\nTypeError('unexpected argument')")
    assert "hydra.sweeper: has settings of another sweeper; add hydra/sweeper=" in format_config_error(error)


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_help_has_examples_and_does_not_advertise_hydra(run, command):
    printed = run(command, "--help").stdout
    assert printed.count(f"python -m catsdogs.{command} ") >= 4
    assert "Override any value with key=value" in printed
    assert "owered by Hydra" not in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: 2024_01", "study=202401: YAML read a number; quote it in its file, as in '2024_01'"),
        ("data: {train: t.zip, ignore: [cat.1, 001]}", "data.ignore.1=1: YAML read a number"),
        ("data: {train: '012'}\nstudy: '2024_01'", None),
    ],
)
def test_a_name_or_path_in_a_file_that_yaml_reads_as_a_number_is_refused(composed, tmp_path, text, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "007.yaml").write_text(f"# @package _global_\n{text}\n")
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", as_typed("experiment=007"))
    if message is None:
        assert to_search_config(config).study == "2024_01"
        return
    with pytest.raises(UserError, match=re.escape(message)):
        to_search_config(config)


def test_a_leading_tilde_is_the_home_folder_in_every_path(composed, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.h5").touch()
    keys = ("studies_dir", "cache", "data.train", "data.validation", "data.test", "backbone.weights")
    config = to_search_config(composed(*(as_typed(f"{key}=~/w.h5") for key in keys)))
    assert {attrgetter(key)(config) for key in keys} == {str(tmp_path / "w.h5")}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("mark", b"\xef\xbb\xbf# @package _global_\r\nfit:\r\n  epochs: 0\r\n", "error: fit.epochs=0: must be greater"),
        ("utf16", "fit: 1".encode("utf-16"), "utf16.yaml: cannot be read; save it as YAML in UTF-8"),
        ("swept", b"# @package _global_\nhydra: {sweeper: {params: {study: 'a,b'}}}", "params.study: cannot be swept"),
        ("home", b"# @package _global_\nhydra: {sweeper: {params: {data.train: '~/a,~/b'}}}", "/a: not found"),
    ],
)
def test_files_of_a_user_are_read_or_refused(run, tmp_path, name, content, problem):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_bytes(content)
    multirun = ["-m"] if b"sweeper" in content else []
    arguments = ["--config-dir=~/mine", *multirun, "data=sample", f"experiment={name}\r"]
    done = run("search", *arguments, HOME=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


# An id is the path of a file without its suffix.
_IDS = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" '\"\\${}[],:=()%"), min_size=1)


@given(st.lists(_IDS, min_size=1, max_size=3))
@example(["cat.1", "dogs/dog 2", "a,b", "x'y", 'x"y', "\\", '\\"', "a\\", "${x}", "\\${x}", "\\\\${x}", "$", "a${"])
@example(["null", "true", "1", "007", "1e5", "1_000", "nan", "inf", "-1", "_", "*", "a=b", "[x]", "{y}", "choice(1,2)"])
def test_hydra_reads_quoted_ids_back(ids):
    override = OverridesParser.create().parse_override(f"data.ignore=[{','.join(map(quoted, ids))}]")
    config = OmegaConf.create({"ignore": override.value()})
    assert OmegaConf.to_container(config, resolve=True) == {"ignore": ids}
