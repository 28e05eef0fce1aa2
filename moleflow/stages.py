"""The store of trained stages: one task of one sequence each, found by what determines it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moleflow.claim import Claim, is_stale, try_claim
from moleflow.config import TrialConfig, digest, reach
from moleflow.environment import Environment
from moleflow.holdings import stage_entries, touch
from moleflow.source import code_digest, version

CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True)
class StageId:
    """What determines a stage.

    `key` chains the settings that reach each task, the data, the weights, the code and the numeric environment; storage goes by it.
    `lineage` chains the data and the seed alone; randomness derives from the parent's. So an edited comment or another device changes
    no random draw, variants are compared on the same draws, and a setting that changes no number gives the same digits on every task.
    """

    key: str
    lineage: str


ROOT = StageId("", "")


def stage_id(
    parent: StageId, config: TrialConfig, task: int, data_digest: str, weights: str, environment: Environment
) -> StageId:
    """The id of the stage that trains the task at position `task` after `parent`."""
    # The packages whose code makes features, the flow and its steps; torch's version is in the environment.
    packages = {name: version(name) for name in ("timm", "FrEIA", "numpy", "pillow")}
    around = {"code": code_digest(), "environment": environment.key(), "packages": packages}
    settings = {"task": task, "settings": reach(config, "training", task), "data": data_digest, "weights": weights}
    return StageId(
        key=digest({"parent": parent.key} | around | settings),
        lineage=digest({"parent": parent.lineage, "task": task, "seed": config.seed, "data": data_digest}),
    )


def shorter_stages(
    parent: StageId, config: TrialConfig, task: int, data_digest: str, weights: str, environment: Environment
) -> Iterator[StageId]:
    """The stages of fewer epochs from whose end the stage with the `stage_id` of the same arguments is trained on, longest first.

    Under a constant learning rate no epoch depends on how many there are, so such a training is the beginning of a longer one to the
    last bit. A cosine spreads over all epochs: there are none. Nor are there for a later task: its parent has as many epochs as itself.
    """
    if task > 0 or config.training.schedule != "constant":
        return
    for epochs in range(config.training.epochs - 1, 0, -1):
        training = config.training.model_copy(update={"epochs": epochs})
        yield stage_id(
            parent, config.model_copy(update={"training": training}), task, data_digest, weights, environment
        )


@dataclass(frozen=True)
class Epoch:
    """One pass over a task's training images: mean loss, mean plain NLL (nats a patch), learning rate at its end, gradient norm."""

    epoch: int
    loss: float
    nll: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A trained task: its own parameters, how training went and what it cost."""

    state: dict[str, Tensor]
    epochs: tuple[Epoch, ...]
    seconds: float
    state_digest: str


class StageStore:
    """Stages under a folder, each in a directory of its own that is renamed into place once complete.

    Args:
        checkpoint_every_s: seconds after which a stage in training writes what it reached (`moleflow.checkpoints`), at the end of an epoch.
    """

    def __init__(self, folder: Path, checkpoint_every_s: float = CHECKPOINT_EVERY_S) -> None:
        self.folder = folder
        self.checkpoint_every_s = checkpoint_every_s

    def claim(self, stage: StageId) -> Claim | None:
        """The right to train `stage`, or None while another live worker has it."""
        return try_claim(self.claim_path(stage))

    def forget_maker(self, stage: StageId) -> None:
        """Remove the claim of a stage that is whole, where its maker died before it could give it back."""
        path = self.claim_path(stage)
        if is_stale(path):
            path.unlink(missing_ok=True)

    def claim_path(self, stage: StageId) -> Path:
        """Where the claim of a stage lies."""
        return self.folder / "claims" / stage.key

    def checkpoint_path(self, stage: StageId) -> Path:
        """Where the checkpoint of a stage in progress lies."""
        return self.folder / stage.key[:2] / f"{stage.key}.checkpoint.safetensors"

    def load(self, stage: StageId) -> Stage | None:
        """The stored stage, or None if it is not there or any of its bytes are damaged."""
        found = self.load_with_optimizer(stage)
        return None if found is None else found[0]

    def load_with_optimizer(self, stage: StageId) -> tuple[Stage, dict[str, Tensor]] | None:
        """The stored stage and its optimizer's state, from which it can be trained on; None as in `load`."""
        place = self.place(stage)
        touch(place / "stage.json")
        try:
            record = json.loads((place / "stage.json").read_text())
            files = {name: (place / name).read_bytes() for name in record["files"]}
            if (
                record.pop("digest") != digest(record)
                or record["files"] != _digests(files)
                or record["key"] != stage.key
            ):
                return None
            epochs = tuple(Epoch(**epoch) for epoch in record["epochs"])
            found = Stage(load(files["state.safetensors"]), epochs, record["seconds"], record["state_digest"])
            return found, load(files["optimizer.safetensors"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None

    def save(self, stage: StageId, trained: Stage, optimizer: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Store a stage with its optimizer's state and remove its checkpoint; a stage that is already whole is left as it is.

        Args:
            facts: what a reader of stage.json may want to know (settings, data); nothing is read back from it.

        Raises:
            OSError: the disk is full or not writable; nothing half-written stays.
        """
        place = self.place(stage)
        beside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        # Written as plain bytes: safetensors' own writer loses the error number of a full disk.
        files = {"state.safetensors": save(trained.state), "optimizer.safetensors": save(dict(optimizer))}
        record: dict[str, Any] = {
            "key": stage.key,
            "lineage": stage.lineage,
            "files": _digests(files),
            "epochs": [asdict(epoch) for epoch in trained.epochs],
            "seconds": trained.seconds,
            "state_digest": trained.state_digest,
            "facts": dict(facts),
        }
        record["digest"] = digest(record)
        try:
            beside.mkdir(parents=True)
            for name, content in (
                files | {"stage.json": json.dumps(record, indent=1, allow_nan=False).encode()}
            ).items():
                write_synced(beside / name, content)
            # Before the renaming: once the stage is whole, nobody would look for a checkpoint again.
            self.checkpoint_path(stage).unlink(missing_ok=True)
            if place.exists() and self.load(stage) is None:
                damaged = beside.with_name(f"{beside.name}.damaged")
                place.rename(damaged)
                shutil.rmtree(damaged, ignore_errors=True)
            try:
                beside.rename(place)
            except OSError:
                if self.load(stage) is None:
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def usage(self) -> tuple[int, int]:
        """(bytes, number of whole stages) on disk; the bytes count the checkpoints of stages in progress too."""
        found = [entry for entry in stage_entries(self.folder) if entry.kind != "leftovers"]
        return sum(entry.bytes for entry in found), sum(entry.kind == "stages" for entry in found)

    def sweep(self, stage: StageId) -> None:
        """Remove what a writer of `stage` or of its checkpoint left when it died; only for the holder of the stage's claim."""
        for left in self.place(stage).parent.glob(f".{stage.key}.*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with suppress(OSError):
                    left.unlink()

    def clear(self) -> None:
        """Remove every stage and checkpoint; running trials train theirs anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, stage: StageId) -> Path:
        """The folder of a stage, once it is whole; what its expert makes of images lies there too."""
        return self.folder / stage.key[:2] / stage.key


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file through to the disk.

    Raises:
        OSError: the disk is full or not writable.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
