"""The store of trained stages: one task of one sequence each, found by what determines it."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from moleflow.cache.claim import Claim, is_stale, try_claim
from moleflow.cache.entries import mark_used
from moleflow.cache.stage_state import Epoch, Stage
from moleflow.code_digest import code_digest, version
from moleflow.environment import Environment
from moleflow.files import write_file
from moleflow.settings.config import TrialConfig, digest, reach

CHECKPOINT_EVERY_S = 60.0
_STATE = "state.safetensors"


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
    code = [code_digest("features"), code_digest("training")]
    around = {"code": code, "environment": environment.key(), "packages": packages}
    settings = {"task": task, "settings": reach(config, "training", task), "data": data_digest, "weights": weights}
    lineage = digest({"parent": parent.lineage, "task": task, "seed": config.seed, "data": data_digest})
    return StageId(key=digest({"parent": parent.key, "lineage": lineage} | around | settings), lineage=lineage)


class StageStore:
    """Stages under a folder, each in a directory of its own that is renamed into place once complete.

    Args:
        checkpoint_every_s: seconds after which a stage in training writes what it reached (`moleflow.cache.checkpoints`), at the end of an epoch.
    """

    def __init__(self, folder: Path, checkpoint_every_s: float = CHECKPOINT_EVERY_S) -> None:
        self.folder = folder
        self.checkpoint_every_s = checkpoint_every_s

    def claim(self, stage: StageId) -> Claim | None:
        """The right to train `stage`, or None while another live worker has it."""
        return try_claim(self.claim_path(stage))

    def forget_maker(self, stage: StageId) -> None:
        """Remove the claim and the checkpoint of a stage that is whole, where its maker died before it could."""
        path = self.claim_path(stage)
        if is_stale(path):
            self.checkpoint_path(stage).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def claim_path(self, stage: StageId) -> Path:
        """Where the claim of a stage lies."""
        return self.folder / "claims" / stage.key

    def checkpoint_path(self, stage: StageId) -> Path:
        """Where the checkpoint of a stage in progress lies."""
        return self.folder / stage.key[:2] / f"{stage.key}.checkpoint.safetensors"

    def load(self, stage: StageId) -> Stage | None:
        """The stored stage, or None if it is not there or any of its bytes are damaged."""
        place = self.place(stage)
        mark_used(place / "stage.json")
        try:
            record = json.loads((place / "stage.json").read_text())
            if record.pop("digest") != digest(record) or record["key"] != stage.key:
                return None
            content = (place / _STATE).read_bytes()
            if _sha256(content) != record["files"][_STATE]:
                return None
            epochs = tuple(Epoch(**epoch) for epoch in record["epochs"])
            return Stage(load(content), epochs, record["seconds"], record["state_digest"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None

    def save(self, stage: StageId, trained: Stage, facts: Mapping[str, Any]) -> None:
        """Store a stage and remove its checkpoint; a stage that is already whole is left as it is.

        Args:
            facts: what a reader of stage.json may want to know (settings, data); nothing is read back from it.

        Raises:
            OSError: the disk is full or not writable; nothing half-written stays.
        """
        # Written as plain bytes: safetensors' own writer loses the error number of a full disk.
        state = save(trained.state)
        record: dict[str, Any] = {
            "key": stage.key,
            "lineage": stage.lineage,
            "files": {_STATE: _sha256(state)},
            "epochs": [asdict(epoch) for epoch in trained.epochs],
            "seconds": trained.seconds,
            "state_digest": trained.state_digest,
            "facts": dict(facts),
        }
        record["digest"] = digest(record)
        files = {_STATE: state, "stage.json": json.dumps(record, indent=1, allow_nan=False).encode()}
        try:
            self._place(stage, files)
        except FileNotFoundError:
            # Whoever took the claim over, as we seemed dead for a minute, swept away what we were writing.
            if self.load(stage) is None:
                self._place(stage, files)
        # Not before: if the renaming fails, the next one goes on from there.
        self.checkpoint_path(stage).unlink(missing_ok=True)

    def _place(self, stage: StageId, files: Mapping[str, bytes]) -> None:
        """Write a stage's files beside its place and rename them into it."""
        place = self.place(stage)
        beside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        try:
            beside.mkdir(parents=True)
            for name, content in files.items():
                write_file(beside / name, content)
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

    def sweep(self, stage: StageId) -> None:
        """Remove what a writer of `stage` or of its checkpoint left when it died; only for the holder of the stage's claim."""
        for left in self.place(stage).parent.glob(f".{stage.key}.*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with suppress(OSError):
                    left.unlink()

    def place(self, stage: StageId) -> Path:
        """The folder of a stage, once it is whole; what its expert makes of images lies there too."""
        return self.folder / stage.key[:2] / stage.key


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
