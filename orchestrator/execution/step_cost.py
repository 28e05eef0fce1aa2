"""The cost of a configuration before it runs: a training step is timed with random features."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from moleflow.code_digest import code_digest
from moleflow.environment import Environment
from moleflow.features.extract import frozen_backbone
from moleflow.features.weights import RANDOM
from moleflow.settings.config import LossKnobs, TrainingKnobs, TrialConfig, digest
from moleflow.training.train_task import Randomness, new_detector, optimizer_of, train_step
from orchestrator.records.attempts import write_json

COSTS = "costs"
"""The folder of the cache with measured costs."""


@dataclass(frozen=True)
class StepCost:
    """The cost of a configuration on this machine.

    Attributes:
        step_seconds: a training step on a batch of task 0, which trains the most.
        image_seconds: an image through the backbone.
        step_bytes: memory of a step: weights, gradients, optimizer state and activations.
        image_bytes: features of an image, which all stay on the device while a task trains.
    """

    step_seconds: float
    image_seconds: float
    step_bytes: int
    image_bytes: int

    def task_bytes(self, images: int, lanes: int = 1) -> int:
        """Return the memory that training on `images` images takes on the device, in all lanes."""
        return lanes * self.step_bytes + images * self.image_bytes


def cost_settings(config: TrialConfig) -> TrialConfig:
    """Return the configuration with all that hardly changes the cost of a step at its default."""
    training = TrainingKnobs(batch_size=config.training.batch_size, optimizer=config.training.optimizer)
    return config.model_copy(update={"version": "", "seed": 0, "loss": LossKnobs(), "training": training})


def step_cost(
    config: TrialConfig, environment: Environment, cache: Path, announce: Callable[[], None] = lambda: None
) -> StepCost:
    """Return the cost of a configuration as it was measured before, or measure and store it.

    It is stored in `cache`/costs, by configuration, environment and code. `announce` is called
    before a measurement, which may take a minute.

    Raises:
        InvalidInput: the backbone cannot be built.
        OSError: the cache cannot be written.
    """
    stored = stored_step_cost(config, environment, cache)
    if stored is not None:
        return stored
    announce()
    cost = measure_step_cost(config, environment)
    write_json(_cost_file(config, environment, cache), asdict(cost))
    return cost


def stored_step_cost(config: TrialConfig, environment: Environment, cache: Path) -> StepCost | None:
    """Return the cost of a configuration as it was measured before; None if it was not."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return StepCost(**json.loads(_cost_file(config, environment, cache).read_bytes()))
    return None


def _cost_file(config: TrialConfig, environment: Environment, cache: Path) -> Path:
    key = digest([cost_settings(config).model_dump_json(), environment.key(), code_digest()])
    return cache / COSTS / f"{key[:32]}.json"


def measure_step_cost(config: TrialConfig, environment: Environment) -> StepCost:
    """Time an image through the backbone, with random weights, and a training step.

    On a GPU, `step_bytes` is the peak that torch allocated. On the CPU, it counts the tensors that
    a GPU would hold: weights, their gradients and optimizer state, and what the backward pass
    needs. Nothing is stored.

    Raises:
        InvalidInput: the backbone cannot be built.
    """
    cuda = environment.device_kind == "cuda"
    image_seconds, shape = _measure_backbone(config, environment)
    randomness = Randomness(0, "", 0)
    drawn = torch.randn(config.training.batch_size, *shape, generator=randomness("features"))
    features = drawn.to(environment.device)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    detector = new_detector(config, features, randomness, environment.device)
    detector.add_task(0, randomness)
    detector.measure(0, features)
    parameters = detector.trainable(0)
    optimizer = optimizer_of(parameters.values(), config.training)
    activations = _Activations()
    with activations:
        train_step(detector, features, 0, config, optimizer)
    seconds = _timed(lambda: train_step(detector, features, 0, config, optimizer), environment)
    if cuda:
        memory = torch.cuda.max_memory_allocated()
    else:
        weights = sum(t.nbytes for t in detector.state_dict().values())
        memory = weights + 3 * sum(p.nbytes for p in parameters.values()) + activations.bytes
    return StepCost(seconds, image_seconds, memory, features[0].nbytes)


def _measure_backbone(config: TrialConfig, environment: Environment) -> tuple[float, torch.Size]:
    """Return the seconds of an image through the backbone, and the shape (H, W, D) of its features.

    Random weights take the same time, and need no download.
    """
    backbone = config.backbone.model_copy(update={"weights": RANDOM})
    extractor = frozen_backbone(config.model_copy(update={"backbone": backbone}), environment)
    # On a GPU the backbone fills a batch of 32 in any case.
    count = 32 if environment.device_kind == "cuda" else 1
    images = np.zeros((count, config.data.image_size, config.data.image_size, 3), dtype=np.uint8)
    shape = extractor.extract(images).shape[1:]
    return _timed(lambda: extractor.extract(images), environment) / count, shape


def _timed(work: Callable[[], object], environment: Environment) -> float:
    """Return the seconds that `work` takes, until the device has finished it: the least of three.

    Other work on the machine only adds to them.
    """
    found = []
    for _ in range(3):
        if environment.device_kind == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if environment.device_kind == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


class _Activations:
    """Counts the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """The bytes of all storages that were kept."""
        return sum(self._storages.values())

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
