"""Routes: functions of `moleflow.files` that another process performs, each request once."""

from __future__ import annotations

import errno
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from moleflow import files
from moleflow.cache.claim import is_stale, try_claim
from moleflow.file_service import FileAnswer, FileRequest, FileService, RemoteFiles
from moleflow.passing_errors import RETRY_VARIABLE

Lose = Callable[[FileRequest], str]


@contextmanager
def far_away(near: Path, real: Path, lose: Lose = lambda _: "") -> Iterator[None]:
    """Route a folder that does not exist to a service that has it elsewhere, by pickles.

    Args:
        near: the folder, as this process spells it.
        real: the folder behind it.
        lose: tells of a request whether it or its answer gets lost: "request", "answer" or "".
    """
    service = FileService([real])

    def moved(value: object) -> object:
        return real / value.relative_to(near) if isinstance(value, Path) else value

    def send(request: FileRequest) -> FileAnswer:
        lost = lose(request)
        if lost != "request":
            given: FileRequest = pickle.loads(pickle.dumps(request))
            path, args = moved(given.path), tuple(map(moved, given.args))
            kwargs = {name: moved(value) for name, value in given.kwargs.items()}
            answer = service.perform(replace(given, path=path, args=args, kwargs=kwargs))  # type: ignore[arg-type]
            if lost != "answer":
                return pickle.loads(pickle.dumps(answer))  # type: ignore[no-any-return]
        raise OSError(errno.ECONNRESET, "lost")

    with files.routed(near, RemoteFiles(send)):
        yield


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """The folder behind the route."""
    folder = tmp_path / "real"
    folder.mkdir()
    return folder


@pytest.fixture
def near(tmp_path: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that exists elsewhere only; requests and answers get lost in turns."""
    monkeypatch.setenv(RETRY_VARIABLE, "30")
    seen: dict[str, int] = {}

    def lose(request: FileRequest) -> str:
        seen[request.id] = seen.get(request.id, 0) + 1
        return ("request", "answer", "")[min(seen[request.id], 3) - 1]

    folder = tmp_path / "near"
    with far_away(folder, real, lose):
        yield folder
    assert not folder.exists()


def test_files_of_a_routed_folder_are_read_and_written_elsewhere(near: Path, real: Path) -> None:
    files.make_folder(near / "a")
    files.write_atomically(near / "a" / "one", b"te", memoryview(b"xt"))
    assert (real / "a" / "one").read_bytes() == b"text"
    assert files.read(near / "a" / "one") == b"text"
    assert files.read(near / "a" / "one", at_most=2) == b"te"
    with files.open_file(near / "a" / "one") as file:
        file.seek(1)
        assert file.read() == b"ext"
        assert file.fileno() > 0
    assert files.names(near / "a", fresh=True) == ["one"]
    assert files.exists(near / "a")
    status, age = files.stat_now(near / "a" / "one"), files.age(near / "a" / "one")
    assert status is not None
    assert status.st_size == 4
    assert age is not None
    assert age >= 0
    files.write_atomically(near / "b", b"", folder=near / "a")
    files.remove_folder(near / "a")
    assert files.names(near) == ["b"]


def test_a_change_whose_answer_was_lost_is_made_once(near: Path, real: Path) -> None:
    files.append(near / "log", b"line\n")
    files.append(near / "log", b"line\n")
    assert (real / "log").read_bytes() == b"line\nline\n"
    assert files.create_exclusively(near / "claim", b"mine")
    assert not files.create_exclusively(near / "claim", b"theirs")
    files.rename(near / "claim", near / "kept")
    assert files.remove(near / "kept")
    assert not files.remove(near / "kept")


def test_a_claim_is_held_taken_over_and_released_elsewhere(near: Path, real: Path) -> None:
    claim = try_claim(near / "claims" / "one")
    assert claim is not None
    assert try_claim(near / "claims" / "one") is None
    assert not is_stale(near / "claims" / "one")
    claim.release()
    assert list((real / "claims").iterdir()) == []
    (real / "claims" / "one").write_text('{"host": "another"}')
    taken = try_claim(near / "claims" / "one", stale_after=0.0)
    assert taken is not None
    assert taken.is_taken_over
    taken.release()
    assert list((real / "claims").iterdir()) == []


def test_errors_of_the_far_side_are_those_of_here(near: Path, real: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        files.read(near / "none")
    assert missing.value.errno == errno.ENOENT
    (real / "folder").mkdir()
    with pytest.raises(files.NotAFile):
        files.read(near / "folder")
    with pytest.raises(FileNotFoundError):
        files.rename(near / "none", near / "other")
    assert files.stat_of(near / "none") is None
    assert files.age(near / "none") is None


def test_an_error_that_does_not_pass_in_time_is_raised(tmp_path: Path, real: Path) -> None:
    with far_away(tmp_path / "near", real, lambda _: "request"), pytest.raises(ConnectionResetError):
        files.read(tmp_path / "near" / "one")
    assert files.read(_written(tmp_path / "one")) == b"text"


def test_a_rename_that_the_far_side_refuses_counts_as_done_if_the_target_is_right(near: Path, real: Path) -> None:
    files.write_atomically(near / "target", b"right")
    files.rename(near / "gone", near / "target", is_done=lambda: files.read(near / "target") == b"right")
    with pytest.raises(FileNotFoundError):
        files.rename(near / "gone", near / "target", is_done=lambda: False)


@pytest.mark.parametrize("path", ["../outside", "link/secret", "to_file"])
def test_a_path_that_leads_out_of_the_roots_is_refused(tmp_path: Path, real: Path, path: str) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    _written(outside / "secret")
    (real / "link").symlink_to(outside)
    (real / "to_file").symlink_to(outside / "secret")
    service = FileService([real])
    for name, args in (("read", ()), ("write_atomically", (b"",)), ("rename", (real / "own",)), ("remove", ())):
        answer = service.perform(FileRequest(name, real / path, args))
        with pytest.raises(OSError, match="not below"):
            answer.value(real / path)
    into = service.perform(FileRequest("rename", _written(real / "own"), (real / path,)))
    with pytest.raises(OSError, match="not below"):
        into.value(real / "own")
    assert (outside / "secret").read_bytes() == b"text"
    with pytest.raises(KeyError):
        service.perform(FileRequest("uptime", real / "own"))


def test_a_request_that_arrives_again_while_it_is_performed_waits_for_its_answer(real: Path) -> None:
    service, request = FileService([real]), FileRequest("append", real / "log", (b"x",))
    answers: list[FileAnswer] = []
    threads = [threading.Thread(target=lambda: answers.append(service.perform(request))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (real / "log").read_bytes() == b"x"
    assert len(answers) == 8


def _written(path: Path) -> Path:
    path.write_bytes(b"text")
    return path
