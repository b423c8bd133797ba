"""Locks on job folders, of every supported version of filelock."""

import os
import stat

import pytest

from catsdogs.base.errors import UserError
from catsdogs.study.locking import LOCK, is_locked, lock_job

pytestmark = pytest.mark.lowest


def test_a_lock_file_stays_and_respects_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with lock_job(tmp_path):
            assert is_locked(tmp_path)
    finally:
        os.umask(before)
    # If it were removed, a process that waits for the removed file and another one could both hold the lock.
    assert stat.S_IMODE((tmp_path / LOCK).stat().st_mode) == 0o640
    assert not is_locked(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    assert is_locked(tmp_path) is None
    with pytest.raises(UserError, match=r"its \.lock cannot be opened"), lock_job(tmp_path):
        pass
