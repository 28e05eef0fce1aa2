"""Sequences in other processes: killed ones, and two that share stages."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moleflow.settings.config import TrialConfig

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]
Leftovers = Callable[[Path], set[str]]


@pytest.mark.process
@pytest.mark.parametrize("where", ["task 0", "epoch 1 of task 1"])
def test_a_killed_sequence_resumes_to_the_digits_of_an_uninterrupted_one(
    start: Start, whole: Any, ground: Path, tmp_path: Path, where: str, config: Config, begin: Start
) -> None:
    stages = tmp_path / "stages"
    killed = begin(tmp_path / "there", ground, "5", config=config().model_dump_json(), stages=[str(stages)], die=where)
    assert killed.wait() == -signal.SIGKILL
    claims = list((stages / "claims").iterdir())
    assert len(claims) == (1 if where.startswith("epoch") else 0)  # Of a dead process: taken over.
    resumed = start(config(), stages)
    assert resumed.reused == [True, False, False]
    assert resumed.digits() == whole.digits()


@pytest.mark.process
@pytest.mark.parametrize(
    ("where", "missing"),
    [("epoch 1 of task 1", [(1, 2), (2, 1), (2, 2)]), ("epoch 2 of task 0", [(1, 1), (1, 2), (2, 1), (2, 2)])],
)
def test_a_killed_sequence_that_had_written_a_checkpoint_trains_only_the_missing_epochs(
    start: Start,
    whole: Any,
    ground: Path,
    tmp_path: Path,
    where: str,
    missing: list[tuple[int, int]],
    config: Config,
    leftovers: Leftovers,
    begin: Start,
) -> None:
    stages, asked = tmp_path / "stages", config().model_dump_json()
    killed = begin(tmp_path / "there", ground, "5", config=asked, stages=[str(stages)], die=where, every=0.0)
    assert killed.wait() == -signal.SIGKILL
    (path,) = stages.rglob("*.checkpoint.safetensors")
    path.with_name(f".{path.name}.half").write_bytes(path.read_bytes()[:1000])  # As if it had died in the next write.
    resumed = start(config(), stages)
    assert resumed.epochs == missing
    assert resumed.digits() == whole.digits()
    assert leftovers(stages) == set()


@pytest.mark.process
def test_two_processes_find_the_same_digits_and_train_a_shared_stage_once(
    start: Start, ground: Path, tmp_path: Path, config: Config, begin: Start
) -> None:
    """With other hash seeds and working directories, first apart and then on one store."""
    settings = config(epochs=4)
    expected = start(settings)
    meeting = [str(tmp_path / name) for name in ("first is ready", "second is ready")]
    processes = [
        begin(
            tmp_path / name,
            ground,
            hash_seed,
            config=settings.model_dump_json(),
            stages=[str(tmp_path / f"stages of {name}"), str(tmp_path / "stages of both")],
            ready=ready,
            other=other,
        )
        for name, hash_seed, ready, other in (("a", "1", *meeting), ("b", "2", *meeting[::-1]))
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (alone_a, shared_a), (alone_b, shared_b) = [
        json.loads((tmp_path / name / "out.json").read_text()) for name in ("a", "b")
    ]
    assert alone_a["digits"] == alone_b["digits"] == shared_a["digits"] == shared_b["digits"] == repr(expected.digits())
    assert alone_a["epochs"] == alone_b["epochs"] == 3 * 4
    assert shared_a["epochs"] + shared_b["epochs"] == 3 * 4
    assert all(a != b for a, b in zip(shared_a["reused"], shared_b["reused"], strict=True))
