"""Scan the images and identify the weights of a sweep before any trial starts. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moleflow.data.copies import Copies, find_copies
from moleflow.data.dataset import Dataset, open_dataset
from moleflow.data.digests import DigestCache
from moleflow.data.findings import ClassFindings, findings_of
from moleflow.data.layouts.table import BY_LOOKING, Reading, find_classes
from moleflow.data.outside import files_outside
from moleflow.data.samples import PassedOver
from moleflow.data.scan import list_files, reading_of, scan_files
from moleflow.data.splits import hold_out
from moleflow.data.subsets import split
from moleflow.errors import InvalidInput
from moleflow.features.weights import weights_identity
from moleflow.settings.config import BackboneKnobs, DataKnobs, TrialConfig
from orchestrator.plan.cost_estimate import ImageCounts
from orchestrator.sweep.trial import Inputs


@dataclass(frozen=True)
class SweepInputs:
    """The inputs of a sweep.

    Attributes:
        dataset: the data set.
        images: the number of images, by class.
        findings: the findings of the scan about each class.
        outside: image files of the data root that lie outside all its classes.
        copies: images that are in these classes more than once, as their digests show.
        of: the inputs of a configuration: image digests by class, and weights.

    """

    dataset: Dataset
    images: Mapping[str, ImageCounts]
    findings: tuple[ClassFindings, ...]
    outside: tuple[PassedOver, ...]
    copies: tuple[Copies, ...]
    of: Callable[[TrialConfig], Inputs]


def scan_inputs(
    data_root: Path | None, cache: Path, configs: Iterable[TrialConfig], source: str = "--data"
) -> SweepInputs:
    """Scan every image that the configurations use, and identify their weights.

    Args:
        data_root: a folder of images in one of the known layouts; None = the embedded images.
        cache: the cache folder.
        configs: the configurations.
        source: the option or key that gave `data_root`, for messages.

    Raises:
        InvalidInput: a folder of no known layout; a missing class, mask or weights file; a broken
            image; configurations that read the folder in different ways, or that say how to read a
            folder where none is given.
        OSError: the cache cannot be written.

    """
    configs = list(configs)
    reading = _the_reading(configs)
    if data_root is not None:
        try:
            classes = find_classes(data_root, reading)
            outside = files_outside(data_root, classes, reading)
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {error}") from None
    elif reading != BY_LOOKING:
        raise InvalidInput(_without_folder(reading))
    dataset = open_dataset(
        data_root, cache, partial(print, "drawing the embedded images (once)", file=sys.stderr, flush=True)
    )
    tasks: dict[str, None] = {}
    full: set[str] = set()
    backbones: dict[tuple[str, str], BackboneKnobs] = {}
    splits: dict[tuple[str, float, float, int], None] = {}
    # Variants share their knob groups; each distinct pair is looked at once.
    for config in {(id(config.data), id(config.backbone)): config for config in configs}.values():
        data = config.data
        real = data.validation_real_share if data.validation_anomalies == "real" else 0.0
        splits |= dict.fromkeys((task, data.validation_fraction, real, data.validation_seed) for task in data.classes)
        tasks |= dict.fromkeys(data.classes)
        full |= set(data.classes) if data.value_range == "full" else set()
        backbones[config.backbone.model, config.backbone.weights] = config.backbone
    if data_root is None:
        classes, outside = find_classes(dataset.root), ()
    listed = list_files(dataset.root, list(tasks), classes, reading)
    found = scan_files(dataset.root, listed, DigestCache(cache / "digests.json"))
    scanned = {data.name: data for data in found}
    for task, fraction, real, seed in splits:
        split(scanned[task].train, fraction, seed)  # Both raise InvalidInput if they leave too few images.
        hold_out(scanned[task].test, real, seed)
    digests = {name: data.digest for name, data in scanned.items()}
    weights = {key: weights_identity(backbone) for key, backbone in backbones.items()}
    label = f"{dataset.name} (generated images)" if dataset.generated else dataset.name

    def of(config: TrialConfig) -> Inputs:
        return Inputs(
            data={task: digests[task] for task in config.data.classes},
            weights=weights[config.backbone.model, config.backbone.weights],
            dataset=label,
        )

    images = {name: ImageCounts(len(data.train), len(data.test)) for name, data in scanned.items()}
    findings = tuple(findings_of(data, data.name in full, listed[data.name].split) for data in found)
    return SweepInputs(dataset, images, findings, outside, find_copies(found), of)


def classes_in(data_root: Path, data: DataKnobs) -> frozenset[str]:
    """Return the names of the classes in a folder, as a configuration reads it.

    Raises:
        InvalidInput: it is a folder of no known layout.
    """
    return frozenset(find_classes(data_root, reading_of(data)))


def _without_folder(reading: Reading) -> str:
    """The message about settings of a folder of images where none is given."""
    names = ", ".join(reading.normal_names or ())
    given = (
        f"data.layout: given {reading.layout}" if reading.layout != "auto" else f"data.normal_names: given [{names}]"
    )
    return (
        f"{given}, but no folder of images: trials would learn the embedded images, which it is not about; "
        "give the folder with --data or MOLEFLOW_DATA, or leave the setting out"
    )


def _the_reading(configs: Iterable[TrialConfig]) -> Reading:
    """The one way in which all configurations read the data root."""
    ways = list(dict.fromkeys(reading_of(config.data) for config in configs))
    if len(ways) > 1:
        raise InvalidInput(
            "data.layout and data.normal_names: given several values, but all trials of a sweep read the same images; "
            "give one value under base, and start another sweep for the other"
        )
    return ways[0] if ways else BY_LOOKING
