"""The store of trained stages, one task of one sequence each, cached by their inputs."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from moleflow import files
from moleflow.cache.claim import Claim, is_stale, try_claim
from moleflow.cache.entries import mark_used
from moleflow.cache.stage_state import Epoch, Stage
from moleflow.code_digest import code_digest, version
from moleflow.environment import Environment
from moleflow.passing_errors import retried
from moleflow.settings.config import TrialConfig, digest, reach

CHECKPOINT_EVERY_S = 60.0
_STATE = "state.safetensors"


@dataclass(frozen=True)
class StageId:
    """The identity of a stage.

    Random numbers derive from the parent's lineage, not from a key. So other code or another device
    changes no random draw, variants are compared on the same draws, and a setting that changes no
    number gives the same digits on every task.

    Attributes:
        key: over the settings that reach each task so far, the data, the weights, the code and the
            numeric environment. Stages are stored under it.
        lineage: over the data of each task so far and the seed alone.
    """

    key: str
    lineage: str


ROOT = StageId("", "")


def stage_id(
    parent: StageId, config: TrialConfig, task: int, data_digest: str, weights: str, environment: Environment
) -> StageId:
    """The identity of the stage that trains the next task after `parent`.

    Args:
        parent: the stage before; `ROOT` for the first task.
        config: the trial.
        task: position of the task in the sequence, from 0.
        data_digest: over the training images.
        weights: identity of the backbone's weights.
        environment: where numbers are computed.
    """
    # The packages whose code makes features, the flow and its steps; torch's version is in the
    # environment.
    packages = {name: version(name) for name in ("timm", "FrEIA", "numpy", "pillow")}
    code = [code_digest("features"), code_digest("bank" if config.bank.enabled else "training")]
    around = {"code": code, "environment": environment.key(), "packages": packages}
    settings = {"task": task, "settings": reach(config, "training", task), "data": data_digest, "weights": weights}
    lineage = digest({"parent": parent.lineage, "task": task, "seed": config.seed, "data": data_digest})
    return StageId(key=digest({"parent": parent.key, "lineage": lineage} | around | settings), lineage=lineage)


class StageStore:
    """Stages under a folder, each in a directory that is renamed into place once complete.

    Args:
        folder: the folder.
        checkpoint_every_s: seconds between two checkpoints of a stage that trains; they are written
            at the end of an epoch (`moleflow.cache.checkpoints`).
    """

    def __init__(self, folder: Path, checkpoint_every_s: float = CHECKPOINT_EVERY_S) -> None:
        self.folder = folder
        self.checkpoint_every_s = checkpoint_every_s

    def claim(self, stage: StageId) -> Claim | None:
        """The claim on training `stage`; None while another live worker holds it."""
        claim = try_claim(self.claim_path(stage))
        if claim is not None and claim.is_taken_over:
            self.remove_leftovers(stage)
        return claim

    def forget_maker(self, stage: StageId) -> None:
        """Remove the claim and the checkpoint of a stored stage whose maker died."""
        path = self.claim_path(stage)
        if is_stale(path):
            files.remove(self.checkpoint_path(stage))
            files.remove(path)

    def claim_path(self, stage: StageId) -> Path:
        """The file of a stage's claim."""
        return self.folder / "claims" / stage.key

    def checkpoint_path(self, stage: StageId) -> Path:
        """The file of a stage's checkpoint."""
        return self.folder / stage.key[:2] / f"{stage.key}.checkpoint.safetensors"

    def load(self, stage: StageId) -> Stage | None:
        """The stored stage; None if it is missing or any of its bytes are damaged."""
        place = self.stage_folder(stage)
        try:
            record = json.loads(files.read(place / "stage.json"))
            mark_used(place / "stage.json")  # Not before: most of the time there is none yet.
            if record.pop("digest") != digest(record) or record["key"] != stage.key:
                return None
            content = files.read(place / _STATE)
            if _sha256(content) != record["files"][_STATE]:
                return None
            epochs = tuple(Epoch(**epoch) for epoch in record["epochs"])
            return Stage(load(content), epochs, record["seconds"], record["state_digest"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None

    def save(self, stage: StageId, trained: Stage, facts: Mapping[str, Any], has_checkpoint: bool = True) -> None:
        """Store a stage and remove its checkpoint; an intact stored stage is left as it is.

        Args:
            stage: its identity.
            trained: the stage.
            facts: for readers of stage.json (settings, data), as JSON values.
            has_checkpoint: false if there certainly is none to remove.

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
        contents = {_STATE: state, "stage.json": json.dumps(record, indent=1, allow_nan=False).encode()}
        try:
            self._place(stage, contents)
        except FileNotFoundError:
            # This process seemed dead for a minute: another took the claim over and removed the
            # files that this one was writing.
            if self.load(stage) is None:
                self._place(stage, contents)
        # Not before: if the rename fails, the next worker resumes from the checkpoint.
        if has_checkpoint:
            files.remove(self.checkpoint_path(stage))

    def _place(self, stage: StageId, contents: Mapping[str, bytes]) -> None:
        """Write a stage's files to a temporary folder and rename it into place."""
        place = self.stage_folder(stage)
        retried(lambda: self._place_once(stage, place, contents), place)

    def _place_once(self, stage: StageId, place: Path, contents: Mapping[str, bytes]) -> None:
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        try:
            files.make_folder(temporary)
            for name, content in contents.items():
                files.write_file(temporary / name, content)
            for last in (False, True):
                try:
                    files.rename(temporary, place, is_done=lambda: self.load(stage) is not None)
                    return
                except OSError:
                    if self.load(stage) is not None:
                        break  # Another worker was first, with the same stage.
                    if last:
                        raise
                # A rename cannot replace a folder with files in it, so a damaged one moves away.
                damaged = temporary.with_name(f"{temporary.name}.damaged")
                with suppress(FileNotFoundError):
                    files.rename(place, damaged)
                    files.remove_folder(damaged)
            files.remove_folder(temporary)
        except BaseException:
            files.remove_folder(temporary)
            raise

    def remove_leftovers(self, stage: StageId) -> None:
        """Remove what a dead writer of `stage` left; only for the holder of its claim.

        A live writer removes its own files.
        """
        folder = self.stage_folder(stage).parent
        for name in files.names(folder, temporary=True):
            if name.startswith(f".{stage.key}."):
                # A folder of a stage, or a file of a checkpoint.
                files.remove_folder(folder / name)
                with suppress(OSError):
                    files.remove(folder / name)

    def stage_folder(self, stage: StageId) -> Path:
        """The folder of a stored stage; cached patch scores of its expert are in it too."""
        return self.folder / stage.key[:2] / stage.key


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
