"""Checkpoints: the training state of an unfinished stage, from which an interrupted stage resumes.

One file a stage, beside the stored stages, removed once the stage is stored. It is a safetensors
file, which is never unpickled; its metadata holds the epochs and a digest over everything.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moleflow import files
from moleflow.cache.stage_state import Checkpoint, Epoch, state_digest
from moleflow.cache.stages import StageId, StageStore
from moleflow.errors import Diverged
from moleflow.settings.config import digest


class StageCheckpointer:
    """Reads and writes the checkpoint of a stage that trains; only for the holder of its claim.

    A context manager. A signal's exception makes it write the last checkpoint that it was given.
    The exception may have come in the middle of an optimizer step, so the detector's present state
    is useless then. A full disk stops neither training nor the exception.

    Attributes:
        start: the checkpoint to resume from; None = train from the first epoch.
        has_file: true if there is or may be a checkpoint file.
    """

    start: Checkpoint | None
    has_file: bool
    _last: Checkpoint | None

    def __init__(self, store: StageStore, stage: StageId) -> None:
        self._store, self._stage = store, stage
        self._path = store.checkpoint_path(stage)

    def __enter__(self) -> StageCheckpointer:
        self.has_file = True
        self._last = self._read()
        self.start = self._last
        self._since = time.monotonic()
        return self

    def keep(self, checkpoint: Checkpoint) -> None:
        """Remember the state after an epoch; write it if `checkpoint_every_s` seconds have passed.

        They count from the start, or from the last time that one was written.
        """
        # One assignment: a signal's handler sees the checkpoint before or this one, never a
        # mixture.
        self._last = checkpoint
        if time.monotonic() - self._since >= self._store.checkpoint_every_s:
            self._write()
            self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Diverged):  # It would diverge again.
            self._remove()
        elif error is not None and not isinstance(error, Exception) and self._store.load(self._stage) is None:
            # Also a checkpoint that is written already: the exception may have come while the stage
            # was being stored, after the file was removed.
            self._write()

    def _read(self) -> Checkpoint | None:
        try:
            content = files.read(self._path)
        except FileNotFoundError:
            self.has_file = False
            return None
        except OSError:
            return None
        checkpoint = decode_checkpoint(content, self._stage)
        if checkpoint is None:
            self._remove()
        return checkpoint

    def _write(self) -> None:
        if self._last is None:
            return
        self.has_file = True
        with suppress(OSError):
            files.make_folder(self._path.parent)
            files.write_atomically(self._path, encode_checkpoint(self._last, self._stage))

    def _remove(self) -> None:
        with suppress(OSError):
            files.remove(self._path)


def encode_checkpoint(checkpoint: Checkpoint, stage: StageId) -> bytes:
    """The bytes of the checkpoint file of `stage`."""
    tensors = {f"state/{name}": tensor.cpu() for name, tensor in checkpoint.state.items()}
    tensors |= {f"optimizer/{name}": tensor.cpu() for name, tensor in checkpoint.optimizer.items()}
    facts = {"key": stage.key, "epochs": json.dumps([asdict(epoch) for epoch in checkpoint.epochs], allow_nan=False)}
    return save(tensors, facts | {"digest": _digest(facts, tensors)})


def decode_checkpoint(content: bytes, stage: StageId) -> Checkpoint | None:
    """The checkpoint in the bytes of a file; None if they are damaged or of another stage."""
    try:
        # A safetensors file begins with the length of its JSON header, as 8 bytes. Its library
        # reads metadata from files only, not from bytes.
        facts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        tensors = load(content)
        if facts.pop("digest") != _digest(facts, tensors) or facts["key"] != stage.key:
            return None
        epochs = tuple(Epoch(**epoch) for epoch in json.loads(facts["epochs"]))
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return Checkpoint(epochs, **parts)


def _digest(facts: dict[str, str], tensors: dict[str, Tensor]) -> str:
    return digest(facts | {"tensors": state_digest(tensors)})
