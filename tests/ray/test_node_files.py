"""The files for a node without the driver's disk, and its folder; no Ray is started."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from moleflow.cache import claim
from moleflow.data.layouts.table import BY_LOOKING
from moleflow.data.scan import scan
from moleflow.file_service import FileRequest
from orchestrator.backends.ray import file_server, node, shipping
from orchestrator.backends.ray.file_client import StageCopies
from orchestrator.backends.ray.file_server import FileServer, ImagePack, Unchanged
from orchestrator.backends.ray.node import CACHE, IMAGES, RESULTS, DriverFiles


@pytest.fixture
def server(tmp_path, images):
    """A server of an empty results folder and cache, and of the images."""
    for name in ("results", "cache"):
        (tmp_path / name).mkdir()
    return FileServer([tmp_path / "results", tmp_path / "cache"], images, tmp_path / "hub")


def test_images_of_the_wanted_classes_and_files_outside_of_class_folders_travel(server, images, draw, tmp_path):
    root = tmp_path / "root"
    for name in ("bolt", "cloth", "wire"):
        draw(root / name, 32, 0)
    (root / "notes").mkdir()
    for name in ("table.csv", "notes/more.txt", ".hidden", "bolt/license.txt"):
        (root / name).write_text(name)
    packs = FileServer([tmp_path / "results"], root, tmp_path / "hub").image_packs(["bolt", "wire"], BY_LOOKING)
    names = [name for pack in packs for name, _ in pack.files]
    assert len(names) == len(set(names))
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert set(names) == {name for name in there if not name.startswith(("cloth", "."))}
    copy = tmp_path / "copy"
    for pack in packs:
        for name, size in pack.files:
            assert (root / name).stat().st_size == size
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((root / name).read_bytes())
    both = [scan(place, ["bolt", "wire"]) for place in (root, copy)]
    assert [data.digest for data in both[0]] == [data.digest for data in both[1]]


def test_packs_hold_files_up_to_a_size(server, monkeypatch):
    monkeypatch.setattr(file_server, "PACK_BYTES", 10_000)
    packs = [pack for pack in server.image_packs(["bolt"], BY_LOOKING) if pack.folder == "bolt"]
    assert [pack.number for pack in packs] == [*range(len(packs))]
    assert len(packs) > 2
    assert all(sum(size for _, size in pack.files) <= 10_000 for pack in packs)
    assert packs == [pack for pack in server.image_packs(["bolt", "cloth"], BY_LOOKING) if pack.folder == "bolt"]


def test_only_images_below_the_data_root_and_known_weights_are_read(server, images, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("text")
    outside = ImagePack("bolt", 0, ((os.path.relpath(secret, images), 4),))
    with pytest.raises(PermissionError, match="leads out of"):
        server.images(outside)
    with pytest.raises(PermissionError, match="is not the file with the SHA-256"):
        server.weights(secret, hashlib.sha256(b"other").hexdigest())
    answer, _ = server.perform(FileRequest("read", secret))
    with pytest.raises(OSError, match="not below"):
        answer.value(secret)


def test_weights_of_the_hub_are_read_below_the_drivers_cache_only(server, tmp_path):
    assert server.hub_weights("timm/some") is None
    snapshot = tmp_path / "hub/models--timm--some/snapshots/c1"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub/models--timm--some/refs").mkdir()
    (tmp_path / "hub/models--timm--some/refs/main").write_text("c1")
    (snapshot / "model.safetensors").write_bytes(b"one")
    found = server.hub_weights("timm/some")
    assert found.place == Path("models--timm--some/snapshots/c1/model.safetensors")
    assert found.sha256 == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(ValueError, match="Repo id must"):
        server.hub_weights("../../timm/some")


def test_a_stage_travels_again_only_if_it_has_changed(server, tmp_path):
    stage, copies = tmp_path / "cache/state.safetensors", StageCopies(tmp_path / "copies")
    stage.write_bytes(b"one")
    assert copies.read(stage) is None
    answer, stamp = server.perform(FileRequest("read", stage), known=(0, 0, 0))
    copies.write(stage, stamp, answer.value(stage))
    assert copies.read(stage) == (stamp, b"one")
    assert server.perform(FileRequest("read", stage), known=stamp)[0].result == Unchanged()
    (tmp_path / "cache/new").write_bytes(b"two")
    (tmp_path / "cache/new").replace(stage)
    answer, new = server.perform(FileRequest("read", stage), known=stamp)
    assert answer.value(stage) == b"two"
    assert new != stamp
    (copy,) = (tmp_path / "copies").iterdir()
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    assert copies.read(stage) is None  # Damaged.
    assert server.traffic()["cache"] == len(b"one") + len(b"two")


def test_a_folder_is_seen_by_its_probe_and_images_by_their_content(tmp_path, images):
    probes = {name: tmp_path / name for name in (RESULTS, CACHE)}
    sample = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(images.rglob("*.png"))[:2]}
    files = DriverFiles(None, "run", probes, sample)
    assert files.unseen() == {RESULTS, CACHE}
    probes[CACHE].write_text("")
    assert files.unseen() == {RESULTS}
    other = {path: "0" * 64 for path in sample}
    assert DriverFiles(None, "run", probes, other).unseen() == {RESULTS, IMAGES}
    assert DriverFiles(None, "run", probes, {Path("/nowhere/a.png"): "0" * 64}).unseen() == {RESULTS, IMAGES}


def test_a_probe_of_a_dead_driver_goes_at_the_next_start_and_one_in_use_stays(tmp_path, dead_pid, monkeypatch):
    with shipping._probe(tmp_path / "ray", "living") as living:
        mine = json.loads(living.read_text())
        others = {"dead": {"pid": dead_pid}, "elsewhere": {"host": "other"}}
        for name, change in others.items():
            (tmp_path / "ray" / f"{name}.probe").write_text(json.dumps({**mine, **change}))
        with shipping._probe(tmp_path / "ray", "next") as probe:
            assert {path.stem for path in probe.parent.iterdir()} == {"living", "elsewhere", "next"}
    assert [path.stem for path in (tmp_path / "ray").iterdir()] == ["elsewhere"]
    # It is gone once this process has watched it for some seconds, and nobody touched it meanwhile.
    os.utime(tmp_path / "ray/elsewhere.probe", (1e9, 1e9))
    for pause in ("WATCHED_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(claim, pause, 0.0)
    shipping._remove_stale_probes(tmp_path / "ray")
    assert not [*(tmp_path / "ray").iterdir()]


def test_the_folder_of_a_run_goes_once_no_process_uses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    first = node._enter("first")
    (first / "images").mkdir()
    second = node._enter("second")
    assert first.exists()  # This process uses it.
    (held,) = (first / "workers").iterdir()
    held.write_text(json.dumps({**json.loads(held.read_text()), "pid": 2**22 + 1}))
    assert node._enter("third").exists()
    assert not first.exists()
    assert second.exists()
    node.remove_run("second")
    assert not second.exists()
    (tmp_path / f"moleflow-node-{os.getuid()}").rename(tmp_path / "elsewhere")
    (tmp_path / f"moleflow-node-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="belongs to another user"):
        node._enter("fourth")
