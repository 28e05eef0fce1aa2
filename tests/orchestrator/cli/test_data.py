"""The command data, and what plan, doctor and the report say of copies."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moleflow.data import digests
from orchestrator.cli.data import data as look

ONE: dict[str, Any] = {"version": "v7", "grid": None, "report": None, "seeds": 1}
LEAK = (
    "bolt: 2 of 8 test images are copies of training images, such as bolt/test/good/000.png of bolt/train/good/000.png"
)
SHARED = (
    "bolt, cloth: 1 image with copies in another of these classes, such as cloth/train/good/bolt.png of bolt/train/"
)


@pytest.fixture
def copied(place: Path, images: Path) -> Path:
    """Images with training images in the test, and one image in two classes."""
    folder = shutil.copytree(images, place / "copied")
    for name in ("000.png", "001.png"):
        shutil.copy2(folder / "bolt/train/good" / name, folder / "bolt/test/good" / name)
    shutil.copy2(folder / "bolt/train/good/002.png", folder / "cloth/train/good/bolt.png")
    return folder


def test_one_line_a_class(place: Path, command: Any) -> None:
    ended = command("data", "images", "--no-near")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "images: 2 classes, 40 images, nothing suspicious (layout: mvtec_ad)",
        "bolt: 12 training, 4 good and 4 defective test images (hole 4); 4 masks of 14% of the pixels; 32x32; RGB; 8 bits",
        "cloth: 12 training, 4 good and 4 defective test images (hole 4); 4 masks of 6.2% of the pixels; 48x48; RGB; 8 bits",
        "not looked for: near copies (--near)",
    ]


def test_findings_follow_the_classes(copied: Path, command: Any) -> None:
    ended = command("data", "copied")
    assert ended.code == 0
    assert ended.err == "decoding 38 images to look for near copies (once; --no-near leaves it out)\n"
    lines = ended.out.splitlines()
    assert lines[0] == "copied: 2 classes, 41 images, 2 findings (layout: mvtec_ad)"
    assert [line.startswith("finding: ") for line in lines] == [False, False, False, True, True]
    assert LEAK in lines[3]
    assert SHARED in lines[4]


def test_the_keys_of_the_document(copied: Path, command: Any) -> None:
    told = json.loads(command("data", "copied", "--json", "--no-near", "--classes", "bolt").out)
    assert list(told) == [
        "root",
        "classes",
        "unreadable",
        "passed_over_outside",
        "copies",
        "not_looked_for",
        "findings",
    ]
    (bolt,) = told["classes"]
    assert (bolt["name"], bolt["train"], bolt["test"]) == ("bolt", 12, {"good": 4, "hole": 4})
    assert (bolt["sizes"], bolt["bits"], bolt["masks"]) == ({"32x32": 20}, {"8": 20}, {"files": 4, "images": 4})
    assert bolt["defective_percent"]["median"] == pytest.approx(100 * 12 * 12 / 32**2)
    (copies,) = told["copies"]
    assert (copies["conflict"], copies["near"], copies["tested"]) == ("training in test", False, 8)
    assert copies["copies"][0] == {"image": "bolt/test/good/000.png", "copy_of": "bolt/train/good/000.png"}
    assert told["findings"] == [copies["note"]]
    assert told["not_looked_for"] == ["near copies"]


def test_every_key_is_documented(copied: Path, command: Any) -> None:
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if not isinstance(value, dict):
            return set()
        return {key for key in value if re.fullmatch("[a-z_]+", key)}.union(*map(keys, value.values()))

    told = json.loads(command("data", "copied", "--json", "--no-near").out)
    told["classes"] = [one | {"test": {}} for one in told["classes"]]
    assert {key for key in keys(told) if f"`{key}`" not in page} == set()


def test_names_of_classes_may_have_spaces_between_them(place: Path, command: Any) -> None:
    ended = command("data", "images", "--no-near", "--classes", " cloth, bolt ")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("images: 2 classes, 40 images, ")


def test_the_page_holds_its_images_and_escapes_names(copied: Path, place: Path, command: Any) -> None:
    evil = copied / "bolt/test/good/<script>alert(1)</script>.png".replace("/script", "&script")
    shutil.copy2(copied / "bolt/train/good/003.png", evil)
    mask = copied / "bolt/ground_truth/hole/000_mask.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    assert command("data", "copied", "--no-near", "--html", "look.html").code == 0
    page = (place / "look.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    assert "bolt: masks that mark more than half of the image" in page
    # Pairs: three training images in the test, one image of two classes, an image and its mask.
    assert page.count("data:image/png;base64,") == 2 * 5


def test_a_class_that_cannot_be_read(place: Path, images: Path, command: Any) -> None:
    folder = shutil.copytree(images, place / "broken")
    (folder / "bolt/test/hole/000.png").write_bytes(b"text")
    ended = command("data", "broken", "--no-near")
    assert ended.code == 2
    assert "cloth: 12 training" in ended.out
    assert "cannot be read: bolt: broken/bolt/test/hole/000.png: broken image" in ended.out
    assert ended.err == "error: 1 of 2 classes cannot be read: bolt\n"
    as_json = command("data", "broken", "--no-near", "--json")
    assert (as_json.code, as_json.err) == (2, ended.err)
    assert list(json.loads(as_json.out)["unreadable"]) == ["bolt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data",), "data: no folder given; "),
        (("data", "nowhere"), "nowhere: no such folder"),
        (("data", "images", "--classes", "bolts"), "--classes: no class 'bolts' in images; classes there: bolt, cloth"),
        (("data", "images", "--set", "epochs=2"), "--set training.epochs: does not decide how images are read"),
        (("data", "images", "--set", "layout=visa"), "images: layout visa: looked for split_csv/1cls.csv"),
        (("data", "images", "--cache", "base.yaml"), "--cache: base.yaml is a file; give a folder"),
        (("data", "images", "cloth"), "data: given 'cloth' besides images; it takes one folder of images"),
    ],
)
def test_mistakes(place: Path, command: Any, words: tuple[str, ...], said: str) -> None:
    ended = command(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {said}")


def test_the_folder_of_the_environment(
    images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOLEFLOW_DATA", str(images))
    look(near=False, cache=cache)
    assert capsys.readouterr().out.startswith(f"{images}: 2 classes")


def test_help_shows_examples(command: Any) -> None:
    told = command("data", "--help").out
    assert "moleflow-sweep data ~/mvtec --classes bolt,nut --html look.html" in told
    assert "--no-near" in told
    assert "moleflow-sweep data FOLDER" in command("--help").out


def test_copies_are_noted_by_the_plan_and_flagged_in_the_report(
    copied: Path, place: Path, edit: Any, command: Any
) -> None:
    edit(data="copied", **ONE)
    plan = command("plan", "sweep.yaml").out
    assert f"note:     {LEAK}" in plan
    assert f"note:     {SHARED}" in plan
    assert "copies:   plans look for exact copies of images alone; for near ones: moleflow-sweep data copied\n" in plan
    told = json.loads(command("plan", "sweep.yaml", "--json").out)
    assert [copies["conflict"] for copies in told["copies"]] == ["training in test", "other class"]
    assert told["not_looked_for"] == ["near copies"]
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    report = (place / "results/small/report.md").read_text().replace("\\_", "_")
    assert f"flag: {LEAK}" in report
    assert f"flag: {SHARED}" in report
    assert "not looked for: near copies among the images" in report.partition("## Data, settings and cost")[2]


def test_doctor_knows_only_what_was_looked_at(
    copied: Path, command: Any, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    words = ("doctor", "--data", "copied", "--base", "base.yaml", "--cache", str(cache))
    before = command(*words).out
    assert "not looked at: 41 images of bolt, cloth (" in before
    assert "copies" not in before
    assert command("data", "copied", "--no-near", "--classes", "bolt", "--cache", str(cache)).code == 0
    monkeypatch.setattr(digests, "examine", None)
    seen = command(*words).out
    assert LEAK in seen
    assert "not looked at: 21 images of cloth (" in seen
    os.utime(copied / "bolt/test/good/000.png", (2e9, 2e9))
    assert "not looked at: 41 images of bolt, cloth (" in command(*words).out


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that no other test has filled."""
    return tmp_path / "own-cache"


@pytest.fixture
def photos(place: Path, images: Path) -> Path:
    """Photos as most people have them: a folder for each class, in it one for each kind."""
    for name in ("bolt", "cloth"):
        shutil.copytree(images / name / "train/good", place / "my photos" / name / "ok")
        shutil.copytree(images / name / "test/hole", place / "my photos" / name / "broken")
    return place / "my photos"


def test_photos_without_a_split_get_a_manifest_that_is_read(photos: Path, command: Any) -> None:
    refused = command("data", "my photos")
    assert (refused.code, refused.out) == (2, "")
    assert "not split into training and test (bolt has the folders ok, broken)" in refused.err
    asked = re.search(r"`moleflow-sweep (data .*?)`", refused.err)
    assert asked is not None
    ended = command(*shlex.split(asked[1]), "--no-near")
    assert ended.code == 0, ended.err
    assert "25% of the normal images of a class are test images (drawn with seed 0)" in ended.err
    assert "  bolt: 9 training, 3 good test images; defective: broken 4" in ended.err
    assert "tasks: [bolt, cloth] under base" in ended.err
    assert "my photos.csv: 2 classes, 32 images" in ended.out
    assert "bolt: 9 training, 3 good and 4 defective test images (broken 4)" in ended.out
    again = command("data", "my photos.csv", "--no-near")
    assert again.out == ended.out


def test_one_class_and_names_of_ones_own(photos: Path, command: Any) -> None:
    (photos / "bolt/ok").rename(photos / "bolt/fein")
    words = ("data", photos / "bolt", "--no-near", "--json", "--write-manifest")
    refused = command(*words, "bolt.csv")
    assert (refused.code, "--set 'normal_names=[NAME]'" in refused.err) == (2, True)
    ended = command(*words, "bolt.csv", "--set", "normal_names=[fein]", "--test-share", "0.5")
    assert ended.code == 0, ended.err
    (bolt,) = json.loads(ended.out)["classes"]
    assert (bolt["name"], bolt["train"], bolt["test"]) == ("bolt", 6, {"broken": 4, "good": 6})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("there.csv",), "--write-manifest: there.csv is there; give another name, or remove it"),
        (("new.txt",), "--write-manifest: given 'new.txt', allowed: a file whose name ends in .csv"),
        (("gone/new.csv",), "--write-manifest: gone is no folder"),
        (("new.csv", "--test-share", "1"), "--test-share: given 1, allowed: above 0 and below 1"),
    ],
)
def test_mistakes_with_a_manifest_write_nothing(words: Any, said: str, photos: Path, command: Any) -> None:
    (photos.parent / "there.csv").write_text("mine")
    before = sorted(photos.parent.rglob("*"))
    ended = command("data", "my photos", "--write-manifest", *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert sorted(photos.parent.rglob("*")) == before
    assert (photos.parent / "there.csv").read_text() == "mine"


def test_one_reason_that_stops_all_classes_is_one_line(photos: Path, command: Any) -> None:
    assert command("data", "my photos", "--write-manifest", "all.csv", "--no-near").code == 0
    table = photos.parent / "all.csv"
    table.write_text(table.read_text().replace(",good", ",ok"))
    ended = command("data", "all.csv")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("the label 'ok' could hold normal images under another name") == 1
    assert len(ended.err.splitlines()) == 1
