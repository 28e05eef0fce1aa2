"""Features that trials need, computed before any trial starts.

The trials then need neither fetch weights nor load a backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moleflow.data.samples import Sample, TaskData
from moleflow.data.splits import choose_splits
from moleflow.environment import Environment
from moleflow.features.extract import frozen_backbone
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig, canonical_json, reach


@dataclass(frozen=True)
class FeatureSet:
    """A feature setting, and every image that trials need with it.

    Attributes:
        config: one of the configurations with that setting.
        samples: the images, each once.
    """

    config: TrialConfig
    samples: tuple[Sample, ...]


def distinct_feature_settings(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """One configuration for each feature setting and choice of images.

    A seed counts only if it draws training images.
    """
    distinct: dict[str, TrialConfig] = {}
    for config in configs:
        drawn = None if config.data.train_images is None else config.seed
        settings = reach(config, "features") | {"weights": config.backbone.weights, "drawn": drawn}
        distinct.setdefault(canonical_json(settings | {"data": config.data.model_dump()}), config)
    return list(distinct.values())


def feature_sets(
    configs: Iterable[TrialConfig],
    classes: Mapping[str, TaskData],
    cache: FeatureCache,
    environment: Environment,
    synthetic: Path,
) -> list[FeatureSet]:
    """One set for each feature key of `configs`, in the order in which the keys occur.

    Args:
        configs: the trials.
        classes: {name: images} of all classes that the trials name.
        cache: the cache of features.
        environment: where features are computed.
        synthetic: folder in which generated defects are kept; those that trials need are drawn.

    Raises:
        InvalidInput: the weights are missing, or a split leaves no image to train or test on.
        Damaged: an image that defects are drawn on changed since it was scanned.
        OSError: the folder cannot be written.
    """
    first: dict[str, TrialConfig] = {}
    images: dict[str, dict[str, Sample]] = {}
    for config in configs:
        key = cache.key(config, environment)
        first.setdefault(key, config)
        wanted = images.setdefault(key, {})
        for name in config.data.classes:
            wanted.update((sample.digest, sample) for sample in images_of(config, classes[name], synthetic))
    return [FeatureSet(config, tuple(images[key].values())) for key, config in first.items()]


def images_of(config: TrialConfig, data: TaskData, synthetic: Path) -> tuple[Sample, ...]:
    """The images of a class that a trial uses: for training, and in the splits that it scores.

    Raises:
        InvalidInput, Damaged, OSError: as `choose_splits`.
    """
    chosen = choose_splits(data, config.data, config.seed, synthetic)
    return chosen.train + chosen.validation + chosen.test


def build_backbones(sets: Sequence[FeatureSet], environment: Environment) -> None:
    """Build the backbone of each set and drop it.

    Its weights are on this machine then, and errors in its settings show before hours of work.

    Raises:
        InvalidInput: unknown model or layer, weights that cannot be fetched or do not fit.
    """
    for one in sets:
        frozen_backbone(one.config, environment)


def fill_feature_cache(
    sets: Sequence[FeatureSet],
    cache: FeatureCache,
    environment: Environment,
    report: Callable[[int, int, int], None],
) -> None:
    """Compute missing features and check stored ones.

    Args:
        sets: the feature sets.
        cache: the cache of features.
        environment: where features are computed.
        report: called with (set, images stored, images needed) as the work goes on; sets count
            from 0.

    Raises:
        InvalidInput: as `build_backbones`, or features that cannot be stored.
        Damaged: an image file changed since it was scanned, or the disk returns other bytes than
            were written.
        OSError: the cache cannot be written.
    """
    build_backbones([one for one in sets if cache.missing(one.config, environment, one.samples)], environment)
    for number, one in enumerate(sets):
        cache.ensure(one.config, environment, one.samples, partial(report, number))
