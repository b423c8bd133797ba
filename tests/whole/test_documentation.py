"""Commands of README, tutorial and guides run or compose, their shown output is real, and documented errors are raised.

A block of commands runs, unless the line before it is `*Not run by the tests: REASON.*`; its settings are composed.
`.ci/run` runs those after `<!-- command: NAME -->`.
"""

import errno
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import run_python, run_together
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from studies import write_study
from synthetic_images import cats_and_dogs, folder_of, jpeg, zip_of

from catsdogs.base.errors import UserError
from catsdogs.base.resources import as_out_of_resources
from catsdogs.config.checks import validated
from catsdogs.config.compose import as_typed, parse_overrides, resolved, to_search_config, with_default_study
from catsdogs.config.effects import check_search
from catsdogs.config.schema import RetrainConfig
from catsdogs.study.locking import lock_message

ROOT = Path(__file__).parents[2]
GUIDES = sorted(f"docs/guides/{file.name}" for file in ROOT.glob("docs/guides/*.md"))
PAGES = ("README.md", "docs/report.md", *GUIDES)
BLOCK = r"(?:^(?:<!-- |\*)([^\n]+)(?: -->|\.\*\n)\n)?^```(\w+)\n(.*?)^```$"

# Added to every search of README and guides that does not set them, to train in seconds and without a download.
SMALL = ("backbone.weights=null", "backbone.image_size=32", "fit.epochs=1", "tuner.max_trials=1", "split.folds=1")
PYTHON = """
import subprocess, sys
words = sys.argv[1:]
typed = [word.partition("=")[0] for word in words]
if "catsdogs.search" in words and SMALL:
    words += [word for word in SMALL if word.partition("=")[0] not in typed]
    words += ["hydra/launcher=basic"] if "-m" in words[2:] and not any("launcher" in key for key in typed) else []
status = subprocess.call([sys.executable, *words])
# Without a network, doctor reports that weights are missing.
sys.exit(0 if "catsdogs.doctor" in words and status == 1 else status)
"""


class Block(NamedTuple):
    mark: str
    language: str
    code: str


def blocks(page):
    return [
        Block(*groups)
        for groups in re.findall(BLOCK, (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]


def searches_and_retrains(block):
    """Return the words of every `search` and `retrain` command of a block, after its name."""
    lines = block.code.replace("\\\n", " ").replace("&&", "\n").splitlines()
    found = (re.search(r"python -m catsdogs\.(search|retrain) (.*)", line) for line in lines)
    return [(match[1], shlex.split(match[2], comments=True)) for match in found if match]


def composed_jobs(words, composed):
    """Check a search as it would be checked before its first job; return the configurations of its jobs."""
    parsed = get_args_parser().parse_intermixed_args([as_typed(word) for word in words])
    # hydra-ray-launcher is not installed.
    typed = [word for word in parsed.overrides if "launcher=ray" not in word and "launcher.ray" not in word]
    overrides = with_default_study(typed, typed, parsed.multirun)
    if parsed.config_dir:
        overrides.append(f"hydra.searchpath=[file://{Path(parsed.config_dir).resolve()}]")
    jobs = BasicSweeper.split_arguments(parse_overrides(overrides), None)[0]
    assert parsed.multirun or len(jobs) == 1
    configs = [composed(*job) for job in jobs]
    check_search([(to_search_config(config), job) for config, job in zip(configs, jobs, strict=True)])
    return configs


@pytest.mark.parametrize("page", ["docs/tutorial.md", *PAGES])
def test_blocks_are_marked_and_their_commands_compose(page, composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = [f"weights/{name}_no_top.weights.h5" for name in ("mobilenet_v2_1.0_224", "efficientnet_lite0_224")]
    files = dict.fromkeys(["mobilenet_v2.weights.h5", "multirun/first/best/model.keras", *weights], b"")
    declared = [one.code for one in blocks(page) if one.language == "yaml"]
    own = {name: code.encode() for code in declared for name in re.findall(r"mine/\S+yaml", code)[:1]}
    folder_of(tmp_path, files | own)
    job = None
    for block in blocks(page):
        assert block.language not in ("sh", "shell", "console"), block.code
        if block.language == "bash":
            assert re.match(r"$|Not run by the tests: .|command: (test|quickstart)$", block.mark), block.mark
            for name, words in searches_and_retrains(block):
                if name == "search":
                    job = composed_jobs(words, composed)[0]
                else:
                    overrides = [as_typed(word) for word in words]
                    ConfigStore.instance().store(name="chosen_job", node=OmegaConf.to_container(job, resolve=True))
                    validated(resolved(composed("job=j", *overrides, name="retrain")), RetrainConfig)


@pytest.mark.parametrize("wrong", ["augmentation=lihgt", "fit.epochz=3", "model.dropout=0.2", "split.folds=-1"])
def test_a_wrong_setting_of_a_page_is_found(composed, wrong):
    block = Block("", "bash", f"python -m catsdogs.search -m study=s data.train=a.zip \\\n    {wrong}  # comment\n")
    with pytest.raises((UserError, HydraException)):
        composed_jobs(searches_and_retrains(block)[0][1], composed)


def plain(line):
    """Return a line of output without numbers and times, which depend on the machine, and without line breaks."""
    return " ".join(re.sub(r"[-+]?\d[\d.:,]*(e-\d+|%)?( s| min)?(?!\w)", "#", line).split())


def run_page(page, folder, small=()):
    """Run the blocks of a page; the lines of a text block must be in the output of the commands before it."""
    output = ""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "python").write_text(f"#!{sys.executable}\nSMALL = {small}{PYTHON}")
    (folder / "bin" / "python").chmod(0o755)
    script = 'set -euo pipefail\nexport PATH="$PWD/bin:$PATH"\n'
    run = "import subprocess, sys; sys.exit(subprocess.call(['bash', '-c', sys.argv[1]], stderr=sys.stdout))"
    for block in blocks(page):
        if block.language == "bash" and not block.mark:
            done = run_python(folder, "-c", run, script + block.code)
            assert done.returncode == 0, f"{page}:\n{block.code}\n{done.stdout[-3000:]}{done.stderr}"
            output = plain(done.stdout.replace(str(folder), "/home/me"))
        if block.language == "text" and output:
            lines = block.code.splitlines()
            missing = [line for line in lines if line.strip() != "..." and plain(line) not in output]
            # Another processor rounds differently, so another trial may win.
            assert len(missing) <= len(lines) // 3, f"{page}: {missing}\n{done.stdout}"


@pytest.mark.slow
def test_the_tutorial_runs_and_shows_its_output(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run_page("docs/tutorial.md", tmp_path)


@pytest.mark.parametrize(
    "pages", [pytest.param(PAGES[:2], marks=pytest.mark.slow), pytest.param(PAGES, marks=pytest.mark.guides)]
)
def test_commands_of_pages_run(tmp_path, pages):
    zip_of(tmp_path / "train.zip", cats_and_dogs(14, 14))
    for name, first in (("test", 500), ("new", 600)):
        zip_of(tmp_path / f"{name}.zip", {f"{name}/{number}.jpg": jpeg(first + number) for number in range(1, 5)})
    for page in pages:
        run_page(page, tmp_path, SMALL)


def test_documented_errors_are_raised(tmp_path):
    zip_of(tmp_path / "train.zip", cats_and_dogs(12, 12))
    zip_of(tmp_path / "dogs-vs-cats.zip", {"train.zip": b"", "test.zip": b""})
    (tmp_path / "page.zip").write_text("<html>")
    for folder in ("photos", "pets/cats"):
        folder_of(tmp_path / folder, {f"IMG_{number}.jpg": jpeg(number) for number in range(3)})
    write_study(tmp_path / "multirun" / "first")
    holder = b'{"pid": 4711, "host": "node3", "started": "2026-11-28T14:03:10+00:00"}'
    locked = folder_of(tmp_path / "multirun" / "first" / "locked", {".holder.json": holder})
    calls = {
        "call lock": lock_message(locked),
        "call memory": str(as_out_of_resources(MemoryError())),
        "call disk": str(as_out_of_resources(OSError(errno.ENOSPC, "", "FILE"))),
    }
    documented = [block for block in blocks("docs/troubleshooting.md") if block.language == "text"]
    assert len(documented) >= 20
    commands = [block for block in documented if not block.mark.startswith(("source ", "call "))]
    errors = {block.mark: f"error: {calls[block.mark]}" for block in documented if block.mark in calls}
    results = run_together(tmp_path, [shlex.split(block.mark) for block in commands])
    for block, (status, _, err) in zip(commands, results, strict=True):
        assert (status, err.count("error: ")) == (2, 1), (block.mark, err)
        errors[block.mark] = next(line for line in err.splitlines() if line.startswith("error: "))
    for block in documented:
        if block.mark.startswith("source "):
            source = (ROOT / block.mark.split()[1]).read_text(encoding="utf-8")
            parts = re.split(r"error:|;|, |(?<=: )| [A-Z]+(?:/models)?\b", block.code)
            assert all(part.strip(" :\n") in source for part in parts), (block.mark, parts)
        else:
            expected = re.escape(block.code.strip()).replace(re.escape("..."), ".+")
            assert re.fullmatch(expected, errors[block.mark].replace(f"{tmp_path}/", "")), errors[block.mark]
