"""One passing error of a file server, put in where images, weights and settings are read."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow.cache.array_packs import OpenArrays, PackFolder
from moleflow.data.digests import DigestCache
from moleflow.data.images import read_image, read_mask
from moleflow.data.samples import Sample
from moleflow.data.scan import scan
from moleflow.data.synthetic import with_defects
from moleflow.errors import InvalidInput
from moleflow.features.weights import weights_identity
from moleflow.passing_errors import NotAFile, read, retried
from moleflow.settings.config import BackboneKnobs, DataKnobs
from moleflow.settings.yaml_reader import read_mapping

Fault = Callable[[str, int], list[Path]]
ERRORS = [errno.EIO, errno.EBUSY, errno.ESTALE]


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Makes the first call of a function of `os` fail; returns the list of calls that failed."""

    def put_in(name: str, number: int) -> list[Path]:
        real, failed = getattr(os, name), []

        def fail_once(first: object, *others: object, **named: object) -> object:
            if not failed:
                failed.append(first)
                raise OSError(number, os.strerror(number))
            return real(first, *others, **named)

        monkeypatch.setattr(os, name, fail_once)
        return failed

    return put_in


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG file of noise."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    return path


def image(path: Path) -> object:
    return read_image(path, 32, "bicubic").tobytes()


def mask(path: Path) -> object:
    return read_mask(path, 32).tobytes()


def facts(path: Path) -> object:
    return DigestCache().facts(path)


def weights(path: Path) -> object:
    return weights_identity(BackboneKnobs(weights=str(path)))


def settings(path: Path) -> object:
    text = path.with_suffix(".yaml")
    text.write_text("a: [1, 2]\n")
    return read_mapping(text)


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize(
    ("reader", "name"),
    [
        *((reader, name) for reader in (image, mask, facts, settings) for name in ("open", "read")),
        (weights, "open"),  # It is hashed in C, without os.read.
    ],
)
def test_one_passing_error_changes_nothing_that_is_read(
    picture: Path, fault: Fault, reader: Callable[[Path], object], name: str, number: int
) -> None:
    expected = reader(picture)
    if reader is weights:
        os.utime(picture, ns=(0, 0))  # Its digest is remembered by its times.
    failed = fault(name, number)
    assert reader(picture) == expected
    assert len(failed) == 1


@pytest.mark.parametrize("name", ["open", "read"])
def test_one_passing_error_leaves_stored_defects_in_use(picture: Path, fault: Fault, name: str) -> None:
    normal = Sample("a", picture, 0, "good", None, hashlib.sha256(picture.read_bytes()).hexdigest(), None)
    folder = picture.parent / "defects"
    made = with_defects([normal], DataKnobs(image_size=32), folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    failed = fault(name, errno.EIO)
    assert with_defects([normal], DataKnobs(image_size=32), folder) == made
    assert len(failed) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_one_passing_error_stops_no_scan_of_a_data_folder(picture: Path, fault: Fault) -> None:
    for part in ("train/good", "test/good"):
        (picture.parent / "leather" / part).mkdir(parents=True)
        (picture.parent / "leather" / part / "a.png").write_bytes(picture.read_bytes())
    expected = scan(picture.parent, ["leather"])
    failed = fault("open", errno.EIO)
    assert scan(picture.parent, ["leather"]) == expected
    assert len(failed) == 1


def test_an_error_that_stays_is_one_line(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEFLOW_FILE_RETRY_S", "0")

    def fail(*given: object, **named: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(InvalidInput, match=r"a\.png: cannot be read \(Input/output error\)$"):
        read_image(picture, 32, "bilinear")


def test_a_pipe_in_the_place_of_an_image_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"a\.png: cannot be read \(it is no regular file\)$"):
        read_image(tmp_path / "a.png", 32, "bilinear")
    with pytest.raises(NotAFile):
        read(tmp_path / "a.png")


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    assert [read(tmp_path / "a", most) for most in (0, 3, 6, 9, None)] == [b"", b"abc", *[b"abcdef"] * 3]


def test_a_file_with_other_line_ends_is_the_same_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    texts = []
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(["a: |", "  one", "  two", "b: 1", ""]).encode())
        texts.append(read_mapping(path))
    assert texts == [{"a": "one\ntwo\n", "b": 1}] * 3


def test_a_result_is_given_after_the_error_and_another_error_at_once(tmp_path: Path) -> None:
    calls = []

    def operation() -> int:
        calls.append(len(calls))
        if len(calls) < 3:
            raise OSError(errno.EIO, "passes")
        if len(calls) == 4:
            raise OSError(errno.EACCES, "stays")
        return len(calls)

    assert retried(operation, tmp_path) == 3
    with pytest.raises(OSError, match="stays"):
        retried(operation, tmp_path)
    assert len(calls) == 4


class DeadMount:
    """A file whose server is gone: each read and the close fail."""

    def __init__(self) -> None:
        self.closed_at = 0

    def fileno(self) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self) -> None:
        self.closed_at += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def stored(folder: Path) -> tuple[PackFolder, list[str], np.ndarray]:
    images = ["a" + hashlib.sha256(bytes([i])).hexdigest()[1:] for i in range(3)]
    values = np.random.default_rng(0).standard_normal((3, 2, 2, 5)).astype(np.float32)
    opened = OpenArrays()
    packs = PackFolder(folder, opened=opened)
    packs.write(images, values)
    return packs, images, values


def test_an_open_array_on_a_dead_mount_is_closed_without_an_error(tmp_path: Path) -> None:
    """Neither by a read that fails, nor when it is collected, where Python would print it."""
    packs, images, values = stored(tmp_path)
    opened = packs._opened
    assert opened is not None
    (array,) = tmp_path.glob("*.npy")
    dead = DeadMount()
    opened._files[array] = dead  # type: ignore[assignment]
    found, damaged = packs.read(images)
    assert found is not None and np.array_equal(found, values)
    assert not damaged
    assert dead.closed_at == 1
    opened._files[array] = dead  # type: ignore[assignment]
    opened.__del__()
    assert dead.closed_at == 2
    opened._files.clear()


def test_an_error_while_an_open_array_is_read_is_tried_again(tmp_path: Path, fault: Fault) -> None:
    packs, images, values = stored(tmp_path)
    assert packs.read(images)[0] is not None
    failed = fault("pread", errno.EIO)
    found, damaged = packs.read(images)
    assert found is not None and np.array_equal(found, values)
    assert (len(failed), damaged) == (1, set())
