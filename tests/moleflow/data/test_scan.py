from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow.data.digests import DigestCache
from moleflow.data.loading import load_image, load_mask
from moleflow.data.samples import TaskData
from moleflow.data.scan import class_names, scan
from moleflow.data.subsets import limit, limit_test, split
from moleflow.errors import Damaged, InvalidInput
from moleflow.settings.config import digest

SIDE = 24


def paint(path: Path, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """A random colour image; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def mark(path: Path, rows: slice = slice(4, 12), size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """A mask with the given rows defective."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(path)


def make_class(root: Path, name: str = "bolt", seed: int = 0, train: int = 8, good: int = 4, defects: int = 3) -> Path:
    """A class with two defects and masks."""
    folder = root / name
    for i in range(train):
        paint(folder / f"train/good/{i:03}.png", seed + i)
    for i in range(good):
        paint(folder / f"test/good/{i:03}.png", seed + 100 + i)
    for n, defect in enumerate(("crack", "dent")):
        for i in range(defects):
            paint(folder / f"test/{defect}/{i:03}.png", seed + 200 + 50 * n + i)
            mark(folder / f"ground_truth/{defect}/{i:03}_mask.png", slice(i, i + 6))
    return folder


def scan_one(root: Path, name: str = "bolt") -> TaskData:
    """The only task."""
    (task,) = scan(root, [name])
    return task


def test_the_layout_is_read(tmp_path: Path) -> None:
    make_class(tmp_path)
    task = scan_one(tmp_path)
    assert (task.name, len(task.train), len(task.test), task.has_masks) == ("bolt", 8, 10, True)
    assert all(s.label == 0 and s.defect == "good" and s.mask is None for s in task.train)
    assert {s.defect: s.label for s in task.test} == {"crack": 1, "dent": 1, "good": 0}
    assert {s.name for s in task.test if s.defect == "dent"} == {f"bolt/test/dent/{i:03}.png" for i in range(3)}
    dent = next(s for s in task.test if s.name == "bolt/test/dent/001.png")
    assert np.array_equal(load_mask(dent, SIDE)[:, 0].nonzero()[0], np.arange(1, 7))
    assert load_image(dent, 10, "bilinear").shape == (10, 10, 3)
    assert not load_mask(task.train[0], 10).any()


def test_images_are_in_the_order_of_defect_and_content(tmp_path: Path) -> None:
    """Of any other order, names of files or the order of a folder listing would decide results."""
    folder = make_class(tmp_path)
    task = scan_one(tmp_path)

    def contents(part: str) -> list[str]:
        return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / part).iterdir())

    assert [s.digest for s in task.train] == contents("train/good")
    expected = contents("test/crack") + contents("test/dent") + contents("test/good")
    assert [s.digest for s in task.test] == expected
    assert [s.defect for s in task.test] == ["crack"] * 3 + ["dent"] * 3 + ["good"] * 4


def test_tasks_come_in_the_order_asked_for(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b", "c")):
        make_class(tmp_path, name, 1000 * seed, train=1, good=1, defects=0)
    assert [task.name for task in scan(tmp_path, ["c", "a"])] == ["c", "a"]
    assert class_names(tmp_path) == ["a", "b", "c"]


def test_the_digest_by_its_definition(tmp_path: Path) -> None:
    """Trial ids hold it: what entered it before other layouts were read still does, and no more."""
    folder = make_class(tmp_path)

    def sha(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    train = sorted(sha(f"train/good/{i:03}.png") for i in range(8))
    test = [["good", sha(f"test/good/{i:03}.png"), ""] for i in range(4)]
    for defect in ("crack", "dent"):
        names = [f"{defect}/{i:03}" for i in range(3)]
        test += [[defect, sha(f"test/{name}.png"), sha(f"ground_truth/{name}_mask.png")] for name in names]
    rows = [["train", "good", one, ""] for one in train] + [["test", *one] for one in sorted(test)]
    assert scan_one(tmp_path).digest == digest(rows)


def test_moving_and_renaming_changes_nothing(tmp_path: Path) -> None:
    folder = make_class(tmp_path / "one")
    before = scan_one(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for i, path in enumerate(sorted((tmp_path / "two/bolt/train/good").iterdir())):
        path.rename(path.with_name(f"{90 - i}.PNG"))
    after = scan_one(tmp_path / "two")
    assert after.digest == before.digest
    assert [s.digest for s in after.train + after.test] == [s.digest for s in before.train + before.test]
    assert [s.digest for s in split(after.train, 0.3, 1)[1]] == [s.digest for s in split(before.train, 0.3, 1)[1]]
    paint(folder / "train/good/000.png", 999)
    assert scan_one(tmp_path / "one").digest != before.digest


@pytest.mark.parametrize("change", ["mask", "role", "defect"])
def test_what_the_digest_covers(tmp_path: Path, change: str) -> None:
    folder = make_class(tmp_path)
    before = scan_one(tmp_path).digest
    if change == "mask":
        mark(folder / "ground_truth/dent/000_mask.png", slice(20, 22))
    elif change == "role":
        (folder / "train/good/000.png").rename(folder / "test/good/900.png")
    else:
        for part in ("test", "ground_truth"):
            (folder / part / "dent").rename(folder / part / "bruise")
    assert scan_one(tmp_path).digest != before


def test_masks_may_be_named_like_their_image_in_any_suffix(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    masks = folder / "ground_truth/crack"
    (masks / "000_mask.png").rename(masks / "000.png")
    Image.open(masks / "001_mask.png").save(masks / "001_mask.BMP")
    (masks / "001_mask.png").unlink()
    mark(masks / "777_mask.png")  # Of no image: left alone.
    assert {s.mask.name for s in scan_one(tmp_path).test if s.defect == "crack" and s.mask} == {
        "000.png",
        "001_mask.BMP",
        "002_mask.png",
    }


def test_without_ground_truth_there_are_no_masks(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    shutil.rmtree(folder / "ground_truth")
    task = scan_one(tmp_path)
    assert not task.has_masks
    assert all(s.mask is None and s.mask_digest is None for s in task.test)


def test_leftovers_of_file_managers_are_not_images(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    for name in ("._000.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / "train/good" / name).write_bytes(b"x")
    (folder / "test" / ".cache").mkdir()
    assert len(scan_one(tmp_path).train) == 8


@pytest.mark.parametrize("part", ["train/good", "test/good", "test/crack", "ground_truth/crack"])
def test_what_bears_an_images_name_and_is_none_is_refused(tmp_path: Path, part: str) -> None:
    nested = make_class(tmp_path) / part / "nested.png"
    nested.mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"nested\.png: is a folder, with the name of an image"):
        scan_one(tmp_path)
    nested.rmdir()
    nested.symlink_to("nowhere.png")
    with pytest.raises(InvalidInput, match=r"nested\.png: is a link to nothing"):
        scan_one(tmp_path)


def test_one_kind_of_test_image_is_enough(tmp_path: Path) -> None:
    make_class(tmp_path, defects=0)
    assert {s.label for s in scan_one(tmp_path).test} == {0}


def refusal(root: Path, *tasks: str) -> str:
    """The message with which a scan is refused."""
    with pytest.raises(InvalidInput) as caught:
        scan(root, tasks)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_root(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere", "bolt")
    (tmp_path / "file").write_text("")
    assert "not a folder" in refusal(tmp_path / "file", "bolt")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    message = refusal(tmp_path, "bolt")
    assert "not an MVTec AD folder: looked for <class>/train/good; folders there: holiday" in message


def test_the_class_given_instead_of_its_root(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    assert f"this is one class; give the folder above it, {tmp_path}" in refusal(folder, "bolt")


def test_a_class_that_is_not_there(tmp_path: Path) -> None:
    make_class(tmp_path)
    (tmp_path / "nut").mkdir()
    assert "no class 'blot'" in refusal(tmp_path, "bolt", "blot")
    assert "classes there: bolt. Did you mean 'bolt'?" in refusal(tmp_path, "blot")
    assert "nut has no train/good" in refusal(tmp_path, "nut")
    assert "no class '../bolt'" in refusal(tmp_path / "nut" / "..", "../bolt")


@pytest.mark.parametrize("part", ["train/good", "test"])
def test_an_empty_part(tmp_path: Path, part: str) -> None:
    folder = make_class(tmp_path)
    shutil.rmtree(folder / part)
    (folder / part).mkdir(parents=True)
    message = refusal(tmp_path, "bolt")
    kind = "training" if part.startswith("train") else "test"
    assert f"bolt/{part}: class bolt: no {kind} images (.png, " in message


def test_an_empty_part_says_which_files_are_there(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    (folder / "train/good").rename(tmp_path / "line1")
    (folder / "train/good").mkdir()
    (tmp_path / "line1").rename(folder / "train/good/line1")
    assert "passed over: 8 in nested folders (train/good/line1/)" in refusal(tmp_path, "bolt")


@pytest.mark.parametrize("part", ["train/good/\udcff.png", "test/\udcff/000.png"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, part: str) -> None:
    folder = make_class(tmp_path)
    shutil.rmtree(folder / "ground_truth")
    paint(folder / "new.png", 7)
    (folder / part).parent.mkdir(exist_ok=True)
    (folder / "new.png").rename(folder / part)
    assert "the name is not in UTF-8; rename the file or folder" in refusal(tmp_path, "bolt")


@pytest.mark.parametrize("target", ["/", "..", "loop"])
def test_a_link_upwards_or_to_itself_is_not_followed(tmp_path: Path, target: str) -> None:
    folder = make_class(tmp_path)
    before = scan_one(tmp_path)
    (folder / "loop").symlink_to(target)
    assert scan_one(tmp_path).digest == before.digest
    (folder / "train/good/self.png").symlink_to("self.png")
    assert "self.png: is a link to nothing" in refusal(tmp_path, "bolt")


@pytest.mark.parametrize("part", ["", "train", "train/good", "test", "test/crack", "ground_truth/crack"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    folder = make_class(tmp_path) / part
    listed = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    if part == "":  # Its folders can still be opened by their names.
        assert len(scan_one(tmp_path).test) == 10
    else:
        assert f"{folder}: cannot be read (Permission denied)" in refusal(tmp_path, "bolt")


def test_an_unreadable_folder_beside_the_classes_is_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_class(tmp_path)
    closed = make_class(tmp_path, "lost+found")
    listed, is_dir = os.scandir, Path.is_dir

    def is_closed(path: Path) -> bool:
        return closed == path or closed in path.parents

    def refuse(path: Path) -> None:
        if is_closed(path):
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: refuse(Path(path)) or listed(path))
    monkeypatch.setattr(Path, "is_dir", lambda path: refuse(path) or is_dir(path))
    assert class_names(tmp_path) == ["bolt"]
    assert f"{closed / 'train'}: cannot be read (Permission denied)" in refusal(tmp_path, "lost+found")


def test_a_missing_mask(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    (folder / "ground_truth/dent/001_mask.png").unlink()
    assert "test/dent/001.png: no mask; looked for ground_truth/dent/001_mask.png" in refusal(tmp_path, "bolt")
    shutil.rmtree(folder / "ground_truth/crack")
    assert "test/crack/000.png: no mask" in refusal(tmp_path, "bolt")


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    mark(folder / "ground_truth/dent/001_mask.png", size=(SIDE, SIDE + 1))
    assert "dent/001_mask.png: 25x24 pixels, but its image has 24x24" in refusal(tmp_path, "bolt")


@pytest.mark.parametrize("name", ["train/good/003.png", "test/crack/002.png", "ground_truth/dent/000_mask.png"])
def test_a_broken_file(tmp_path: Path, name: str) -> None:
    path = make_class(tmp_path) / name
    path.write_bytes(path.read_bytes()[:60])
    assert f"{path}: broken image" in refusal(tmp_path, "bolt")


def test_what_was_sound_is_remembered_beside_a_broken_file(tmp_path: Path) -> None:
    folder = make_class(tmp_path / "data", train=2)
    for path in folder.rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    (folder / "train/good/001.png").write_bytes(b"")
    with pytest.raises(InvalidInput):
        scan(tmp_path / "data", ["bolt"], DigestCache(tmp_path / "digests.json"))
    assert "train/good/000.png" in (tmp_path / "digests.json").read_text()


def test_split_is_a_seeded_partition(tmp_path: Path) -> None:
    make_class(tmp_path, train=10)
    samples = scan_one(tmp_path).train
    train, validation = split(samples, 0.3, seed=0)
    assert len(validation) == 3
    assert sorted(train + validation, key=samples.index) == list(samples)
    assert split(samples, 0.3, seed=0) == (train, validation)
    assert any(split(samples, 0.3, seed=s)[1] != validation for s in range(1, 4))
    assert split(samples, 0.0, seed=0) == (samples, ())
    assert len(split(samples, 0.01, seed=0)[1]) == 1
    with pytest.raises(InvalidInput, match="leaves no training image of 10"):
        split(samples, 0.99, seed=0)


def test_limits_draw_by_seed(tmp_path: Path) -> None:
    make_class(tmp_path, train=10)
    samples = scan_one(tmp_path).train
    few = limit(samples, 4, seed=0)
    assert len(few) == 4
    assert set(few) <= set(samples)
    assert set(limit(samples, 3, seed=0)) < set(few)  # A smaller draw is part of a larger one.
    assert any(limit(samples, 4, seed=s) != few for s in range(1, 4))
    assert limit(samples, None, seed=0) == limit(samples, 99, seed=0) == samples


@pytest.mark.parametrize(("count", "good", "bad"), [(4, 2, 2), (3, 1, 2), (8, 4, 4), (9, 4, 5), (99, 4, 6)])
def test_half_of_the_limited_test_images_are_defective(tmp_path: Path, count: int, good: int, bad: int) -> None:
    make_class(tmp_path)
    drawn = limit_test(scan_one(tmp_path).test, count, seed=0)
    labels = [s.label for s in drawn]
    assert (labels.count(0), labels.count(1)) == (good, bad)


def test_a_mask_that_changed_since_the_scan_is_refused(tmp_path: Path) -> None:
    make_class(tmp_path)
    task = scan_one(tmp_path)
    sample = next(s for s in task.test if s.mask is not None)
    assert sample.mask is not None
    Image.fromarray(255 - np.asarray(Image.open(sample.mask))).save(sample.mask)
    with pytest.raises(Damaged) as refused:
        load_mask(sample, SIDE)
    assert str(refused.value) == f"{sample.mask}: changed since the data folder was scanned; start again"


def test_a_mask_that_vanishes_on_resizing_keeps_its_images_label(tmp_path: Path) -> None:
    folder = make_class(tmp_path)
    tiny = np.zeros((SIDE, SIDE), dtype=np.uint8)
    tiny[0, 0] = 255
    Image.fromarray(tiny).save(folder / "ground_truth/dent/002_mask.png")
    task = scan_one(tmp_path)
    sample = next(s for s in task.test if s.name == "bolt/test/dent/002.png")
    assert sample.label == 1
    assert not load_mask(sample, 8).any()
