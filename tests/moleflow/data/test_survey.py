"""One look at a data root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moleflow.data import near_copies
from moleflow.data.survey import DataSurvey, survey
from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs


def paint(path: Path, seed: int, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def mark(path: Path, rows: int, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[:rows] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes: nut has images of two sizes, and no masks."""
    folder = tmp_path / "data"
    for n in range(4):
        paint(folder / f"bolt/train/good/{n}.png", n)
        paint(folder / f"nut/train/good/{n}.png", 100 + n, 24 if n else 30)
    for n in range(2):
        paint(folder / f"bolt/test/good/{n}.png", 10 + n)
        paint(folder / f"nut/test/good/{n}.png", 110 + n)
    for n, rows in enumerate((0, 6, 18)):
        paint(folder / f"bolt/test/hole/{n}.png", 20 + n)
        mark(folder / f"bolt/ground_truth/hole/{n}_mask.png", rows)
        paint(folder / f"nut/test/crack/{n}.png", 120 + n)
    return folder


def look(root: Path, **options: Any) -> DataSurvey:
    return survey(root, DataKnobs(**options.pop("data", {})), root.parent / "cache", **options)


def test_a_class_is_counted(root: Path) -> None:
    found = look(root)
    bolt, nut = found.classes
    assert [task.name for task in found.tasks] == ["bolt", "nut"]
    assert (bolt.layout, bolt.findings.train, bolt.findings.kinds) == ("mvtec_ad", 4, {"good": 2, "hole": 3})
    assert (bolt.sizes, bolt.modes, bolt.bits) == ({"24x24": 9}, {"RGB": 9}, {8: 9})
    assert nut.sizes == {"24x24": 8, "30x30": 1}
    assert bolt.shares == (0, 0.25, 0.75)
    assert (bolt.empty_masks, bolt.wide_masks) == (("bolt/test/hole/0.png",), ("bolt/test/hole/2.png",))
    assert (nut.shares, nut.empty_masks) == ((), ())
    assert (found.copies, found.unreadable, found.near) == ((), {}, True)


def test_findings_are_sentences(root: Path) -> None:
    paint(root / "nut/test/crack/9.png", 101)
    notes = look(root).notes
    assert len(notes) == 5
    assert "bolt: 1 of 3 masks mark more than half of the image" in notes[0]
    assert notes[1].startswith("bolt: 1 of 3 masks mark no pixel, such as the one of bolt/test/hole/0.png")
    assert notes[2] == "nut: it has no masks: no pixel metric is defined"
    assert notes[3].startswith("nut: 1 of 6 test images are copies of training images")
    assert notes[4].startswith("nut: 1 image with copies of another label")


def test_only_some_classes(root: Path) -> None:
    assert [one.findings.name for one in look(root, only=["nut"]).classes] == ["nut"]
    with pytest.raises(InvalidInput, match=r"--classes: no class 'nutt' .*classes there: bolt, nut.*mean 'nut'"):
        look(root, only=["nutt"])


def test_a_class_that_cannot_be_read_leaves_the_others(root: Path) -> None:
    (root / "bolt/test/hole/1.png").write_bytes(b"no image")
    found = look(root)
    assert [one.findings.name for one in found.classes] == ["nut"]
    assert "bolt/test/hole/1.png" in found.unreadable["bolt"]


def test_near_copies_are_looked_for_unless_turned_off(root: Path) -> None:
    Image.open(root / "nut/train/good/2.png").convert("L").save(root / "nut/test/good/9.png")
    decoded: list[int] = []
    found = look(root, decoding=decoded.append)
    assert [(copies.conflict, copies.near) for copies in found.copies] == [("training in test", True)]
    assert decoded == [19]
    assert look(root, decoding=decoded.append).copies == found.copies
    assert decoded == [19], "hashes are remembered"
    without = look(root, near=False)
    assert (without.copies, without.near) == ((), False)


def test_without_near_copies_no_image_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_copies, "read_image", None)
    assert len(look(root, near=False).classes) == 2


def test_a_folder_that_may_not_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed", "lost+found"):
        (root / name).mkdir()
    access = os.access
    closed = (root / "closed", root / "lost+found")
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and access(path, mode))
    found = look(root)
    reason = f"{root / 'closed'}: cannot be read (no permission); let this user read it"
    assert found.unreadable == {"closed": reason}
    assert [one.findings.name for one in found.classes] == ["bolt", "nut"]
