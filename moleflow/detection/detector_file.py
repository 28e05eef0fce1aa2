"""The file of a trained detector: safetensors, with all that is no tensor as JSON in its header.

    task.<n>/<name>         the tensors that training of task n set
    router.<n>/mean         float64 (D,) and (D, D): the router's Gaussian of task n
    router.<n>/precision

Nothing in it is unpickled. It holds no backbone, whose weights it names by their identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, from_numpy

from moleflow.cache.stage_state import state_digest
from moleflow.errors import Damaged, InvalidInput
from moleflow.files import make_folder, write_atomically
from moleflow.models.router import TaskGaussian
from moleflow.passing_errors import read
from moleflow.settings.config import TrialConfig
from moleflow.settings.knob_history import ADDED

Format = Literal["moleflow detector 1"]
FORMAT: Format = "moleflow detector 1"
_HEADER = "moleflow"
_OTHER = "give a file that a sweep with `keep` stored, such as results/NAME/detectors/TRIAL-1.safetensors"


class HeldOutScore(BaseModel):
    """The score of a normal image that took no part in training.

    Attributes:
        class_name: its class.
        image: its path relative to the data root.
        score: its image score by the routed expert.
        routed_task: the task that the router chose, from 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    class_name: str
    image: str
    score: float
    routed_task: int


class DetectorHeader(BaseModel):
    """All of a trained detector that is no tensor.

    Attributes:
        format: the version of the file.
        names: texts for readers, such as the trial; nothing is computed from them.
        config: the configuration, as `TrialConfig` dumps it.
        weights: identity of the backbone's weights.
        environment: the numeric environment that trained it.
        code: {phase: digest of its code}.
        shape: (H, W, D) of a feature map.
        value_ranges: {class: values of images of more than 8 bits that become 0 and 255}; None for
            the full range.
        held_out: scores of held-out normal images; empty if the trial held none out.
        states: digest of the trained state of each task.
        state_digest: digest of all tasks' trained states, as the results of the trial name it.
        router_digest: digest of the router's Gaussians.
        trained_on: identities of the training images; None in files of earlier versions.
        defective: identities of the images that the data set labels defective.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Format
    names: dict[str, str]
    config: dict[str, Any]
    weights: str
    environment: dict[str, str | int]
    code: dict[str, str]
    shape: tuple[int, int, int]
    value_ranges: dict[str, tuple[int, int] | None]
    held_out: tuple[HeldOutScore, ...]
    states: tuple[str, ...]
    state_digest: str
    router_digest: str
    trained_on: tuple[str, ...] | None = None
    defective: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredDetector:
    """A trained detector without its backbone.

    Attributes:
        header: all that is no tensor.
        states: the tensors of each task, by name.
        gaussians: the router's Gaussian of each task.
    """

    header: DetectorHeader
    states: tuple[dict[str, Tensor], ...]
    gaussians: tuple[TaskGaussian, ...]

    def config(self) -> TrialConfig:
        """Return the configuration; knobs added since have the value that trials had before.

        Raises:
            InvalidInput: it is no configuration of this program.
        """
        stored = self.header.config
        groups = {name: {**ADDED.get(name, {}), **of} for name, of in stored.items() if isinstance(of, dict)}
        missing = {name: dict(knobs) for name, knobs in ADDED.items() if name not in stored}
        try:
            return TrialConfig.model_validate(stored | missing | groups)
        except ValidationError as error:
            raise InvalidInput(
                f"the detector's configuration is none of this program: {error.errors()[0]['msg']}"
            ) from None


def write_detector(path: Path, detector: StoredDetector) -> None:
    """Write a detector's file, whole or not at all.

    Raises:
        OSError: the disk is full or not writable.
    """
    tensors = _router_tensors(detector.gaussians)
    for task, state in enumerate(detector.states):
        tensors |= {f"task.{task}/{name}": tensor.contiguous() for name, tensor in state.items()}
    make_folder(path.parent)
    write_atomically(path, save(tensors, {_HEADER: detector.header.model_dump_json()}))


def read_detector(path: Path) -> StoredDetector:
    """Read a detector's file and compare its tensors with their digests.

    Raises:
        InvalidInput: no such file, or no detector.
        Damaged: bytes have changed since it was written.
    """
    try:
        content = read(path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); {_OTHER}") from None
    try:
        header = DetectorHeader.model_validate_json(_metadata(content)[_HEADER])
        tensors = load(content)
        states = tuple(_under(tensors, f"task.{task}/") for task in range(len(header.states)))
        gaussians = tuple(_gaussian(tensors, task) for task in range(len(header.states)))
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.120}"
        raise InvalidInput(f"{path}: is no detector of this program ({reason}); {_OTHER}") from None
    if [*map(state_digest, states)] != [*header.states] or state_digest(
        _router_tensors(gaussians)
    ) != header.router_digest:
        raise Damaged(f"{path}: its tensors do not match their digests; copy the file again, or run its trial again")
    return StoredDetector(header, states, gaussians)


def router_digest(gaussians: Sequence[TaskGaussian]) -> str:
    """Return the digest of the router's Gaussians."""
    return state_digest(_router_tensors(gaussians))


def _router_tensors(gaussians: Sequence[TaskGaussian]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for task, of in enumerate(gaussians):
        tensors |= {f"router.{task}/mean": from_numpy(of.mean), f"router.{task}/precision": from_numpy(of.precision)}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _gaussian(tensors: Mapping[str, Tensor], task: int) -> TaskGaussian:
    return TaskGaussian(tensors[f"router.{task}/mean"].numpy(), tensors[f"router.{task}/precision"].numpy())


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _metadata(content: bytes) -> dict[str, str]:
    """Return the texts in the header of a safetensors file.

    Its first 8 bytes are the length of the header, which is JSON.

    Raises:
        ValueError, KeyError: it is no such file.
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content):
        raise ValueError("the file is too short for its header")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata
