from __future__ import annotations

import errno
import hashlib
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from moleflow.packs import PackFolder, bucket


def names(count: int, of: str = "a") -> list[str]:
    """Image digests of one bucket."""
    return [of + hashlib.sha256(bytes([i])).hexdigest()[1:] for i in range(count)]


def rows(count: int) -> npt.NDArray[np.float32]:
    """Features of `count` images."""
    return np.random.default_rng(count).standard_normal((count, 2, 2, 5)).astype(np.float32)


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    packs.write(names(3), rows(3))
    packs.write(names(2, "b"), rows(2))
    wanted = [names(3)[2], names(2, "b")[0], names(3)[0], names(3)[2]]
    found, damaged = PackFolder(tmp_path).read(wanted)
    assert found is not None and not damaged
    assert np.array_equal(found, np.stack([rows(3)[2], rows(2)[0], rows(3)[0], rows(3)[2]]))
    assert {bucket(image) for image in packs.index()} == {"a", "b"}


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    packs.write(names(2), rows(2).astype(np.float16))
    found, _ = packs.read(names(2))
    assert found is not None and found.dtype == np.float32
    assert np.array_equal(found, rows(2).astype(np.float16).astype(np.float32))


def test_the_array_is_a_plain_npy_file(tmp_path: Path) -> None:
    PackFolder(tmp_path).write(names(3), rows(3))
    (path,) = tmp_path.glob("*.npy")
    assert np.array_equal(np.load(path, mmap_mode="r"), rows(3))


def test_what_is_not_stored_is_not_read(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    packs.write(names(1), rows(1))
    assert packs.read(names(2)) == (None, set())


def flip(path: Path) -> None:
    """Change one bit near the end."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [flip, cut, lambda path: path.write_bytes(b"")])
def test_a_damaged_array_is_noticed(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    packs = PackFolder(tmp_path)
    packs.write(names(3), rows(3))
    packs.write(names(3, "b"), rows(3))
    (path,) = tmp_path.glob("a-*.npy")
    harm(path)
    assert packs.read(names(3)) == (None, {path.stem})
    assert not packs.sound(path.stem)
    assert packs.read(names(3, "b"))[0] is not None


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"images": 1, "shape": 2, "dtype": 3, "crc32": 4}'])
def test_a_damaged_description_is_no_entry(tmp_path: Path, content: str) -> None:
    packs = PackFolder(tmp_path)
    packs.write(names(3), rows(3))
    next(tmp_path.glob("*.json")).write_text(content)
    assert PackFolder(tmp_path).index() == {}


def test_an_array_without_description_is_no_entry_and_is_swept(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    for of in ("a", "b"):
        packs.write(names(3, of), rows(3))
    packs.write(names(2), rows(2))
    (lost,) = [path for path in tmp_path.glob("b-*.json")]
    lost.unlink()
    (tmp_path / ".b-x.npy.123.tmp").write_bytes(b"half")
    assert {bucket(image) for image in packs.index()} == {"a"}
    packs.sweep("a")
    assert len(list(tmp_path.iterdir())) == 6
    packs.sweep("b")
    assert {path.name[:2] for path in tmp_path.iterdir()} == {"a-"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # The nearest thing to a full disk that needs no root.
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            packs.write(names(40), np.zeros((40, 16, 16, 8), dtype=np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
