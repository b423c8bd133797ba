"""The states after file operations."""

import os

import pytest
from recording import Operation
from states import DROPPED, HALVED, KEPT, UNNAMED, Folder

from catsdogs.base import files

CREATED = [Operation("create", ".a-1"), Operation("write", ".a-1", data=b"abcd")]
MOVED, SYNCED = Operation("rename", ".a-1", "a"), Operation("sync", ".")


@pytest.mark.parametrize(
    ("operations", "variant", "contents"),
    [
        ([*CREATED, MOVED], KEPT, {"a": b"abcd"}),
        ([*CREATED, MOVED], HALVED, {"a": b"ab"}),
        ([*CREATED, MOVED], DROPPED, {"a": b""}),
        ([*CREATED, Operation("sync", ".a-1"), MOVED], DROPPED, {"a": b"abcd"}),
        ([*CREATED, Operation("sync", ".a-1"), MOVED], UNNAMED, {"old": b"1"}),
        ([*CREATED, SYNCED, MOVED], UNNAMED, {".a-1": b"", "old": b"1"}),
        ([Operation("truncate", "old"), Operation("write", "old", data=b"23")], HALVED, {"old": b"2"}),
        ([Operation("truncate", "old"), Operation("write", "old", data=b"23")], DROPPED, {"old": b"1"}),
        ([Operation("mkdir", "b"), Operation("create", "b/c"), Operation("unlink", "b/c")], KEPT, {"b": None}),
    ],
)
def test_unsynced_changes_are_kept_halved_dropped_or_unnamed(operations, variant, contents):
    folder = Folder({"old": b"1"})
    for operation in operations:
        folder.apply(operation)
    assert folder.files(variant) == ({} if variant == UNNAMED else {"old": b"1"}) | contents


def test_only_abandoned_temporary_files_and_folders_are_removed(tmp_path):
    for name in (".best-a_b3c4d5/model.keras", ".best-12345678/model.keras", ".a.b-12345678.csv", ".git-credentials"):
        files.write_text(tmp_path / name, "")
    os.utime(tmp_path / ".best-12345678", (0, 0))
    files.remove_temporaries(tmp_path, ["best"])
    assert not (tmp_path / ".best-12345678").exists()
    files.remove_temporaries(tmp_path, ["a.b.csv"], older_than_seconds=0)
    assert {path.name for path in tmp_path.iterdir()} == {".best-a_b3c4d5", ".git-credentials"}
