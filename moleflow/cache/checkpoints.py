"""A stage in progress: what its training reached at the end of an epoch, kept so that a stage that was cut off goes on there.

One file a stage, beside the stored stages and gone once the stage is stored: safetensors, never unpickled, with the epochs and a digest
over everything in its metadata.
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

from moleflow.cache.stage_state import Checkpoint, Epoch, state_digest
from moleflow.cache.stages import StageId, StageStore
from moleflow.errors import Diverged
from moleflow.files import write_atomically
from moleflow.settings.config import digest


class StageCheckpointer:
    """Training of one stage, from its claim to its storing; only the holder of the claim enters it.

    Left by anything but an ordinary error, such as a signal's, it writes the last checkpoint it was given: the exception may have come in
    the middle of an optimizer step, so what the detector holds then is of no use. A disk that takes no more spoils nothing: training goes
    on, and the exception passes.

    Attributes:
        start: where to go on from; None starts anew.
    """

    start: Checkpoint | None
    _last: Checkpoint | None

    def __init__(self, store: StageStore, stage: StageId) -> None:
        self._store, self._stage = store, stage
        self._path = store.checkpoint_path(stage)

    def __enter__(self) -> StageCheckpointer:
        self._store.sweep(self._stage)
        self._last = self._read()
        self.start = self._last
        self._since = time.monotonic()
        return self

    def keep(self, checkpoint: Checkpoint) -> None:
        """Take what an epoch reached, and write it once `checkpoint_every_s` seconds have passed since the last writing or the start."""
        self._last = checkpoint  # One assignment: a signal finds the one before or this one.
        if time.monotonic() - self._since >= self._store.checkpoint_every_s:
            self._write()
            self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Diverged):  # It would diverge again.
            self._remove()
        elif error is not None and not isinstance(error, Exception) and self._store.load(self._stage) is None:
            self._write()  # Also what is written already: the exception may have come while the whole stage was to take its place.

    def _read(self) -> Checkpoint | None:
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        found = decode_checkpoint(content, self._stage)
        if found is None:
            self._remove()
        return found

    def _write(self) -> None:
        if self._last is None:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, encode_checkpoint(self._last, self._stage))

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def encode_checkpoint(checkpoint: Checkpoint, stage: StageId) -> bytes:
    """The file of a checkpoint of `stage`."""
    tensors = {f"state/{name}": tensor.cpu() for name, tensor in checkpoint.state.items()}
    tensors |= {f"optimizer/{name}": tensor.cpu() for name, tensor in checkpoint.optimizer.items()}
    facts = {"key": stage.key, "epochs": json.dumps([asdict(epoch) for epoch in checkpoint.epochs], allow_nan=False)}
    return save(tensors, facts | {"digest": _digest(facts, tensors)})


def decode_checkpoint(content: bytes, stage: StageId) -> Checkpoint | None:
    """The checkpoint in a file, or None if any of it is damaged or it is another stage's."""
    try:
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
