"""The anomaly maps of a run: small, apart from the results, and never a cause of failure."""

from __future__ import annotations

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from moleflow import files
from orchestrator.results.parts import maps_file
from orchestrator.results.store import ResultStore
from orchestrator.results.thumbnails import ThumbnailStore


@pytest.fixture
def store(tmp_path, small_run):
    shutil.copytree(small_run / "results/small", tmp_path / "results")
    return ResultStore(tmp_path / "results")


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_every_trial_keeps_a_few_maps_of_each_class(store):
    trials = sorted(store.finished())
    rows = store.maps(trials)
    assert {row["trial_id"] for row in rows} == set(trials)
    for trial in trials:
        for task in ("bolt", "cloth"):
            of = [row for row in rows if (row["trial_id"], row["task_name"]) == (trial, task)]
            assert sorted(row["why"] for row in of) == ["drawn"] * 2 + ["highest_normal"] * 3 + ["lowest_anomalous"] * 3
            assert len({(row["map_low"], row["map_high"]) for row in of}) == 1
    drawn = {
        trial: {row["image"] for row in rows if (row["trial_id"], row["why"]) == (trial, "drawn")} for trial in trials
    }
    assert len({frozenset(images) for images in drawn.values()}) == 1
    assert store.maps([]) == []


def test_the_extremes_are_those_of_the_stored_scores(store):
    scores = store.read("scores").to_pylist()
    for trial in store.finished():
        for task in ("bolt", "cloth"):
            of = [row for row in scores if (row["trial_id"], row["task_name"]) == (trial, task)]
            kept = {row["image"]: row for row in store.maps([trial]) if row["task_name"] == task}
            assert all(row["score"] == kept[row["image"]]["score"] for row in of if row["image"] in kept)
            worst = min((row["score"], row["image"]) for row in of if row["label"])[1]
            assert kept[worst]["why"] in ("lowest_anomalous", "drawn")


def test_a_map_has_its_image_and_its_mask(store):
    for row in store.maps(store.finished()):
        assert pixels(row["map"]).shape == (64, 64)
        assert pixels(row["picture"]).shape == (128, 128, 3)
        assert (row["mask"] is not None) == bool(row["label"])
        if row["mask"]:
            assert pixels(row["mask"]).any()


def test_pictures_are_kept_once_a_folder(store):
    rows = store.maps(store.finished())
    images = {row["image_digest"] for row in rows}
    assert len(images) < len(rows)
    assert {path.stem for path in (store.folder / "pictures").iterdir()} == images


def test_maps_that_are_damaged_or_gone_cost_no_result(store):
    trials, before = sorted(store.finished()), store.read("metrics")
    for n, path in enumerate(sorted((store.folder / "maps").iterdir())):
        if n:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        else:
            path.unlink()
    shutil.rmtree(store.folder / "pictures")
    again = ResultStore(store.folder, from_parts=True)
    assert again.maps(trials) == []
    assert again.read("metrics").equals(before)
    assert again.damaged == ()


def test_a_picture_that_a_power_cut_left_empty_or_halved_is_left_out(store):
    trials = store.finished()
    rows = store.maps(trials)
    empty, halved = [row["image_digest"] for row in rows if row["label"]][:2]
    (store.folder / f"pictures/{empty}.jpg").write_bytes(b"")
    mask = store.folder / f"pictures/{halved}.png"
    mask.write_bytes(mask.read_bytes()[:-6])
    left = [row for row in rows if row["image_digest"] not in (empty, halved)]
    assert len(left) < len(rows)
    assert store.maps(trials) == left


def test_a_worker_looks_once_for_the_pictures_that_are_there(store, monkeypatch):
    (digest, *_) = {path.stem for path in (store.folder / "pictures").iterdir()}
    image = np.full((128, 128, 3), 7, np.uint8)
    pictures = ThumbnailStore(store.folder)
    made = []

    def make():
        made.append(1)
        return image, None

    pictures.keep(digest, make)
    assert made == []
    monkeypatch.setattr(files, "names", None)
    monkeypatch.setattr(files, "exists", None)
    for _ in range(2):
        pictures.keep("0" * 64, make)
    assert made == [1]
    assert (pixels(pictures.read("0" * 64).picture) == 7).all()


def test_maps_whose_part_was_never_finished_are_removed(store):
    left = maps_file(store.parts, "20250101T000000000000-w-0123456789abcdef")
    left.write_bytes(b"half a file")
    os.utime(left, (1e9, 1e9))
    there = set((store.folder / "maps").iterdir())
    assert store.recover().removed == (left,)
    assert set((store.folder / "maps").iterdir()) == there - {left}
