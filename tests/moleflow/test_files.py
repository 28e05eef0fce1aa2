"""Atomic writes: the order of their steps, and what an error or a dead writer leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moleflow.files import sync_folder, temporary_file, write_atomically, write_file


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The syncs and renames so far, with the content of the file, or the name of the folder."""
    done: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").resolve()
        done.append(("sync", path.name if path.is_dir() else path.read_text()))
        sync(handle)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(("rename", source.read_text()))
        assert not target.exists() or target.read_text() == "old"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return done


def test_a_file_is_written_whole_then_synced_then_renamed(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    write_atomically(path, b"one ", memoryview(b"two"))
    assert steps == [("sync", "one two"), ("rename", "one two")]
    assert path.read_text() == "one two"
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_be_made_again_is_not_synced(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    write_atomically(tmp_path / "a", b"text", durable=False)
    assert steps == [("rename", "text")]
    write_file(tmp_path / "b", b"text", durable=False)
    assert steps == [("rename", "text")]
    write_file(tmp_path / "c", b"te", b"xt")
    assert steps == [("rename", "text"), ("sync", "text")]


def test_a_folder_is_synced_and_its_handle_closed(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(tmp_path)
    assert steps == [("sync", tmp_path.name)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_filesystem_that_cannot_sync_a_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError, match="Invalid argument"):
        write_atomically(tmp_path / "a", b"text")  # A file that cannot be synced is one.
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_is_hidden_unique_and_removed(tmp_path: Path) -> None:
    with temporary_file(tmp_path / "a.json") as one, temporary_file(tmp_path / "a.json") as two:
        assert one != two
        assert one.parent == tmp_path
        assert one.name.startswith(".a.json.")
        assert one.name.endswith(".tmp")
        one.write_text("text")
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_file_may_be_in_another_folder(tmp_path: Path) -> None:
    with temporary_file(tmp_path / "a", tmp_path / "other") as path:
        assert path.parent == tmp_path / "other"
    (tmp_path / "other").mkdir()
    write_atomically(tmp_path / "a", b"text", folder=tmp_path / "other")
    assert (tmp_path / "a").read_text() == "text"
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "a", b"new", folder=tmp_path / "missing")
    assert (tmp_path / "a").read_text() == "text"


def test_a_full_disk_keeps_the_old_content_and_leaves_nothing_else(
    tmp_path: Path, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with no_file_larger_than(10), pytest.raises(OSError, match="File too large") as caught:
        write_atomically(path, b"x" * 100)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "a", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
