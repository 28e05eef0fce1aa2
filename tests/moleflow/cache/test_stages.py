from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import moleflow.cache.stages
import moleflow.files
from moleflow.cache.entries import remove_entry, stage_entries
from moleflow.cache.stage_state import Epoch, Stage, state_digest
from moleflow.cache.stages import ROOT, StageId, StageStore, stage_id
from moleflow.code_digest import code_digest, version
from moleflow.environment import Environment
from moleflow.files import write_file
from moleflow.settings.config import TrialConfig, digest
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.train_task import Randomness

HERE = Environment("cpu", "2.0", "float32", 1)
FIRST, SECOND = StageId("ab12", "line a"), StageId("cd34", "line b")


def config(version: str = "v3", **knobs: Any) -> TrialConfig:
    return resolve([version_layer(version, "test"), Layer("test", knobs)])


def key(
    settings: TrialConfig, tasks: int = 1, environment: Environment = HERE, data: str = "d", weights: str = "w"
) -> StageId:
    """The id after `tasks` tasks with the same images each."""
    stage = ROOT
    for task in range(tasks):
        stage = stage_id(stage, settings, task, data, weights, environment)
    return stage


def stage(value: float = 1.0) -> Stage:
    state = {"a": torch.full((2, 3), value), "b": torch.arange(4)}
    return Stage(state, (Epoch(1, 0.1, 12.5, 1e-3, 0.30000000000000004, 0.5),), 1.25, state_digest(state))


def saved(folder: Path, found: StageId = FIRST, value: float = 1.0) -> StageStore:
    store = StageStore(folder)
    store.save(found, stage(value), {"task": "bolt"})
    return store


def place(folder: Path, found: StageId = FIRST) -> Path:
    return folder / found.key[:2] / found.key


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- keys and lineages ---------------------------------------------------------------------------


def test_another_environment_is_another_key_with_the_same_draws() -> None:
    for other in (replace(HERE, device_kind="cuda"), replace(HERE, threads=2), replace(HERE, torch_version="2.1")):
        elsewhere = key(config(), 2, other)
        assert elsewhere.key != key(config(), 2).key
        assert elsewhere.lineage == key(config(), 2).lineage
    draws = [torch.rand(5, generator=Randomness(0, key(config()).lineage, 1)("expert")) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("package", ["timm", "FrEIA", "numpy", "pillow"])
def test_another_version_of_a_package_is_another_key_with_the_same_draws(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(config())
    monkeypatch.setattr(moleflow.cache.stages, "version", lambda name: "0" if name == package else version(name))
    after = key(config())
    assert after.key != before.key
    assert after.lineage == before.lineage


@pytest.mark.parametrize("phase", ["features", "training"])
def test_other_code_of_features_or_training_is_another_key_with_the_same_draws(
    phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(config(), 2)
    digests = {"features": code_digest("features"), "training": code_digest("training")} | {phase: "edited"}
    monkeypatch.setattr(moleflow.cache.stages, "code_digest", digests.__getitem__)
    after = key(config(), 2)
    assert after.key != before.key
    assert after.lineage == before.lineage


@pytest.mark.parametrize(
    ("other", "draws_too"),
    [
        ({"settings": config("v3", **{"loss.center_weight": 0.5})}, False),
        ({"settings": config(seed=1)}, True),
        ({"data": "other images"}, True),
        ({"weights": "other weights"}, False),
        ({"tasks": 3}, True),
    ],
)
def test_what_determines_a_stage_is_in_its_key(other: dict[str, object], draws_too: bool) -> None:
    start: dict[str, object] = {"settings": config(), "tasks": 2}
    found, changed = key(**start), key(**(start | other))  # type: ignore[arg-type]
    assert changed.key != found.key
    assert (changed.lineage != found.lineage) is draws_too


def test_what_reaches_an_earlier_task_is_in_the_later_key() -> None:
    settings = [config("v3", **{"adapter.task0_identity": share}) for share in (1.0, 0.5)]
    ids = [[stage_id(ROOT, one, 0, "d", "w", HERE)] for one in settings]
    for one, found in zip(settings, ids, strict=True):
        found.append(stage_id(found[0], one, 1, "e", "w", HERE))
    assert ids[0][0].key != ids[1][0].key
    assert ids[0][1].key != ids[1][1].key


def test_trials_that_share_a_prefix_share_its_keys_and_no_more() -> None:
    half, whole = config("v1"), config("v1", **{"lora.scaling": 0.5})
    assert key(half, 1) == key(whole, 1)
    assert key(half, 2).key != key(whole, 2).key
    assert key(half, 3) == key(
        config("v1", **{"scoring.top_k": 1, "router.shrinkage": "none", "data.mask_size": 64}), 3
    )
    assert (
        key(config("v3"), 3)
        == key(config("v7", **{"loss.focal_gamma": 0.0}), 3)
        == key(config("v5", **{"loss.center_weight": 0.0}), 3)
    )


# ---- the store -----------------------------------------------------------------------------------


def test_a_stage_comes_back_as_it_was(tmp_path: Path) -> None:
    store = saved(tmp_path)
    found, expected = store.load(FIRST), stage()
    assert found is not None
    assert same(found.state, expected.state)
    assert (found.epochs, found.seconds, found.state_digest) == (
        expected.epochs,
        expected.seconds,
        expected.state_digest,
    )
    assert state_digest(found.state) == found.state_digest
    assert store.load(SECOND) is None
    assert {path.name for path in place(tmp_path).iterdir()} == {"state.safetensors", "stage.json"}
    assert json.loads((place(tmp_path) / "stage.json").read_text())["facts"] == {"task": "bolt"}


def test_a_whole_stage_is_left_as_it_is(tmp_path: Path) -> None:
    saved(tmp_path)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in place(tmp_path).iterdir()}
    saved(tmp_path, value=2.0)
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in place(tmp_path).iterdir()} == before
    assert [path.name for path in place(tmp_path).parent.iterdir()] == [FIRST.key]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def _edit(old: str, new: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        text = (folder / "stage.json").read_text()
        assert old in text
        (folder / "stage.json").write_text(text.replace(old, new))

    return edit


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the state": lambda folder: _flip(folder / "state.safetensors"),
    "a truncated state": lambda folder: (folder / "state.safetensors").write_bytes(
        (folder / "state.safetensors").read_bytes()[:50]
    ),
    "an empty state": lambda folder: (folder / "state.safetensors").write_bytes(b""),
    "no state": lambda folder: (folder / "state.safetensors").unlink(),
    "no record": lambda folder: (folder / "stage.json").unlink(),
    "a truncated record": lambda folder: (folder / "stage.json").write_text((folder / "stage.json").read_text()[:-40]),
    "a record that is no mapping": lambda folder: (folder / "stage.json").write_text('"stage"'),
    "a record with other bytes": lambda folder: (folder / "stage.json").write_bytes(b"\xff\xfe"),
    "another figure in the record": _edit('"nll": 12.5', '"nll": 12.6'),
    "another digest in the record": _edit(stage().state_digest, stage(2.0).state_digest),
    "another stage's record": _edit(FIRST.key, SECOND.key),
}


@pytest.mark.parametrize("where", DAMAGE)
def test_a_damaged_stage_is_never_used_and_is_replaced(tmp_path: Path, where: str) -> None:
    store = saved(tmp_path)
    DAMAGE[where](place(tmp_path))
    assert store.load(FIRST) is None
    saved(tmp_path, value=3.0)
    found = store.load(FIRST)
    assert found is not None
    assert same(found.state, stage(3.0).state)
    assert [path.name for path in place(tmp_path).parent.iterdir()] == [FIRST.key]


def test_a_stage_moved_under_another_key_is_not_taken_for_it(tmp_path: Path) -> None:
    store = saved(tmp_path)
    place(tmp_path, SECOND).parent.mkdir()
    place(tmp_path).rename(place(tmp_path, SECOND))
    assert store.load(SECOND) is None


def test_a_write_that_fails_keeps_its_error_number_and_leaves_nothing_half_written(
    tmp_path: Path, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    saved(tmp_path, SECOND)
    with no_file_larger_than(60), pytest.raises(OSError, match="File too large") as caught:
        saved(tmp_path)
    assert caught.value.errno is not None
    assert list((tmp_path / FIRST.key[:2]).iterdir()) == []
    assert StageStore(tmp_path).load(SECOND) is not None
    assert saved(tmp_path).load(FIRST) is not None


@pytest.mark.parametrize("takes_over", [True, False])
def test_who_is_taken_for_dead_while_it_writes_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_over: bool
) -> None:
    """The next worker removes the files of a seemingly dead one, and may finish first."""
    write, swept = write_file, list[Path]()

    def written_then_swept(path: Path, *content: bytes, durable: bool = True) -> None:
        write(path, *content, durable=durable)
        if not swept and path.parent.parent == place(tmp_path).parent:
            swept.append(path)
            StageStore(tmp_path).remove_leftovers(FIRST)
            if takes_over:
                saved(tmp_path, value=1.0)

    monkeypatch.setattr(moleflow.files, "write_file", written_then_swept)
    found = saved(tmp_path).load(FIRST)
    assert found is not None
    assert same(found.state, stage().state)
    assert [path.name for path in place(tmp_path).parent.iterdir()] == [FIRST.key]


def test_a_checkpoint_stays_until_its_stage_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = StageStore(tmp_path).checkpoint_path(FIRST)
    kept.parent.mkdir()
    kept.write_bytes(b"the last epoch")
    rename = os.replace

    def full(source: Path, target: Path) -> None:
        if target == place(tmp_path):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="Disk quota exceeded"):
            saved(tmp_path)
    assert kept.read_bytes() == b"the last epoch"
    saved(tmp_path)
    assert not kept.exists()


def test_a_stage_with_a_file_of_earlier_code_is_read_and_removed(tmp_path: Path) -> None:
    """Earlier code stored the optimizer too, and named its digest in the record."""
    store = saved(tmp_path)
    (place(tmp_path) / "optimizer.safetensors").write_bytes(b"an optimizer")
    record = json.loads((place(tmp_path) / "stage.json").read_text())
    record["files"]["optimizer.safetensors"] = hashlib.sha256(b"an optimizer").hexdigest()
    del record["digest"]
    (place(tmp_path) / "stage.json").write_text(json.dumps(record | {"digest": digest(record)}))
    found = store.load(FIRST)
    assert found is not None
    assert same(found.state, stage().state)
    (entry,) = stage_entries(tmp_path)
    assert entry.bytes == sum(path.stat().st_size for path in place(tmp_path).iterdir())
    assert remove_entry(entry)
    assert not place(tmp_path).exists()


def test_a_checkpoint_is_written_every_minute_unless_said_otherwise(tmp_path: Path) -> None:
    assert StageStore(tmp_path).checkpoint_every_s == 60
    assert StageStore(tmp_path, 5).checkpoint_every_s == 5


def test_one_worker_at_a_time_has_the_right_to_train_a_stage(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    mine = store.claim(FIRST)
    assert mine is not None
    assert store.claim(FIRST) is None
    other = store.claim(SECOND)
    assert other is not None
    other.release()
    mine.release()
    again = store.claim(FIRST)
    assert again is not None
    again.release()


def test_the_claim_of_a_maker_that_died_after_its_stage_was_whole_is_removed(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    store.forget_maker(FIRST)  # Usually there is none.
    mine = store.claim(FIRST)
    assert mine is not None
    store.forget_maker(FIRST)
    assert store.claim_path(FIRST).exists()
    mine.stop()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    record = json.loads(store.claim_path(FIRST).read_text()) | {"pid": gone.pid}
    store.claim_path(FIRST).write_text(json.dumps(record))
    store.forget_maker(FIRST)
    assert not store.claim_path(FIRST).exists()


# ---- the digest of a state -----------------------------------------------------------------------


def test_a_state_digest_sees_names_shapes_types_and_bits_but_not_order() -> None:
    start = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 2)}
    assert state_digest(start) == state_digest({"b": torch.zeros(2, 2), "a": torch.tensor([1.0, 2.0])})
    others: list[dict[str, Tensor]] = [
        {"a": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([1.0, 2.0]), "c": torch.zeros(2, 2)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(4)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": torch.tensor([1.0, 2.0 + 2**-22]), "b": torch.zeros(2, 2)},
        {"a": torch.tensor([1.0, 2.0]), "b": -torch.zeros(2, 2)},
    ]
    digests = {state_digest(other) for other in others}
    assert len(digests | {state_digest(start)}) == len(others) + 1
    transposed = torch.tensor([[1.0, 3.0], [2.0, 4.0]]).T
    assert state_digest({"a": transposed}) == state_digest({"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})


@pytest.mark.parametrize(
    ("version", "recorded"),
    [
        ("v3", ["3ce6c01dc2955d32", "248f12e55c875e51"]),
        ("v7", ["2e56e8655dea3268", "dde31d1de9395a0f"]),
    ],
)
def test_keys_of_recorded_stages_stay(version: str, recorded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Of these, code and packages alone may change: a stored stage is found by its key.
    monkeypatch.setattr(moleflow.cache.stages, "code_digest", lambda phase: f"code of {phase}")
    monkeypatch.setattr(moleflow.cache.stages, "version", lambda package: "1")
    for tasks in (["leather", "grid"], [["leather"], ["grid"]]):
        settings, found, keys = config(version, tasks=tasks), ROOT, []
        for task, name in enumerate(("leather", "grid")):
            found = stage_id(found, settings, task, digest([name]), "w", HERE)
            keys.append(found.key[:16])
        assert keys == recorded
