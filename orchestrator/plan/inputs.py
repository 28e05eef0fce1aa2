"""What a sweep's trials read: images looked through and weights identified before any trial starts. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.dataset import Dataset, open_dataset
from moleflow.data.digests import DigestCache
from moleflow.data.mvtec import TaskData, class_names, scan
from moleflow.data.splits import hold_out
from moleflow.data.subsets import split
from moleflow.errors import InvalidInput
from moleflow.features.weights import weights_identity
from moleflow.settings.config import BackboneKnobs, TrialConfig
from orchestrator.plan.cost_estimate import ImageCounts
from orchestrator.sweep.trial import Inputs


@dataclass(frozen=True)
class SweepInputs:
    """The data set of a sweep, how many images each of its tasks has, and what each configuration reads of it.

    Attributes:
        notes: one sentence for each task without some metrics.

    """

    dataset: Dataset
    images: Mapping[str, ImageCounts]
    notes: tuple[str, ...]
    of: Callable[[TrialConfig], Inputs]


def scan_inputs(
    data_root: Path | None, cache: Path, configs: Iterable[TrialConfig], source: str = "--data"
) -> SweepInputs:
    """Look through every image that the configurations use; `source` is where the data root was given, for messages.

    Raises:
        InvalidInput: not an MVTec AD folder, a class that is not there, a broken image, a missing mask, missing weights.
        OSError: the cache cannot be written.

    """
    if data_root is not None:
        try:
            class_names(data_root)
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {error}") from None
    dataset = open_dataset(data_root, cache, _say_drawing)
    tasks: dict[str, None] = {}
    backbones: dict[tuple[str, str], BackboneKnobs] = {}
    splits: dict[tuple[str, float, float, int], None] = {}
    # Variants share their groups of knobs: those that read the same are looked at once.
    for config in {(id(config.data), id(config.backbone)): config for config in configs}.values():
        asked = config.data
        real = asked.validation_real_share if asked.validation_anomalies == "real" else 0.0
        splits |= dict.fromkeys((task, asked.validation_fraction, real, asked.validation_seed) for task in asked.tasks)
        tasks |= dict.fromkeys(config.data.tasks)
        backbones[config.backbone.model, config.backbone.weights] = config.backbone
    found = {data.name: data for data in scan(dataset.root, list(tasks), DigestCache(cache / "digests.json"))}
    for task, fraction, real, seed in splits:
        split(found[task].train, fraction, seed)  # Both say so if they leave too few images.
        hold_out(found[task].test, real, seed)
    digests = {name: data.digest for name, data in found.items()}
    weights = {key: weights_identity(backbone) for key, backbone in backbones.items()}
    label = f"{dataset.name} (generated images)" if dataset.generated else dataset.name

    def of(config: TrialConfig) -> Inputs:
        return Inputs(
            data={task: digests[task] for task in config.data.tasks},
            weights=weights[config.backbone.model, config.backbone.weights],
            dataset=label,
        )

    images = {name: ImageCounts(len(data.train), len(data.test)) for name, data in found.items()}
    return SweepInputs(dataset, images, tuple(filter(None, map(_undefined, found.values()))), of)


def _undefined(task: TaskData) -> str:
    """What no trial can measure of a task, in a sentence, and why."""
    labels = {sample.label for sample in task.test}
    if 1 not in labels:
        return f"{task.name}: all its test images are good: neither image nor pixel metrics are defined"
    lacking = ["all its test images are defective: no image metric is defined"] if 0 not in labels else []
    lacking += ["it has no masks: no pixel metric is defined"] if not task.has_masks else []
    return f"{task.name}: {'; '.join(lacking)}" if lacking else ""


def _say_drawing() -> None:
    print("drawing the embedded images (once)", file=sys.stderr, flush=True)
