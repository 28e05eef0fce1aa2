from __future__ import annotations

import errno
import hashlib
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pytest

from moleflow.cache.array_packs import NodeCopies, PackFolder, bucket, node_copies


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


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 20,000 bytes: the nearest thing to a full disk that needs no root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
    assert not packs.is_intact(path.stem)
    assert packs.read(names(3, "b"))[0] is not None


def test_no_byte_of_a_pack_can_change_unnoticed(tmp_path: Path) -> None:
    """Every byte of the array and its header, and of the description."""
    packs = PackFolder(tmp_path)
    packs.write(names(3), rows(3))
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            for change in (1, 128):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
                fresh = PackFolder(tmp_path)
                found, damaged = fresh.read(names(3))
                if path.suffix == ".npy":
                    assert (found, damaged) == (None, {path.stem})
                    assert not fresh.is_intact(path.stem)
                else:  # A letter of one of its names, say, without effect on what stands there.
                    assert found is None or np.array_equal(found, rows(3))
                    assert fresh.check(names(3))[0] == (found is not None)
        path.write_bytes(whole)
    assert np.array_equal(packs.read(names(3))[0], rows(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape", ["[3, 900000000000, 9, 90]", "[3, 99999999999999999999, 9]", "[3, -2, 2, 5]", '[3, "2"]']
)
def test_a_description_of_more_than_there_is_takes_no_memory(tmp_path: Path, shape: str) -> None:
    packs = PackFolder(tmp_path)
    packs.write(names(3), rows(3))
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace("[3, 2, 2, 5]", shape))
    assert PackFolder(tmp_path).read(names(3))[0] is None
    assert not packs.is_intact(path.stem)


def test_a_pack_that_is_taken_away_while_it_is_read_is_no_damage(tmp_path: Path) -> None:
    wanted = [*names(3), *names(4, "b")]
    expected, found, over = np.concatenate([rows(3), rows(4)]), [0, 0], threading.Event()

    def take_away_and_bring_back() -> None:
        packs = PackFolder(tmp_path)
        while not over.is_set():
            packs.write(names(3), rows(3))
            packs.write(names(4, "b"), rows(4))
            time.sleep(0.001)
            for name in {name for name, _ in packs.index().values()}:
                packs.discard(name)

    with ThreadPoolExecutor(1) as pool:
        other, packs, end = pool.submit(take_away_and_bring_back), PackFolder(tmp_path), time.monotonic() + 60
        try:
            while min(found) < 20 and time.monotonic() < end:
                read, _ = packs.read(wanted)
                assert read is None or np.array_equal(read, expected)
                found[read is None] += 1
        finally:
            over.set()
        other.result()
    assert min(found) >= 20


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
    packs.remove_leftovers("a")
    assert len(list(tmp_path.iterdir())) == 6
    packs.remove_leftovers("b")
    assert {path.name[:2] for path in tmp_path.iterdir()} == {"a-"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    with full_disk(), pytest.raises(OSError, match="File too large") as caught:
        packs.write(names(40), np.zeros((40, 16, 16, 8), dtype=np.float32))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


# --- copies on a node's own disk ------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A feature key's folder in a shared cache, with two packs."""
    folder = tmp_path / "shared" / "key"
    folder.mkdir(parents=True)
    PackFolder(folder).write(names(3), rows(3))
    PackFolder(folder).write(names(4, "b"), rows(4))
    return folder


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """The folder of its copies."""
    return tmp_path / "node" / "key"


def read_near(shared: Path, near: Path, of: str = "a") -> npt.NDArray[np.float32] | None:
    """The first three images of a bucket, read by a worker of its own."""
    return PackFolder(shared, NodeCopies(near.parent)).read(names(3, of))[0]


def test_an_array_is_copied_once_and_read_from_the_copy(shared: Path, near: Path) -> None:
    assert np.array_equal(read_near(shared, near), rows(3))  # type: ignore[arg-type]
    (array,) = shared.glob("a-*.npy")
    assert [path.name for path in near.iterdir()] == [array.name]  # What was not asked for is not copied.
    array.write_bytes(b"")
    assert np.array_equal(read_near(shared, near), rows(3))  # type: ignore[arg-type]
    assert PackFolder(shared, NodeCopies(near.parent)).check(names(3)) == (False, {array.stem})


@pytest.mark.parametrize("harm", [flip, cut, lambda path: path.write_bytes(b"")])
def test_a_damaged_copy_is_not_used_but_made_anew(shared: Path, near: Path, harm: Callable[[Path], None]) -> None:
    read_near(shared, near)
    (copy,) = near.iterdir()
    whole = copy.read_bytes()
    harm(copy)
    assert np.array_equal(read_near(shared, near), rows(3))  # type: ignore[arg-type]
    assert [path.read_bytes() for path in near.iterdir()] == [whole]


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_a_damaged_array_is_not_copied(shared: Path, near: Path, harm: Callable[[Path], None]) -> None:
    (array,) = shared.glob("a-*.npy")
    packs = PackFolder(shared, NodeCopies(near.parent))
    packs.index()
    harm(array)
    found, damaged = packs.read(names(3))
    assert found is None
    assert damaged == ({array.stem} if array.exists() else set())
    assert not near.exists() or list(near.iterdir()) == []


def test_a_full_node_disk_is_passed_by_and_what_is_there_is_used(
    shared: Path, near: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = np.random.default_rng(0).standard_normal((40, 16, 16, 8)).astype(np.float32)
    for of in ("c", "d"):
        PackFolder(shared).write(names(40, of), large)
    copies = NodeCopies(near.parent)
    packs = PackFolder(shared, copies)
    packs.read(names(3))
    with full_disk():
        for of in ("c", "d"):
            found, _ = packs.read(names(40, of))
            assert np.array_equal(found, large)  # type: ignore[arg-type]
    assert [path.name[0] for path in near.iterdir()] == ["a"]
    (line,) = caplog.messages
    assert "File too large" in line
    next(shared.glob("a-*.npy")).write_bytes(b"")
    assert packs.read(names(3))[0] is not None


def test_a_node_folder_that_cannot_be_made_is_passed_by(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    packs = PackFolder(shared, NodeCopies(tmp_path / "file" / "node"))
    for of in ("a", "b"):
        assert packs.read(names(3, of))[0] is not None
    assert len(caplog.messages) == 1


def test_workers_of_a_node_copy_an_array_once(shared: Path, near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    def copy(source: BinaryIO, target: BinaryIO, piece: int) -> None:
        copied.append(source)
        shutil.copyfileobj(source, target, piece)

    monkeypatch.setattr("moleflow.cache.array_packs.shutil", SimpleNamespace(copyfileobj=copy))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read_near(shared, near), range(8)))
    assert all(np.array_equal(one, rows(3)) for one in found)  # type: ignore[arg-type]
    assert len(copied) == 1
    assert len(list(near.iterdir())) == 1


def test_what_a_dead_worker_left_is_no_copy_and_is_removed(shared: Path, near: Path) -> None:
    (array,) = shared.glob("a-*.npy")
    near.mkdir(parents=True)
    (near / f".{array.name}.0.tmp").write_bytes(array.read_bytes()[:100])
    assert np.array_equal(read_near(shared, near), rows(3))  # type: ignore[arg-type]
    assert [path.name for path in near.iterdir()] == [array.name]


def test_the_folder_of_copies_is_spelled_with_the_nodes_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    monkeypatch.delenv("NOT_THERE", raising=False)
    made = node_copies("$NODE_DISK/features")
    assert made is not None and made.folder == tmp_path / "features"
    assert node_copies(None) is None
    assert caplog.messages == []
    assert node_copies("${NOT_THERE}/features") is None
    assert node_copies("features") is None
    assert len(caplog.messages) == 2
