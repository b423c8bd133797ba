"""Paths that a command must not write to, permissions of its files, and its output to full devices and closed pipes."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import run_python
from studies import CHOICES, write_job
from synthetic_images import folder_of

from catsdogs import predict
from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import check_links, replacing, write_text
from catsdogs.study.plan import write_plan


def run(command, monkeypatch):
    """Run a command in this process and return its exit status."""
    name, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return __import__(f"catsdogs.{name}", fromlist=["main"]).main()


SEARCH = "search experiment=debug study=study studies_dir=."
PREDICTIONS = "id,label\ncat.1,0.25\n"
TWELVE = f"id,{','.join(map(str, range(12)))}\n"


@pytest.fixture
def study(tmp_path):
    """A study of one job, with a file outside it that no command may show or change."""
    write_text(tmp_path / "outside" / "secret", "secret")
    write_job(tmp_path / "study", CHOICES, name="job")
    write_plan(tmp_path / "study", ["job"], [])
    return tmp_path / "study"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("template.csv", "not written by catsdogs-predict"),
        ("empty.csv", "not written by catsdogs-predict"),
        ("labels.csv", "not written by catsdogs-predict"),
        ("numbered.csv", "not written by catsdogs-predict"),
        ("folder", "is a folder"),
        ("fifo", "is not a regular file"),
        ("link.csv", "is a symbolic link"),
        ("image.jpg/new.csv", "Not a directory"),
        ("study/best/submission.csv", "in the folder of the model"),
        ("/dev/stdout", "is a symbolic link"),
        ("/dev/full", "is not a regular file"),
        ("/proc/new.csv", "cannot be written"),
    ],
)
def test_predictions_replace_only_predictions(tmp_path, monkeypatch, name, problem):
    files = {"template.csv": b"id,label\n1,0.5\n2,0.5\n"}
    files["labels.csv"] = f"{TWELVE}1{',0.33333333' * 11},1.0\n".encode()  # took hours with a regular expression
    files["numbered.csv"] = f"{TWELVE}1{',0.08333333' * 12}\n".encode()
    files |= {"image.jpg": b"\xff\xd8", "empty.csv": b"", "mine.csv": b"mine"}
    best = "study/best/"
    folder_of(tmp_path, {**files, f"{best}submission.csv": PREDICTIONS.encode(), f"{best}model.keras": b""})
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link.csv").symlink_to("mine.csv")
    monkeypatch.setattr(predict, "_images", Mock(side_effect=AssertionError("checked too late")))
    with pytest.raises(UserError, match=f"^--output {tmp_path / name}:? .*{problem}"):
        predict._predict([str(tmp_path / best), "image.jpg", "--output", str(tmp_path / name)])
    assert all((tmp_path / file).read_bytes() == content for file, content in files.items())
    write_text(tmp_path / "numbered.csv", files["numbered.csv"].decode() + '"a,b"' + ",0.05" * 11 + ",0.45\n")
    write_text(tmp_path / "class.csv", 'id,label,class\nb,0.5,\na,0.75,"dog, small"\n')
    for other in ("new/out.csv", "old.csv", "numbered.csv", "class.csv"):
        write_text(tmp_path / "old.csv", PREDICTIONS)
        with pytest.raises(AssertionError, match="checked too late"):
            predict._predict([str(tmp_path / best), "image.jpg", "--output", str(tmp_path / other)])


@pytest.mark.parametrize(
    "link",
    ["report", "tensorboard", "best", "job/tuner", "job", "job/result.json", ".retrain", "multirun.yaml", "job/.lock"],
)
@pytest.mark.parametrize("command", ["report study", "retrain study=./study", SEARCH])
def test_links_out_of_a_study_are_not_followed(study, monkeypatch, capsys, link, command):
    target = study.parent / "outside" / ("secret" if "." in link[1:] else "")
    if (path := study / link).exists():
        path.rename(study.parent / "moved")
    path.symlink_to(target)
    monkeypatch.chdir(study.parent)
    assert run(command, monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert f"{link}: is a symbolic link that leads out of" in printed.err
    assert os.listdir(study.parent / "outside") == ["secret"]
    assert (study.parent / "outside" / "secret").read_text() == "secret"


def test_a_linked_study_and_links_inside_it_are_followed(study):
    (study / "best").symlink_to("job")
    study.with_name("link").symlink_to(study)
    check_links(study.with_name("link"))
    check_links(study.with_name("link") / "best", study.with_name("link"))
    study.with_name("other").symlink_to("outside")
    with pytest.raises(UserError, match="other: is a symbolic link that leads out of"):
        check_links(study.with_name("other"), study)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["job/search.log", "job/.hydra/config.yaml"])
def test_what_is_no_file_in_place_of_a_file_of_hydra_is_refused(study, monkeypatch, capsys, make, name):
    (study / name).parent.mkdir(exist_ok=True)
    make(study / name)
    monkeypatch.chdir(study.parent)
    assert run(f"{SEARCH} hydra.sweep.subdir=job hydra.run.dir=study/job", monkeypatch) == 2
    assert f"{name}: is not a regular file; remove it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report study", "cache show --cache=study", "audit study"])
def test_folders_nested_without_end_are_refused(study, monkeypatch, capsys, command):
    folder = study / "archives"
    try:
        for _ in range(1200):  # more than Python recurses
            folder.mkdir()
            monkeypatch.chdir(folder)
            folder = Path("d")
        monkeypatch.chdir(study.parent)
        assert run(command, monkeypatch) == 2
        assert "more than 64 nested folders; remove it" in capsys.readouterr().err
    finally:
        subprocess.run(["rm", "-rf", str(study / "archives")], check=True)  # pytest would recurse


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_files_and_folders_get_the_permissions_of_the_umask(tmp_path, umask):
    (tmp_path / "file").mkdir()
    before = os.umask(umask)
    try:
        with pytest.raises(IsADirectoryError) as error, replacing(tmp_path / "file"):
            pass
        assert error.value.filename == str(tmp_path / "file")
        with replacing(tmp_path / "new" / "file") as temporary:
            assert temporary.stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("command", ["retrain study=./study", SEARCH])
def test_a_read_only_study_is_refused_before_training(study, monkeypatch, capsys, command):
    # As root ignores permissions, the file that is created to check them fails.
    refused = Mock(side_effect=OSError(errno.EROFS, "Read-only file system"))
    monkeypatch.setattr("catsdogs.base.files.tempfile.TemporaryFile", refused)
    monkeypatch.chdir(study.parent)
    files = sorted(study.parent.rglob("*"))
    assert run(command, monkeypatch) == 2
    assert re.fullmatch("error: study .*: cannot be written .Read-only file system.;.*\n", capsys.readouterr().err)
    assert sorted(study.parent.rglob("*")) == files


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "out of disk while writing x.csv"),
        (OSError(errno.EROFS, "Read-only file system", "x.csv"), "x.csv: Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "x.csv"), "x.csv: Permission denied"),
        (RuntimeError("can't start new thread"), "the system starts no more threads"),
    ],
)
def test_refusals_of_the_system_are_one_line(capsys, error, words):
    assert exit_status_of(Mock(side_effect=error)) == 2
    assert re.fullmatch(f"error: {words}[;:] .*run the same command again\n", capsys.readouterr().err)
    with pytest.raises(ZeroDivisionError):
        exit_status_of(Mock(side_effect=ZeroDivisionError))


PROGRAM = """
import logging, pathlib, sys, argparse
from catsdogs.base.errors import exit_status_of
def command():
    logging.warning("log")
    print("text", flush=True)
    pathlib.Path("results").touch()
    argparse.ArgumentParser().parse_args(["--help"])
sys.exit(exit_status_of(command))
"""


def test_characters_that_the_locale_lacks_are_escaped(tmp_path):
    program = PROGRAM.replace("text", "\\u2013").replace("logging.w", 'logging.basicConfig(filename="log"); logging.w')
    program = program.replace('g("log")', 'g("\\udcc3")')
    done = run_python(tmp_path, "-c", program, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\u2013\nusage:")
    assert (tmp_path / "log").read_text() == "WARNING:root:\\udcc3\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("output", "status"), [("full", 1), ("pipe", 141), ("closed", 1), ("file", 0)])
def test_a_command_continues_without_output(tmp_path, stream, output, status):
    reader, pipe = os.pipe()
    os.close(reader)
    target = {"full": "/dev/full", "pipe": f"&{pipe}", "closed": "&-", "file": "output"}[output]
    script = f'exec "$1" -c "$2" {1 if stream == "stdout" else 2}>{target}'
    words = ["bash", "-c", script, "-", sys.executable, PROGRAM]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, pass_fds=[pipe])
    os.close(pipe)
    assert (done.returncode, (tmp_path / "results").is_file()) == (status, True)
    assert done.stderr == ("WARNING:root:log\n" if stream == "stdout" else "")
    assert ("usage:" in done.stdout) == (stream == "stderr")
