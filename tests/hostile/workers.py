"""Worker processes that read damaged inputs, under limits of memory and time, and the ending of each case.

    same      the values of the valid input
    valid     other values, in their declared ranges
    message   an error, or a line of the report, that names the file and, for a damaged value, its key
    status 2  of a command, with one line on stderr that starts with `error:`

Every other ending is a failure, and so are a warning, a text on stderr, and a file written outside of `cache/`.
"""

import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cases import FILES, VALUES, mutated, put
from commands import COMMANDS, pristine
from readers import READERS, Reader, plain

from catsdogs.base.errors import UserError
from catsdogs.base.text import MOST_CHARACTERS, one_line

LIMIT_BYTES = 1536 * 2**20  # above the memory of a process that has read the valid input
SAME, VALID, MESSAGE, STATUS_2 = "same", "valid", "message", "status 2"
GOOD = (SAME, VALID, MESSAGE, STATUS_2)
ESCAPED = Path("/tmp/hostile-escaped.jpg")  # target of a member of a zip

KEYLESS = re.compile(  # messages about a whole file or the grammar of Hydra
    r"codec can't (de|en)code|field larger than|more than 32 nested lists|: listed twice|\(truncated\)|"
    r"settings of its trials are unknown|images, labels or split|Exceeds the limit \(4300|Error resolving interpolation"
)
READERS_AND_COMMANDS = READERS | COMMANDS
Result = tuple[str, int, str, str]  # reader, number of the case, ending, details


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and modification time of everything below a folder."""
    states = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    # Of a folder, size and time change with its files.
    return {
        name: (state.st_mode, *((0, 0) if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns)))
        for name, state in states.items()
    }


class Case:
    """The folders of a reader's cases: `case/` with its valid input, and others that must not change."""

    def __init__(self, reader: Reader, work: Path) -> None:
        self.reader, self.work, self.folder = reader, work, work / "case"
        for name in ("case", "home", "working"):
            (work / name).mkdir()
        os.environ["HOME"] = str(work / "home")
        os.chdir(work / "working")
        reader.make(self.folder)
        self.files = sorted(
            (str(path.relative_to(self.folder)), kind)
            for pattern, kind in reader.files.items()
            for path in self.folder.glob(pattern)
        )
        self.pristine = work.parent / f"{work.name}-pristine"
        shutil.copytree(self.folder, self.pristine)
        self.valid: dict[str, tuple[Any, str]] = {}

    def run(self, name: str, seed: int, number: int) -> tuple[str, str]:
        """Return the ending of a case and its details."""
        rng = random.Random(f"{name} {seed} {number}")
        file, kind = rng.choice(self.files)
        target = self.folder / file
        if file not in self.valid:
            same = next(iter(self.valid.values()), None) if self.reader.same else None
            value = self.reader.read(self.folder, target) if same is None else same[0]
            self.valid[file] = value, repr(plain(value))
        content: bytes | str = rng.choice(FILES)
        key = ""
        if kind in VALUES or rng.random() < 0.93:
            content, key = mutated(rng, kind, (self.pristine / file).read_bytes())
        put(target, content)
        before = snapshot(self.work)
        os.lseek(2, 0, os.SEEK_SET)
        os.ftruncate(2, 0)
        signal.setitimer(signal.ITIMER_PROF, self.reader.seconds)
        signal.alarm(6 * self.reader.seconds)  # for a reader that waits, also on a busy machine
        try:
            ending = self._ending(file, kind, key)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        if text := os.pread(2, 2000, 0).decode(errors="replace"):
            ending = ("stderr", text)
        after = snapshot(self.work)
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        allowed = tuple(f"case/{path}" for path in self.reader.writes)
        outside = sorted(path for path in changed if not path.startswith(allowed))
        if outside or ESCAPED.exists():
            ending = ("wrote outside", str(outside))
        ending = ending[0], ending[1].replace(f"{self.folder}/", "")
        self._restore({path.removeprefix("case/") for path in changed} | {file})
        return ending

    def _ending(self, file: str, kind: str, key: str) -> tuple[str, str]:
        valid, valid_text = self.valid[file]
        try:
            value = self.reader.read(self.folder, self.folder / file)
        except UserError as error:
            ending = message_ending(one_line(str(error)), Path(file), kind, key)
            return (STATUS_2, ending[1]) if ending[0] == MESSAGE and str(error).startswith("error: ") else ending
        except Exception as error:
            return failure(error)
        try:
            if (text := repr(plain(value))) == valid_text:
                return SAME, ""
            if self.reader.heals:
                return "other values", text[:200]
            if problem := self.reader.problem(value, valid):
                return "out of range", f"{problem[:300]} ({key})"
            before, after = self.reader.message(valid), self.reader.message(value)
            if file.startswith(("multirun/", "cache/")):  # of the output of commands, only names of files are kept
                key = ""
            return message_ending(after, Path(file), kind, key) if before != after else (VALID, "")
        except Exception as error:
            return failure(error)

    def _restore(self, changed: set[str]) -> None:
        for name in sorted(changed):
            original, path = self.pristine / name, self.folder / name
            if original.is_file():
                put(path, original.read_bytes())
                shutil.copystat(original, path)
            elif not (original.is_dir() and path.is_dir()):
                put(path, "folder" if original.is_dir() else "missing")


def message_ending(message: str, file: Path, kind: str, key: str) -> tuple[str, str]:
    """Return whether a message names the file, and the key of a value that was changed."""
    details = f"{message[:300]} ({key})"
    if "out of memory" in message:
        return "memory", details
    if len(message) > 2 * MOST_CHARACTERS:
        return "long message", details
    named = file.name in message or file.parent.name in message or (kind == "yaml" and key and key in message)
    if kind not in VALUES and not named:
        return "no file", details
    if kind in ("json", "csv", *VALUES) and key not in message and not KEYLESS.search(message):
        return "no key", details
    return MESSAGE, details


def failure(error: Exception) -> tuple[str, str]:
    """Return type, text and place of an error that no user should see."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/catsdogs/" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}"
    return "memory" if isinstance(error, MemoryError) else type(error).__name__, f"{place}: {str(error)[:200]!a}"


def work(connection: Connection, name: str, seed: int, numbers: Sequence[int]) -> None:
    """Run cases of one reader in this process, and send the result of each."""
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, signal.SIG_DFL)  # ends the process even in a library that never returns to Python
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("error")
    for module in ("keras", "keras_tuner"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, tempfile.TemporaryFile() as errors:
        (Path(folder) / "work").mkdir()
        case = Case(READERS_AND_COMMANDS[name], Path(folder) / "work")
        case.reader.read(case.folder, case.folder / case.files[0][0])
        original = os.dup(2)
        os.dup2(errors.fileno(), 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        used = int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + LIMIT_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            for number in numbers:
                connection.send((name, number, *case.run(name, seed, number)))
        finally:
            os.dup2(original, 2)


def run(tasks: Sequence[tuple[str, Sequence[int]]], seed: int, processes: int) -> Iterator[Result]:
    """Yield the results of all cases, given as reader and numbers; a process that dies is replaced."""
    context = multiprocessing.get_context("fork")  # so that a new process need not import TensorFlow
    running: dict[Any, tuple[Any, str, list[int]]] = {}
    waiting = list(reversed(tasks))
    if any(name in COMMANDS for name, _ in tasks):
        pristine()  # once, for all processes
    while waiting or running:
        while waiting and len(running) < processes:
            name, numbers = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(sender, name, seed, numbers))
            process.start()
            sender.close()
            running[receiver] = process, name, list(numbers)
        ready: Any
        for ready in wait(list(running)):
            process, name, left = running[ready]
            try:
                result = ready.recv()
                left.remove(result[1])
                yield result
            except EOFError:
                del running[ready]
                process.join()
                if process.exitcode == 1:
                    raise SystemExit(f"{name}: the valid input cannot be read") from None
                if left:
                    hung = process.exitcode in (-signal.SIGALRM, -signal.SIGPROF)
                    yield name, left[0], "hang" if hung else f"died with {process.exitcode}", ""
                    waiting += [(name, left[1:])] if left[1:] else []
