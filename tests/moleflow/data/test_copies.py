"""Exact copies among images, by their digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from moleflow.data.copies import CopiedImage, Copies, copies_notes, find_copies
from moleflow.data.samples import GOOD, Sample, TaskData


def sample(name: str, content: str) -> Sample:
    """An image whose defect is the folder in its name."""
    defect = name.split("/")[-2]
    return Sample(name, Path(name), int(defect != GOOD), defect, None, content, None)


def a_class(name: str, train: dict[str, str], test: dict[str, str]) -> TaskData:
    """A class; train and test map names of files to contents."""
    return TaskData(
        name,
        tuple(sample(f"{name}/train/good/{file}", content) for file, content in train.items()),
        tuple(sample(f"{name}/test/{file}", content) for file, content in test.items()),
        "",
        False,
    )


def test_a_class_without_copies_has_no_finding() -> None:
    bolt = a_class("bolt", {"0": "a", "1": "b"}, {"good/0": "c", "hole/0": "d"})
    nut = a_class("nut", {"0": "e"}, {"good/0": "f"})
    assert find_copies([bolt, nut]) == ()
    assert copies_notes([]) == []


def test_training_images_in_the_test_are_counted_and_named() -> None:
    bolt = a_class("bolt", {"0": "a", "1": "b"}, {"good/0": "b", "good/1": "c", "good/2": "b"})
    pairs = (
        CopiedImage("bolt/test/good/0", "bolt/train/good/1"),
        CopiedImage("bolt/test/good/2", "bolt/train/good/1"),
    )
    assert find_copies([bolt]) == (Copies("training in test", ("bolt",), pairs, tested=3),)
    assert copies_notes([bolt]) == [
        "bolt: 2 of 3 test images are copies of training images, such as bolt/test/good/0 of bolt/train/good/1; "
        "remove them from one of the two"
    ]


def test_copies_with_another_label_or_defect() -> None:
    bolt = a_class("bolt", {"0": "a"}, {"good/0": "b", "hole/0": "b", "hole/1": "c", "dent/0": "c", "hole/2": "d"})
    (found,) = find_copies([bolt])
    assert found.conflict == "other label"
    assert found.copies == (
        CopiedImage("bolt/test/dent/0", "bolt/test/hole/1"),
        CopiedImage("bolt/test/hole/0", "bolt/test/good/0"),
    )
    assert found.note.startswith("bolt: 2 images with copies of another label, such as bolt/test/dent/0 of ")


def test_a_defective_copy_of_a_training_image_is_both() -> None:
    bolt = a_class("bolt", {"0": "a"}, {"hole/0": "a", "good/0": "b"})
    assert [copies.conflict for copies in find_copies([bolt])] == ["training in test", "other label"]


def test_equal_images_of_one_label_in_one_part_are_no_conflict() -> None:
    bolt = a_class("bolt", {"0": "a", "1": "a"}, {"good/0": "b", "good/1": "b"})
    assert find_copies([bolt]) == ()


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_of_several_classes(part: str) -> None:
    bolt = a_class("bolt", {"0": "a", "1": "b"}, {"good/0": "c"})
    nut = a_class("nut", *({"0": "x"}, {"good/0": "a", "good/1": "b"})[:: 1 if part == "test" else -1])
    pin = a_class("pin", {"0": "b"}, {"good/0": "y"})
    found = {copies.classes: copies for copies in find_copies([bolt, nut, pin])}
    assert found.keys() == {("bolt", "nut"), ("bolt", "nut", "pin")}
    (pair,) = found["bolt", "nut"].copies
    assert pair.copy_of == "bolt/train/good/0"
    assert "bolt, nut: 1 image with copies in another of these classes" in found["bolt", "nut"].note
