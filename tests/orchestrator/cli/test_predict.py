"""moleflow-sweep predict: new images, scored by a detector that a sweep has kept."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars
import pytest
from PIL import Image

from orchestrator.results.store import ResultStore

RESULTS = "results/small"


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def chosen(ended):
    """The id of the trial that the first lines name."""
    return re.search(r"^trial:    ([0-9a-f]{12}), ", ended.err, re.M)[1]


def stored_scores(place, trial, split="test"):
    rows = ResultStore(place / RESULTS).read("scores").to_pylist()
    return {
        f"images/{row['image']}": (row["score"], row["routed_task"])
        for row in rows
        if row["trial_id"] == trial and row["split"] == split
    }


def test_scores_equal_those_of_the_sweep_to_the_bit_without_its_cache(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test", "images/cloth/test")
    assert ended.code == 0, ended.err
    rows = table(ended.out)
    found = {row["image"]: (float(row["score"]), int(row["task"])) for row in rows}
    assert len(found) == 16
    assert found == stored_scores(kept, chosen(ended))
    assert {row["task_name"] for row in rows} <= {"bolt", "cloth"}
    assert not (kept / "cache/stages").exists()


def test_the_first_lines_say_which_detector_scores_and_why(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test/good")
    lines = ended.err.splitlines()
    assert lines[0] == f"detector: results/small/detectors/{chosen(ended)}-1.safetensors"
    assert "the highest mean image AUROC on validation images" in lines[1]
    assert "threshold: from the normal images that the sweep held out" in lines
    assert lines[-1].startswith("4 images scored")


def test_every_trial_can_score(kept, command):
    for trial in ResultStore(kept / RESULTS).finished():
        ended = command("predict", RESULTS, "images/cloth/test", "--trial", trial)
        assert f"{trial}, focal_gamma=" in ended.err
        expected = {name: of for name, of in stored_scores(kept, trial).items() if "cloth" in name}
        assert {row["image"]: (float(row["score"]), int(row["task"])) for row in table(ended.out)} == expected


def test_the_file_of_a_detector_scores_alone(kept, command):
    shutil.copy(next((kept / RESULTS / "detectors").iterdir()), kept / "alone.safetensors")
    shutil.rmtree(kept / "results")
    ended = command("predict", "alone.safetensors", "images/bolt/test/good/000.png")
    assert ended.code == 0
    assert len(table(ended.out)) == 1


def test_a_single_trial_can_keep_its_detector(place, features, command):
    words = ("--version", "v7", "--base", "base.yaml", "--data", "images", "--out", "one", "--quiet")
    assert command("trial", *words).code == 0
    assert command("predict", "one", "images/bolt/test").code == 2
    assert command("trial", *words, "--set", "focal_gamma=1", "--keep", "--out", "other").code == 0
    ended = command("predict", "other", "images/bolt/test/good")
    assert ended.code == 0, ended.err
    assert len(table(ended.out)) == 4


def test_held_out_normals_give_thresholds(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test", "--false-positive-rate", "0.25")
    held = {}
    for row in ResultStore(kept / RESULTS).read("scores").to_pylist():
        if row["trial_id"] == chosen(ended) and row["split"] == "validation" and row["label"] == 0:
            held.setdefault(row["routed_task"], []).append(row["score"])
    rows = table(ended.out)
    assert all(len(scores) == 3 for scores in held.values()), "so the largest holds the rate of 1 in 4"
    assert {float(row["threshold"]) for row in rows} == {max(held[int(row["task"])]) for row in rows}
    for row in rows:
        assert row["anomalous"] == str(float(row["score"]) > float(row["threshold"])).lower()
    assert "false-positive rate at most 25.0% by 3 normal images" in ended.err


def test_normals_of_ones_own_give_thresholds(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test", "--normals", "images/bolt/test/good")
    assert "threshold: from the images of images/bolt/test/good" in ended.err
    assert "bolt: " in ended.err
    assert "cloth: no threshold, as no normal image was routed to it" in ended.err
    assert all(row["threshold"] for row in table(ended.out))


def test_images_that_were_trained_on_or_are_defective_give_no_threshold(kept, command):
    """The data root itself was given: its images are known by their contents, under any name."""
    shutil.copytree(kept / "images/bolt", kept / "all", ignore=shutil.ignore_patterns("ground_truth"))
    (kept / "all/train").rename(kept / "all/renamed")
    ended = command("predict", RESULTS, "images/bolt/test", "--normals", "all")
    assert (
        "left out: 9 images that the detector was trained on and 4 images that the data set labels defec" in ended.err
    )
    used = re.search(r"^ +bolt: .* (\d+) normal images", ended.err, re.M)
    assert used[1] == "7", "4 of the test, and 3 that the sweep held out"


def test_no_other_images_are_one_line(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test", "--normals", "images/bolt/test/hole")
    assert (ended.code, ended.out) == (2, "")
    assert "no image there can give a threshold, without 4 images that the data set labels defective; give" in ended.err


def test_a_given_threshold_counts_for_every_task(kept, command):
    ended = command("predict", RESULTS, "images", "--threshold", "-1e9")
    assert {(row["threshold"], row["anomalous"]) for row in table(ended.out)} == {("-1000000000.0", "true")}


def test_a_sweep_that_held_nothing_out_gives_no_threshold_and_says_so(place, features, edit, command):
    edit(keep="all", grid=None, report=None, seeds=1)
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    ended = command("predict", RESULTS, "images/bolt/test/good")
    assert ended.code == 0
    assert "threshold: none, as the sweep held no normal images out" in ended.err
    assert "give --threshold SCORE or --normals FOLDER" in ended.err
    assert {(row["threshold"], row["anomalous"]) for row in table(ended.out)} == {("", "")}


def test_files_that_cannot_be_read_get_a_line_each_and_stop_nothing(kept, command):
    folder = kept / "new"
    shutil.copytree(kept / "images/bolt/test/good", folder / "deep")
    (folder / "deep/broken.png").write_bytes(b"no image")
    (folder / "deep/readme.txt").write_text("no image, and not looked at")
    ended = command("predict", RESULTS, "new", "gone.png", "images/bolt/test/hole/000.png")
    assert ended.code == 1
    assert len(table(ended.out)) == 5
    lines = [line for line in ended.err.splitlines() if line.startswith("not read: ")]
    assert len(lines) == 2
    assert lines[0] == "not read: gone.png: no such file or folder"
    assert "new/deep/broken.png: broken image" in lines[1]
    assert ended.err.splitlines()[-1].startswith("5 images scored")
    assert ended.err.splitlines()[-1].endswith("2 not read")


def test_nothing_that_can_be_scored_is_a_failure(kept, command):
    (kept / "empty").mkdir()
    ended = command("predict", RESULTS, "empty")
    assert (ended.code, ended.out) == (1, "")
    assert "not read: empty: holds no image (.png" in ended.err


def test_a_table_is_written_as_csv_or_parquet(kept, command):
    printed = command("predict", RESULTS, "images/bolt/test").out
    for name in ("scores.csv", "scores.parquet"):
        ended = command("predict", RESULTS, "images/bolt/test", "--out", name)
        assert (ended.code, ended.out) == (0, "")
        assert f"written: {name}" in ended.err
    assert (kept / "scores.csv").read_text() == printed
    frame = polars.read_parquet(kept / "scores.parquet")
    assert frame.columns == ["image", "task", "task_name", "score", "threshold", "anomalous", "map"]
    assert frame["score"].to_list() == [float(row["score"]) for row in table(printed)]
    assert frame["anomalous"].dtype == polars.Boolean


def test_maps_lie_over_the_images(kept, command):
    ended = command("predict", RESULTS, "images/cloth/test", "--maps", "maps")
    assert ended.code == 0
    rows = table(ended.out)
    assert rows[0]["map"] == "maps/good/000.png"
    strengths = []
    for row in rows:
        picture = np.asarray(Image.open(kept / row["map"]), dtype=float)
        image = np.asarray(Image.open(kept / row["image"]).convert("RGB"), dtype=float)
        assert picture.shape == image.shape == (48, 48, 3)
        strengths.append((picture[..., 0] - picture[..., 2]).max() - (image[..., 0] - image[..., 2]).max())
    assert max(strengths) > 50, "the highest values are red"


def test_maps_as_numbers_are_those_of_the_pixel_metrics(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test/hole", "--maps", "maps", "--map-format", "tiff")
    from moleflow.detection.trained_detector import open_detector

    detector = open_detector(kept / RESULTS / f"detectors/{chosen(ended)}-1.safetensors", "cpu")
    for row in table(ended.out):
        (scored,) = detector.score([kept / row["image"]])
        stored = np.asarray(Image.open(kept / row["map"]))
        assert stored.dtype == np.float32
        assert np.array_equal(stored, scored.anomaly_map)


def test_images_of_one_name_have_maps_of_their_own(kept, command):
    ended = command("predict", RESULTS, "images/bolt/test/good", "images/bolt/test/hole", "--maps", "maps")
    names = [row["map"] for row in table(ended.out)]
    assert len(set(names)) == 8
    assert all((kept / name).is_file() for name in names)


def test_images_that_differ_in_their_suffix_have_maps_of_their_own(kept, command):
    (kept / "new").mkdir()
    Image.open(kept / "images/bolt/test/good/000.png").save(kept / "new/a.bmp")
    for name in ("a.png", "a.png.png", "b.v2.png"):
        shutil.copy(kept / "images/bolt/test/good/000.png", kept / "new" / name)
    ended = command("predict", RESULTS, "new", "--maps", "maps")
    names = {row["image"]: row["map"] for row in table(ended.out)}
    assert names == {
        "new/a.bmp": "maps/a.bmp.png",
        "new/a.png": "maps/a.png.png",
        "new/a.png.png": "maps/a.png-2.png",
        "new/b.v2.png": "maps/b.v2.png",
    }
    assert all((kept / name).is_file() for name in names.values())


@pytest.mark.parametrize("maps", ["new", "new/maps", "."])
@pytest.mark.parametrize("given", ["new", "new/000.png"])
def test_maps_among_the_images_are_refused(given, maps, kept, command):
    shutil.copytree(kept / "images/bolt/test/good", kept / "new")
    before = sorted((kept / "new").iterdir())
    ended = command("predict", RESULTS, given, "--maps", maps)
    if (given, maps) == ("new/000.png", "new/maps"):
        assert ended.code == 0, "a folder beside the one image that was given"
        return
    assert (ended.code, ended.out) == (2, "")
    assert f"--maps: {maps} " in ended.err
    assert "give a folder elsewhere" in ended.err
    assert sorted((kept / "new").iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threshold", "1", "--normals", "images"), "--threshold: is a score that needs no normal images"),
        (("--threshold", "1", "--false-positive-rate", "0.1"), "leave --false-positive-rate out"),
        (("--threshold", "nan"), "--threshold: given nan"),
        (("--false-positive-rate", "0"), "--false-positive-rate: given 0, allowed: above 0 and below 1"),
        (("--false-positive-rate", "5"), "--false-positive-rate: given 5, allowed: above 0 and below 1"),
        (("--normals", "gone"), "--normals: gone: no such folder"),
        (("--normals", "deep"), "--normals: deep: no image there can be scored"),
        (("--out", "scores.txt"), "--out: given 'scores.txt', allowed: a file whose name ends in .csv or .parquet"),
        (("--out", "gone/scores.csv"), "--out: gone is no folder"),
        (("--map-format", "gif"), "--map-format: given 'gif', allowed: png | tiff"),
        (("--trial", "f" * 12), "--trial: given 'ffffffffffff', allowed: the id of a trial with a stored"),
        (("--class", "nut"), "class: given 'nut', allowed: bolt, cloth"),
        (("--weights", "gone.pth"), "there is no such file"),
        (("--maps", ""), "--maps: given ''"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(words, message, kept, command):
    (kept / "deep").mkdir()
    before = {path for path in kept.rglob("*") if "cache" not in path.parts}
    ended = command("predict", RESULTS, "images/bolt/test", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert {path for path in kept.rglob("*") if "cache" not in path.parts} == before


def test_results_without_detectors_say_how_to_get_them(finished, command):
    ended = command("predict", RESULTS, "images")
    assert ended.code == 2
    assert "results/small: no trained detector is stored; set `keep: best` or `keep: all`" in ended.err


def test_a_damaged_detector_is_one_line(kept, command):
    for path in (kept / RESULTS / "detectors").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    ended = command("predict", RESULTS, "images")
    assert ended.code == 1
    assert "its tensors do not match their digests" in ended.err
    assert "Traceback" not in ended.err


# Root may write anywhere, so rights are dropped: after the imports, as others may not read them.
AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from orchestrator.detectors.predict import check_table, check_writable
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
for check in (lambda: check_table(Path(sys.argv[1], "s.csv")), lambda: check_writable("--maps", Path(sys.argv[1], "a/b"))):
    try:
        check()
    except Exception as error:
        print(error)
"""


def test_a_folder_that_cannot_be_written_is_refused_before_images_are_scored():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        ended = subprocess.run([sys.executable, "-c", AS_ANOTHER_USER, folder], capture_output=True, text=True)
        Path(folder).chmod(0o755)
    said = f"{folder} cannot be written by this user; give another folder"
    assert (ended.stdout, ended.stderr) == (f"--out: {said}\n--maps: {said}\n", "")
