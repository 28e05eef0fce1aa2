"""Atomic writes: the order of their steps, and what an error or a dead writer leaves."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moleflow.files import (
    NotAFile,
    age,
    create_exclusively,
    make_folder,
    make_folder_if_missing,
    names,
    read,
    remove,
    remove_leftovers,
    rename,
    stat_now,
    sync_folder,
    temporary_file,
    touch,
    write_atomically,
    write_file,
)
from moleflow.owner import owner_code


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


# The errors below come from a file server that is overloaded, away or answers twice. A local disk
# gives none of them, so they are put in; tests/shared sees them on real shared filesystems.


class Faults:
    """Makes a function of `os` fail at some calls, before or `after` it has done its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.calls = 0

    def __call__(self, name: str, number: int, at: tuple[int, ...] = (1,), after: bool = False) -> None:
        real = getattr(os, name)

        def fail(*given: object, **named: object) -> object:
            self.calls += 1
            if self.calls not in at:
                return real(*given, **named)
            if after:
                real(*given, **named)
            raise OSError(number, os.strerror(number))

        self._patch.setattr(os, name, fail)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """One fault; the names of temporary files are removed as ever."""
    return Faults(monkeypatch)


def test_a_lost_reply_to_a_rename_is_no_error(tmp_path: Path, faults: Faults) -> None:
    faults("replace", errno.ENOENT, after=True)
    write_atomically(tmp_path / "a", b"te", b"xt")
    assert (tmp_path / "a").read_text() == "text"
    assert faults.calls == 1


def test_a_rename_that_lost_its_temporary_file_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host took the writer for dead and cleaned up behind it."""
    replace, removed = os.replace, []

    def remove_first(source: Path, target: Path) -> None:
        if not removed:
            removed.append(source)
            source.unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", remove_first)
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "new"
    assert removed


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_passing_error_is_tried_again_in_a_new_file(
    tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """A second sync of the same file would say that all is well, over pages that were lost."""
    names: list[str] = []
    unlink = os.unlink
    monkeypatch.setenv("MOLEFLOW_FILE_RETRY_S", "30")  # Two pauses, however busy the machine is.
    monkeypatch.setattr(os, "unlink", lambda path: (names.append(Path(path).name), unlink(path)))
    faults(name, number, at=(1, 2))
    write_atomically(tmp_path / "a", b"text")
    assert (tmp_path / "a").read_text() == "text"
    assert (faults.calls, len(set(names))) == (3, 2)  # Both temporary files that failed.
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_that_does_not_pass_counts_after_the_time_that_is_set(
    tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOLEFLOW_FILE_RETRY_S", "0.2")
    faults("fsync", errno.EIO, at=tuple(range(1, 1000)))
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "a", b"text")
    assert faults.calls >= 3
    assert caplog.messages == [f"{tmp_path / 'a'}: Input/output error; trying again for up to 0.2 s"]
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_not_tried_again(tmp_path: Path, faults: Faults) -> None:
    faults("fsync", errno.ENOSPC, at=(1, 2))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"text")
    assert faults.calls == 1


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO])
def test_a_lost_reply_to_an_exclusive_creation_is_success(tmp_path: Path, faults: Faults, number: int) -> None:
    faults("link", number, after=True)
    assert create_exclusively(tmp_path / "a", b"mine")
    assert not create_exclusively(tmp_path / "a", b"yours")
    assert (tmp_path / "a").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_exclusive_creation_shows_nobody_an_empty_file(tmp_path: Path) -> None:
    def create(number: int) -> bool:
        return create_exclusively(tmp_path / "a", f"{number:03d}".encode() * 1000)

    with ThreadPoolExecutor(8) as pool:
        created = [number for number, done in enumerate(pool.map(create, range(64))) if done]
    assert len(created) == 1
    assert (tmp_path / "a").read_text() == f"{created[0]:03d}" * 1000


def test_a_filesystem_without_links_creates_exclusively_too(tmp_path: Path, faults: Faults) -> None:
    faults("link", errno.EPERM, at=(1, 2))
    assert create_exclusively(tmp_path / "a", b"mine")
    assert not create_exclusively(tmp_path / "a", b"yours")
    assert (tmp_path / "a").read_text() == "mine"


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, faults: Faults) -> None:
    (tmp_path / "a").write_text("text")
    faults("open", errno.ESTALE, at=(1, 2))
    assert read(tmp_path / "a") == b"text"
    assert faults.calls == 3


def test_a_file_that_stays_stale_is_gone(tmp_path: Path, faults: Faults) -> None:
    (tmp_path / "a").write_text("text")
    faults("open", errno.ESTALE, at=tuple(range(1, 100)))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a")
    assert stat_now(tmp_path / "a") is None


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a pipe without a writer would hang for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(NotAFile, match=r"is no regular file|Is a directory"):
            read(path)


def test_a_rename_says_that_its_source_is_missing(tmp_path: Path, faults: Faults) -> None:
    with pytest.raises(FileNotFoundError):
        rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_text("text")
    faults("replace", errno.ENOENT, after=True)
    rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "text"


def test_a_listing_has_no_temporary_files_and_none_without_a_folder(tmp_path: Path) -> None:
    for name in ("a", ".b.123.tmp", ".c"):
        (tmp_path / name).write_text("")
    assert sorted(names(tmp_path)) == sorted(names(tmp_path, fresh=True)) == [".c", "a"]
    assert names(tmp_path / "missing") == names(tmp_path / "missing", fresh=True) == []


def test_ages_are_taken_by_the_clock_that_stamps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("text")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    young = age(path)
    assert young is not None
    assert 0 <= young < 60
    os.utime(path, (now - 500, now - 500))
    old = age(path)
    assert old is not None
    assert 500 <= old < 560
    touch(path)
    assert (age(path) or 0) < 60
    assert age(tmp_path / "missing") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path, dead_pid: int) -> None:
    left = [f".a.{owner_code(dead_pid)}-0123456789ab.tmp", ".b.77.tmp", f".c.{'0' * 8}-1-0123456789ab.tmp"]
    kept = [f".d.{owner_code()}-0123456789ab.tmp", f".e.{'0' * 8}-1-0123456789ab.tmp", "f.tmp", "g"]
    for name in left + kept:
        (tmp_path / name).write_text("half")
    for name in (*left[1:], "f.tmp", "g"):
        os.utime(tmp_path / name, (1, 1))
    assert sorted(path.name for path in remove_leftovers(tmp_path)) == sorted(left)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_removing_twice_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert remove(tmp_path / "a")
    assert not remove(tmp_path / "a")


def test_a_folder_that_exists_is_made(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_a_folder_is_made_for_the_first_file_in_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    tries = []

    def create() -> bool:
        tries.append(path.parent.is_dir())
        return create_exclusively(path, b"content")

    assert make_folder_if_missing(path.parent, create) is True
    assert make_folder_if_missing(path.parent, create) is False
    assert tries == [False, True, True]
    assert path.read_bytes() == b"content"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_folder_if_missing(tmp_path / "file", lambda: create_exclusively(tmp_path / "file" / "x", b""))
