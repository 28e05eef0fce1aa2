"""Folders without a split: which are classes, and how their images are drawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moleflow.data.digests import DigestCache
from moleflow.data.scan import scan
from moleflow.data.unsplit_folders import split_images, unsplit_classes, write_manifest
from moleflow.errors import InvalidInput


@pytest.fixture
def root(images: Path, tmp_path: Path) -> Path:
    """One class with normal images in `ok`, and defects of two kinds."""
    shutil.copytree(images / "bolt/train/good", tmp_path / "root/bolt/ok")
    shutil.copytree(images / "bolt/test/hole", tmp_path / "root/bolt/hole/deep")
    shutil.copytree(images / "cloth/test/hole", tmp_path / "root/bolt/cut")
    return tmp_path / "root"


def test_a_class_has_one_folder_of_normal_images(root: Path, images: Path) -> None:
    (one,) = unsplit_classes(root)
    assert (one.name, one.normal.name, [*one.kinds]) == ("bolt", "ok", ["cut", "hole"])
    assert unsplit_classes(root / "bolt") == [one]
    assert unsplit_classes(images) == [], "it has a split"
    assert unsplit_classes(root, ["hole"])[0].normal.name == "hole"
    (root / "bolt/ground_truth").mkdir()
    assert [place.name for place in unsplit_classes(root)[0].masks] == ["ground_truth"]


def test_two_folders_of_normal_images_are_refused(root: Path) -> None:
    shutil.copytree(root / "bolt/ok", root / "bolt/good")
    with pytest.raises(InvalidInput, match=r"good and ok could both hold normal images; .*normal_names=\[good\]"):
        unsplit_classes(root)
    assert unsplit_classes(root, ["ok"])[0].normal.name == "ok"


def test_the_draw_is_by_content_and_seed(root: Path) -> None:
    digests = DigestCache()
    split = split_images(unsplit_classes(root)[0], 0.25, 0, digests)
    assert (len(split.train), len(split.test)) == (9, 3)
    assert {*split.train, *split.test} == {*(root / "bolt/ok").iterdir()}
    assert {kind: len(images) for kind, images in split.kinds.items()} == {"cut": 4, "hole": 4}
    other = split_images(unsplit_classes(root)[0], 0.25, 1, digests)
    assert other.test != split.test

    def contents(paths: tuple[Path, ...]) -> set[bytes]:
        return {path.read_bytes() for path in paths}

    before = contents(split.test)
    for number, path in enumerate(sorted((root / "bolt/ok").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed {number}.png"))
    assert contents(split_images(unsplit_classes(root)[0], 0.25, 0, digests).test) == before


def test_equal_images_stay_on_one_side(root: Path) -> None:
    for path in sorted((root / "bolt/ok").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    split = split_images(unsplit_classes(root)[0], 0.25, 0, DigestCache())
    assert (len(split.train), len(split.test)) == (18, 6)
    assert not {path.read_bytes() for path in split.train} & {path.read_bytes() for path in split.test}


def test_both_sides_get_an_image(root: Path) -> None:
    paths = sorted((root / "bolt/ok").iterdir())
    for path in paths[2:]:
        path.unlink()
    for share in (0.01, 0.99):
        split = split_images(unsplit_classes(root)[0], share, 0, DigestCache())
        assert (len(split.train), len(split.test)) == (1, 1)
    paths[0].unlink()
    with pytest.raises(InvalidInput, match="ok: holds 1 different image, but training and test need one each"):
        split_images(unsplit_classes(root)[0], 0.5, 0, DigestCache())


def test_the_manifest_is_read_as_it_was_split(root: Path, tmp_path: Path) -> None:
    (root / "bolt/cut").rename(root / "bolt/good")  # With normal_names: [ok], a defect of this name.
    split = split_images(unsplit_classes(root, ["ok"])[0], 0.25, 0, DigestCache())
    (tmp_path / "lists").mkdir()
    write_manifest(tmp_path / "lists/bolt.csv", [split])
    (data,) = scan(tmp_path / "lists/bolt.csv", ["bolt"])
    assert {sample.path.resolve() for sample in data.train} == {*split.train}
    kinds = {sample.defect for sample in data.test}
    assert kinds == {"good", "hole", "defective good"}
    assert sum(sample.label for sample in data.test) == 8
