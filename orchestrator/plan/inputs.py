"""Scan the images and identify the weights of a sweep before any trial starts. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
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
    """The inputs of a sweep.

    Attributes:
        dataset: the data set.
        images: the number of images, by task.
        notes: a sentence for each task on which some metrics are undefined.
        of: the inputs of a configuration: image digests by task, and weights.

    """

    dataset: Dataset
    images: Mapping[str, ImageCounts]
    notes: tuple[str, ...]
    of: Callable[[TrialConfig], Inputs]


def scan_inputs(
    data_root: Path | None, cache: Path, configs: Iterable[TrialConfig], source: str = "--data"
) -> SweepInputs:
    """Scan every image that the configurations use, and identify their weights.

    Args:
        data_root: an MVTec AD folder; None = the embedded images.
        cache: the cache folder.
        configs: the configurations.
        source: the option or key that gave `data_root`, for messages.

    Raises:
        InvalidInput: not an MVTec AD folder; a missing class, mask or weights file; a broken image.
        OSError: the cache cannot be written.

    """
    if data_root is not None:
        try:
            class_names(data_root)
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {error}") from None
    dataset = open_dataset(
        data_root, cache, partial(print, "drawing the embedded images (once)", file=sys.stderr, flush=True)
    )
    tasks: dict[str, None] = {}
    backbones: dict[tuple[str, str], BackboneKnobs] = {}
    splits: dict[tuple[str, float, float, int], None] = {}
    # Variants share their knob groups; each distinct pair is looked at once.
    for config in {(id(config.data), id(config.backbone)): config for config in configs}.values():
        data = config.data
        real = data.validation_real_share if data.validation_anomalies == "real" else 0.0
        splits |= dict.fromkeys((task, data.validation_fraction, real, data.validation_seed) for task in data.tasks)
        tasks |= dict.fromkeys(data.tasks)
        backbones[config.backbone.model, config.backbone.weights] = config.backbone
    scanned = {data.name: data for data in scan(dataset.root, list(tasks), DigestCache(cache / "digests.json"))}
    for task, fraction, real, seed in splits:
        split(scanned[task].train, fraction, seed)  # Both raise InvalidInput if they leave too few images.
        hold_out(scanned[task].test, real, seed)
    digests = {name: data.digest for name, data in scanned.items()}
    weights = {key: weights_identity(backbone) for key, backbone in backbones.items()}
    label = f"{dataset.name} (generated images)" if dataset.generated else dataset.name

    def of(config: TrialConfig) -> Inputs:
        return Inputs(
            data={task: digests[task] for task in config.data.tasks},
            weights=weights[config.backbone.model, config.backbone.weights],
            dataset=label,
        )

    images = {name: ImageCounts(len(data.train), len(data.test)) for name, data in scanned.items()}
    return SweepInputs(dataset, images, tuple(filter(None, map(_undefined_metrics, scanned.values()))), of)


def _undefined_metrics(task: TaskData) -> str:
    """A sentence on the metrics that are undefined on a task; empty if all are defined."""
    labels = {sample.label for sample in task.test}
    if 1 not in labels:
        return f"{task.name}: all its test images are good: neither image nor pixel metrics are defined"
    lacking = ["all its test images are defective: no image metric is defined"] if 0 not in labels else []
    lacking += ["it has no masks: no pixel metric is defined"] if not task.has_masks else []
    return f"{task.name}: {'; '.join(lacking)}" if lacking else ""
