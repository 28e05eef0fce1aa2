"""Checkpoints of unfinished stages: the file, its damage, its writing and its removal."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from moleflow.cache.checkpoints import StageCheckpointer, decode_checkpoint, encode_checkpoint
from moleflow.cache.stage_state import Checkpoint, Epoch, Stage, state_digest
from moleflow.cache.stages import StageId, StageStore
from moleflow.errors import Diverged
from moleflow.owner import process_identity

HERE, OTHER = StageId("ab12", "line a"), StageId("ab34", "line b")
ERRORS = [KeyboardInterrupt, SystemExit, GeneratorExit]


def checkpoint(epochs: int = 1) -> Checkpoint:
    """A checkpoint after `epochs` epochs, with tensors of several shapes."""
    return Checkpoint(
        tuple(Epoch(number + 1, 0.1, 12.5, 1e-3 / 3, 0.30000000000000004, 0.5) for number in range(epochs)),
        {"flow.a": torch.full((2, 3), float(epochs)), "statistics.0.mean": torch.arange(4.0)},
        {"flow.a/step": torch.tensor(epochs), "flow.a/exp_avg": torch.ones(2, 3), "b/step": torch.tensor(2.0)},
    )


def same(first: Checkpoint | None, second: Checkpoint) -> bool:
    return (
        first is not None
        and first.epochs == second.epochs
        and state_digest(first.state) == state_digest(second.state)
        and state_digest(first.optimizer) == state_digest(second.optimizer)
    )


def nothing() -> None:
    """Do nothing."""


def train(
    store: StageStore, *reached: int, then: Callable[[], object] = nothing, error: type[BaseException] | None = None
) -> None:
    """Reach these numbers of epochs, do `then`, and be left by `error`."""
    with StageCheckpointer(store, HERE) as progress:
        for epochs in reached:
            progress.keep(checkpoint(epochs))
        then()
        if error is not None:
            raise error


def start_of(store: StageStore, stage: StageId = HERE) -> Checkpoint | None:
    with StageCheckpointer(store, stage) as progress:
        return progress.start


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---- the file ------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was() -> None:
    for epochs in (1, 3):
        assert same(decode_checkpoint(encode_checkpoint(checkpoint(epochs), HERE), HERE), checkpoint(epochs))


def test_another_stage_s_checkpoint_is_not_taken_for_its_own() -> None:
    assert decode_checkpoint(encode_checkpoint(checkpoint(), OTHER), HERE) is None


def test_every_truncation_is_noticed() -> None:
    content = encode_checkpoint(checkpoint(), HERE)
    assert all(decode_checkpoint(content[:length], HERE) is None for length in range(len(content)))
    assert decode_checkpoint(content + b"\0", HERE) is None


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_noticed_or_changes_nothing(bit: int) -> None:
    content = encode_checkpoint(checkpoint(), HERE)
    (header,) = struct.unpack("<Q", content[:8])
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        found = decode_checkpoint(bytes(flipped), HERE)
        assert found is None or (place < 8 + header and same(found, checkpoint())), place


# ---- when it is written --------------------------------------------------------------------------


def test_it_is_written_at_the_end_of_an_epoch_once_its_time_has_come(tmp_path: Path) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    with StageCheckpointer(store, HERE) as progress:
        assert progress.start is None
        for epochs in (1, 2):
            progress.keep(checkpoint(epochs))
            assert same(decode_checkpoint(store.checkpoint_path(HERE).read_bytes(), HERE), checkpoint(epochs))
    assert same(start_of(store), checkpoint(2))
    assert start_of(store, OTHER) is None


def test_before_its_time_nothing_is_written(tmp_path: Path) -> None:
    train(StageStore(tmp_path), 1, 2)
    assert files(tmp_path) == []


def test_no_more_is_written_than_there_is_time_for(tmp_path: Path) -> None:
    store, written, epochs, begun = StageStore(tmp_path, checkpoint_every_s=0.05), set[bytes](), 0, time.monotonic()
    with StageCheckpointer(store, HERE) as progress:
        while len(written) < 3:
            epochs += 1
            progress.keep(checkpoint(epochs))
            written |= {path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
        assert len(written) <= (time.monotonic() - begun) / 0.05


@pytest.mark.parametrize("error", ERRORS)
def test_a_signal_s_exception_passes_and_the_last_whole_epoch_is_written(
    tmp_path: Path, error: type[BaseException]
) -> None:
    store = StageStore(tmp_path)
    with pytest.raises(error):
        train(store, error=error)
    assert files(tmp_path) == []  # no epoch had ended
    with pytest.raises(error):
        train(store, 1, 2, error=error)
    assert same(start_of(store), checkpoint(2))
    with pytest.raises(error):
        train(store, error=error)
    assert same(start_of(store), checkpoint(2))


def test_an_ordinary_error_keeps_what_was_written_and_a_divergence_removes_it(tmp_path: Path) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    with pytest.raises(RuntimeError):
        train(store, 2, error=RuntimeError)
    assert same(start_of(store), checkpoint(2))
    with pytest.raises(RuntimeError):
        train(StageStore(tmp_path), 3, error=RuntimeError)
    assert same(start_of(store), checkpoint(2))
    with pytest.raises(Diverged):
        train(store, 3, error=Diverged)
    assert files(tmp_path) == []


# ---- when it goes --------------------------------------------------------------------------------


def store_stage(store: StageStore) -> None:
    trained = checkpoint(2)
    stage = Stage(trained.state, trained.epochs, 1.0, state_digest(trained.state))
    store.save(HERE, stage, {})


STORED = [f"ab/ab12/{name}" for name in ("stage.json", "state.safetensors")]


def test_it_goes_when_the_stage_is_stored(tmp_path: Path) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    train(store, 2)
    assert files(tmp_path) == ["ab/ab12.checkpoint.safetensors"]
    train(store, then=lambda: store_stage(store))
    assert files(tmp_path) == STORED


@pytest.mark.parametrize("error", ERRORS)
def test_a_signal_right_after_the_storing_does_not_bring_it_back(tmp_path: Path, error: type[BaseException]) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    with pytest.raises(error):
        train(store, 2, then=lambda: store_stage(store), error=error)
    assert files(tmp_path) == STORED


def test_a_signal_between_its_removal_and_the_stage_s_renaming_loses_nothing(tmp_path: Path) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    with pytest.raises(KeyboardInterrupt):
        train(store, 2, then=store.checkpoint_path(HERE).unlink, error=KeyboardInterrupt)
    assert same(start_of(store), checkpoint(2))
    with pytest.raises(KeyboardInterrupt):
        train(store, then=store.checkpoint_path(HERE).unlink, error=KeyboardInterrupt)  # all epochs were there
    assert same(start_of(store), checkpoint(2))


@pytest.mark.parametrize(
    "damage", [b"", b"\xff" * 100, encode_checkpoint(checkpoint(), HERE)[:-1], encode_checkpoint(checkpoint(), OTHER)]
)
def test_a_damaged_one_is_removed(tmp_path: Path, damage: bytes) -> None:
    store = StageStore(tmp_path)
    store.checkpoint_path(HERE).parent.mkdir()
    store.checkpoint_path(HERE).write_bytes(damage)
    assert start_of(store) is None
    assert files(tmp_path) == []


def test_what_a_killed_writer_left_is_swept_away_by_the_next_and_nobody_else_s(tmp_path: Path, dead_pid: int) -> None:
    store = StageStore(tmp_path)
    store.claim_path(HERE).parent.mkdir()
    store.claim_path(HERE).write_text(json.dumps({**process_identity(), "pid": dead_pid}))
    for left in (".ab12.checkpoint.safetensors.5f", ".ab12.77/state.safetensors", ".ab34.88/stage.json", ".ab123.9"):
        (tmp_path / "ab" / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ab" / left).write_bytes(b"half")
    claim = store.claim(HERE)
    assert claim is not None
    claim.release()
    assert files(tmp_path) == ["ab/.ab123.9", "ab/.ab34.88/stage.json"]


def test_a_run_goes_on_while_the_cache_is_removed(tmp_path: Path) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    with StageCheckpointer(store, OTHER) as progress:
        progress.keep(checkpoint())
        shutil.rmtree(tmp_path)
        progress.keep(checkpoint(2))
    assert same(start_of(store, OTHER), checkpoint(2))


# ---- a disk that takes no more -------------------------------------------------------------------


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_a_full_disk_stops_neither_training_nor_the_exception(
    tmp_path: Path, every: float, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=every)
    with pytest.raises(KeyboardInterrupt), no_file_larger_than(100):
        train(store, 1, 2, error=KeyboardInterrupt)
    assert files(tmp_path) == []


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(
    tmp_path: Path, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    store = StageStore(tmp_path, checkpoint_every_s=0)
    with StageCheckpointer(store, HERE) as progress:
        progress.keep(checkpoint(1))
        with no_file_larger_than(100):
            progress.keep(checkpoint(2))
    assert same(start_of(store), checkpoint(1))
    assert files(tmp_path) == ["ab/ab12.checkpoint.safetensors"]
