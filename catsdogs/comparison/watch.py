"""Repeated writing of the report while studies run."""

import datetime
import sys
import time
from contextlib import suppress
from pathlib import Path

from catsdogs.base.interrupts import acknowledge
from catsdogs.base.output import lost_output
from catsdogs.base.text import sanitize_line
from catsdogs.comparison.gallery import ImageFolder
from catsdogs.comparison.page.writing import RELOAD_SECONDS, write_report
from catsdogs.comparison.study_data import StudyData
from catsdogs.study.jobs import RESULT, State
from catsdogs.study.leaderboard import write_leaderboard
from catsdogs.study.plan import PLAN
from catsdogs.study.progress import line


def watch(folders: list[Path], output: Path, images: ImageFolder) -> StudyData:
    """Rewrite page, tables and leaderboards every `RELOAD_SECONDS` until no job runs or waits, or until Ctrl-C."""
    for folder in folders:
        while not lost_output() and (folder / PLAN).is_file() and not any(folder.glob(f"*/{RESULT}")):
            print(sanitize_line(f"{folder.resolve().name}: no job has started yet"), flush=True)
            time.sleep(RELOAD_SECONDS)
    try:
        while True:
            # A failed job may be moved away while it is read.
            with suppress(FileNotFoundError):
                study_data = write_report(folders, output, True, images)
                write_leaderboards(folders)
                now = datetime.datetime.now(datetime.UTC)
                print(f"{now.astimezone():%H:%M:%S} {'; '.join(line(folder, now) for folder in folders)}", flush=True)
                # Without output, only a signal could end the command.
                if lost_output() or not study_data.leaderboard["state"].isin([State.RUNNING, State.WAITING]).any():
                    break
            time.sleep(RELOAD_SECONDS)
    except KeyboardInterrupt:
        acknowledge()
        print("no longer watching")
    # The last page must not refresh itself.
    return write_report(folders, output, False, images)


def write_leaderboards(folders: list[Path]) -> None:
    """Write `leaderboard.csv` of every study; print a warning if a folder is not writable."""
    for folder in folders:
        try:
            write_leaderboard(folder)
        except OSError as error:
            # A study of another user may be readable only.
            print(f"warning: cannot write {folder / 'leaderboard.csv'} ({error.strerror})", file=sys.stderr)
