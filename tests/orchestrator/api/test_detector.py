"""A detector in Python scores and judges as the command does."""

from __future__ import annotations

import csv
import io
import shutil

import pytest

from moleflow.errors import InvalidInput
from orchestrator.api import load_detector, load_results

FOLDER = "results/small"


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
