"""A detector in Python scores and judges as the command does."""

from __future__ import annotations

import csv
import io
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from moleflow.errors import InvalidInput
from orchestrator.api import load_detector, load_results

FOLDER = "results/small"


def loaded(path):
    with Image.open(path) as image:
        image.load()
    return image


def test_a_detector_is_loaded_from_results_or_from_its_file(kept, images):
    folder = kept / FOLDER
    path = images / "bolt/test/hole/000.png"
    (first,) = load_detector(load_results(folder), device="cpu").score(path)
    file = next((folder / "detectors").glob("*-1.safetensors"))
    trial = file.name[:12]
    (second,) = load_detector(str(folder), trial, device="cpu").score([str(path)])
    (third,) = load_detector(file, device="cpu").score([path])
    assert second.score == third.score
    assert first.task_name in ("bolt", "cloth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"false_positive_rate": 0.3}, ["--false-positive-rate", "0.3"]),
        ({"threshold": 1.5}, ["--threshold", "1.5"]),
        ({"normals": "images/bolt/test/good"}, ["--normals", "images/bolt/test/good"]),
    ],
)
def test_verdicts_are_those_of_the_command(options, words, kept, command, monkeypatch):
    monkeypatch.chdir(kept)
    rows = [*csv.DictReader(io.StringIO(command("predict", FOLDER, "images/bolt/test", *words).out))]
    assert len(rows) == 8
    detector = load_detector(FOLDER, device="cpu", **options)
    found = [
        (str(one.path), repr(one.score), "" if one.threshold is None else repr(one.threshold), one.anomalous)
        for one in detector.score("images/bolt/test")
    ]
    verdicts = {"true": True, "false": False, "": None}
    assert found == [(row["image"], row["score"], row["threshold"], verdicts[row["anomalous"]]) for row in rows]


def test_files_and_folders_are_scored_in_the_order_given(kept, images):
    detector = load_detector(kept / FOLDER, device="cpu")
    first, second = images / "bolt/test/hole/001.png", images / "bolt/test/good"
    assert [one.path for one in detector.score([str(first), second])] == [first, *sorted(second.glob("*.png"))]


def test_what_cannot_be_scored_is_raised_or_told(kept, tmp_path):
    (tmp_path / "empty").mkdir()
    detector = load_detector(kept / FOLDER, device="cpu")
    with pytest.raises(InvalidInput, match="empty: holds no image"):
        [*detector.score(tmp_path / "empty")]
    told = []
    assert [*detector.score([tmp_path / "empty", tmp_path / "gone"], lambda path, _: told.append(path.name))] == []
    assert told == ["empty", "gone"]


def test_images_in_memory_score_as_the_files_of_their_pixels(kept, images, tmp_path):
    detector = load_detector(kept / FOLDER, device="cpu")
    files = [images / "bolt/test/hole/000.png", tmp_path / "grey.png", tmp_path / "alpha.png", tmp_path / "turned.jpg"]
    upright = loaded(files[0]).convert("RGB")
    upright.convert("L").save(files[1])
    upright.convert("RGBA").save(files[2])
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 6
    upright.crop((0, 0, 32, 20)).save(files[3], exif=orientation)
    of_files = [*detector.score(files)]
    arrays = [np.asarray(ImageOps.exif_transpose(loaded(file)).convert("RGB")) for file in files]
    arrays[1] = np.asarray(loaded(files[1]))
    for given in (arrays, [loaded(file) for file in files]):
        found = [*detector.score(given)]
        assert [(one.score, one.task, one.size) for one in found] == [
            (one.score, one.task, one.size) for one in of_files
        ]
        assert all(np.array_equal(a.anomaly_map, b.anomaly_map) for a, b in zip(found, of_files, strict=True))
        assert [str(one.path) for one in found] == ["image 0", "image 1", "image 2", "image 3"]
        assert len({one.digest for one in found}) == 3  # Alpha is dropped.


def test_one_image_in_memory_and_files_mix(kept, images):
    detector = load_detector(kept / FOLDER, device="cpu")
    file = images / "bolt/test/hole/000.png"
    pixels = np.asarray(loaded(file).convert("RGB"))
    (by_array,), (by_image,) = detector.score(pixels), detector.score(loaded(file))
    first, second = detector.score([file, pixels[::-1][::-1]])
    assert {one.score for one in (by_array, by_image, first, second)} == {first.score}
    assert (first.path, str(second.path)) == (file, "image 1")
    assert by_array.threshold == first.threshold


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 4)), r"image 0: given an array float64 \(4, 4\), allowed: a file"),
        (np.zeros((4, 4, 4), np.uint8), r"given an array uint8 \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "for several images, give a list of them"),
        (np.zeros((0, 4), np.uint8), r"given an array uint8 \(0, 4\)"),
        (Image.new("I;16", (4, 4)), "given a Pillow image of mode I;16, allowed: 8 bits; give its file instead"),
        (5, "image 0: given int, allowed: a file"),
        ([Image.new("L", (4, 4)), None], "image 1: given NoneType"),
    ],
)
def test_other_images_in_memory_are_refused(given, message, kept):
    detector = load_detector(kept / FOLDER, device="cpu")
    with pytest.raises(InvalidInput, match=message):
        [*detector.score(given)]
    told = []
    list(detector.score(given, lambda path, _: told.append(path.name)))
    assert told in (["image 0"], ["image 1"])


def test_a_pillow_image_that_cannot_be_decoded_is_told(kept, images, tmp_path):
    whole = (images / "bolt/test/hole/000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    detector = load_detector(kept / FOLDER, device="cpu")
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(InvalidInput, match="image 0: cannot be decoded"):
        [*detector.score(cut)]


def test_a_detector_says_what_it_is(kept):
    detector = load_detector(kept / FOLDER, "focal_gamma=2 seed=1", device="cpu")
    text = repr(detector)
    for part in ("focal_gamma=2 seed=1", "sweep small", "data images", f"bolt: {detector.thresholds['bolt']:.6g}"):
        assert part in text
    assert detector.thresholds.keys() == {"bolt", "cloth"}
    assert any("as given" in line for line in detector.reasons)
    assert any("held out" in line for line in detector.reasons)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trial": "zz"}, "trial: given 'zz', allowed"),
        ({"threshold": 1.0, "false_positive_rate": 0.1}, "threshold: is a score .* leave false_positive_rate out"),
        ({"normals": "gone"}, "normals: gone: no such folder"),
    ],
)
def test_mistakes_are_told_in_the_words_of_python(options, message, kept):
    with pytest.raises(InvalidInput, match=f"^{message}") as error:
        load_detector(kept / FOLDER, **options)
    assert "--" not in str(error.value)


def test_remedies_are_told_in_the_words_of_python(kept):
    shutil.rmtree(kept / FOLDER / "detectors")
    with pytest.raises(InvalidInput, match=r"into another folder \(out\)"):
        load_detector(kept / FOLDER)
