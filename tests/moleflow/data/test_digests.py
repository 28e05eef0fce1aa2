from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moleflow.data.digests
from moleflow.data.digests import DigestCache
from moleflow.errors import InvalidInput


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that was written long ago."""
    return painted(tmp_path / "a.png", 10)


def painted(path: Path, value: int, when: int = 1_000_000_000) -> Path:
    """An image of one colour with a time stamp."""
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(path, compress_level=0)
    os.utime(path, (when, when))
    return path


def test_digest_and_size_are_the_files(image: Path) -> None:
    facts = DigestCache().facts(image)
    assert facts.sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
    assert (facts.width, facts.height) == (8, 8)


def test_an_unchanged_file_is_not_read_again(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "cache" / "digests.json"
    cache = DigestCache(store)
    facts = cache.facts(image)
    cache.save()
    monkeypatch.delattr(moleflow.data.digests, "read_bytes")
    assert DigestCache(store).facts(image) == facts
    with pytest.raises(NameError):
        DigestCache().facts(image)


def test_a_file_is_known_until_it_changes(image: Path) -> None:
    cache = DigestCache()
    assert not cache.knows(image)
    cache.facts(image)
    assert cache.knows(image)
    assert not cache.knows(image, is_mask=True)
    os.utime(image, (2e9, 2e9))
    assert not cache.knows(image)
    image.unlink()
    assert not cache.knows(image)


@pytest.mark.parametrize("how", ["in place", "renamed into its place"])
def test_a_changed_file_of_the_same_size_and_time_is_read_again(image: Path, tmp_path: Path, how: str) -> None:
    """As copying with times kept leaves it, or a program that sets them back."""
    store = tmp_path / "digests.json"
    cache = DigestCache(store)
    before = cache.facts(image)
    cache.save()
    stamp = image.stat()
    other = painted(image if how == "in place" else tmp_path / "b.png", 11)
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(image)
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    assert DigestCache(store).facts(image) != before


def test_lines_of_earlier_code_do_not_match(image: Path, tmp_path: Path) -> None:
    store, stamp = tmp_path / "digests.json", image.stat()
    store.write_text(json.dumps({str(image): [stamp.st_size, stamp.st_mtime_ns, "0" * 64, 8, 8]}))
    assert DigestCache(store).facts(image) == DigestCache().facts(image)


def test_entries_of_an_earlier_version_are_looked_at_again_and_leave_the_others(image: Path, tmp_path: Path) -> None:
    """They lack what decides how the image is read."""
    store, other = tmp_path / "digests.json", painted(tmp_path / "b.png", 20)
    cache = DigestCache(store)
    known = cache.facts(other)
    cache.save()
    stamp = image.stat()
    old = [stamp.st_size, stamp.st_mtime_ns, stamp.st_ctime_ns, stamp.st_ino, "0" * 64, 8, 8]
    store.write_text(json.dumps(json.loads(store.read_text()) | {str(image): old}))
    cache = DigestCache(store)
    assert cache.facts(image) == DigestCache().facts(image)
    assert cache.facts(other) == known
    cache.save()
    assert len(json.loads(store.read_text())[str(image)]) > len(old)


def test_a_mask_is_decoded_once(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file can be an image and a mask at once."""
    store = tmp_path / "digests.json"
    cache = DigestCache(store)
    as_image, as_mask = cache.facts(image), cache.facts(image, is_mask=True)
    cache.save()
    monkeypatch.delattr(moleflow.data.digests, "read_bytes")
    again = DigestCache(store)
    assert (again.facts(image), again.facts(image, is_mask=True)) == (as_image, as_mask)
    assert (as_image.defective, as_mask.defective) == (None, 1.0)


def test_a_changed_file_is_read_again(image: Path, tmp_path: Path) -> None:
    store = tmp_path / "digests.json"
    cache = DigestCache(store)
    before = cache.facts(image)
    cache.save()
    painted(image, 11, when=1_000_000_001)
    assert DigestCache(store).facts(image) != before


def test_a_file_written_just_now_is_not_trusted_to_stay(tmp_path: Path) -> None:
    path = tmp_path / "new.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)
    store = tmp_path / "digests.json"
    cache = DigestCache(store)
    cache.facts(path)
    cache.save()
    assert not store.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2, "zz", 3, 4]}', "\x00"])
def test_a_damaged_store_is_started_anew(image: Path, tmp_path: Path, content: str) -> None:
    store = tmp_path / "digests.json"
    store.write_text(content)
    cache = DigestCache(store)
    facts = cache.facts(image)
    cache.save()
    assert json.loads(store.read_text())[str(image)][4] == facts.sha256


def test_two_processes_keep_each_others_entries(image: Path, tmp_path: Path) -> None:
    store = tmp_path / "digests.json"
    other = painted(tmp_path / "b.png", 20)
    first, second = DigestCache(store), DigestCache(store)
    first.facts(image)
    second.facts(other)
    first.save()
    second.save()
    assert set(json.loads(store.read_text())) == {str(image), str(other)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "digests.json"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.png: cannot be read"):
        DigestCache().facts(tmp_path / "gone.png")
