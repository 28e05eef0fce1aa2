"""The features that trials need, known and made before any of them starts, so that none has to fetch weights or load a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.mvtec import Sample, TaskData
from moleflow.data.splits import choose_splits
from moleflow.environment import Environment
from moleflow.features.extract import frozen_backbone
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig, canonical_json, reach


@dataclass(frozen=True)
class FeatureSet:
    """One feature setting, and every image that trials need with it.

    Attributes:
        config: any configuration with that setting.
        samples: each image once.
    """

    config: TrialConfig
    samples: tuple[Sample, ...]


def distinct_feature_settings(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """One configuration for each feature setting and choice of images: seeds count only where they draw images."""
    found: dict[str, TrialConfig] = {}
    for config in configs:
        drawn = None if config.data.train_images is None else config.seed
        settings = reach(config, "features") | {"weights": config.backbone.weights, "drawn": drawn}
        found.setdefault(canonical_json(settings | {"data": config.data.model_dump()}), config)
    return list(found.values())


def feature_sets(
    configs: Iterable[TrialConfig],
    tasks: Mapping[str, TaskData],
    cache: FeatureCache,
    environment: Environment,
    synthetic: Path,
) -> list[FeatureSet]:
    """The feature settings of `configs` in the order in which they occur: configurations of one feature key are one setting.

    Args:
        tasks: by name, all that the configurations name.
        synthetic: folder in which generated defects are kept; those that trials need are drawn here.

    Raises:
        InvalidInput: the weights are not there, or a split leaves nothing to train or test on.
        Damaged: an image that defects are drawn on changed since it was scanned.
        OSError: the folder cannot be written.
    """
    first: dict[str, TrialConfig] = {}
    images: dict[str, dict[str, Sample]] = {}
    for config in configs:
        key = cache.key(config, environment)
        first.setdefault(key, config)
        wanted = images.setdefault(key, {})
        for name in config.data.tasks:
            wanted.update((sample.digest, sample) for sample in images_of(config, tasks[name], synthetic))
    return [FeatureSet(config, tuple(images[key].values())) for key, config in first.items()]


def images_of(config: TrialConfig, data: TaskData, synthetic: Path) -> tuple[Sample, ...]:
    """The images of a task that a trial looks at: for training, and in the splits that it scores.

    Raises:
        InvalidInput, Damaged, OSError: as `choose`.
    """
    chosen = choose_splits(data, config.data, config.seed, synthetic)
    return chosen.train + chosen.validation + chosen.test


def build_backbones(sets: Sequence[FeatureSet], environment: Environment) -> None:
    """Build each set's backbone once and drop it: its weights are here then, and its mistakes are known before hours of work.

    Raises:
        InvalidInput: unknown model or layer, weights that cannot be had or do not fit.
    """
    for wanted in sets:
        frozen_backbone(wanted.config, environment)


def fill_feature_cache(
    sets: Sequence[FeatureSet],
    cache: FeatureCache,
    environment: Environment,
    report: Callable[[int, int, int], None],
) -> None:
    """Compute what is missing and check what is stored.

    Args:
        report: told (set, images there, images wanted) as the work goes on; sets count from 0.

    Raises:
        InvalidInput: as `check_backbones`, or features that cannot be stored.
        Damaged: an image file changed since it was scanned, or the disk does not give back what was written.
        OSError: the cache cannot be written.
    """
    build_backbones([one for one in sets if cache.missing(one.config, environment, one.samples)], environment)
    for number, wanted in enumerate(sets):

        def tell(done: int, total: int, number: int = number) -> None:
            report(number, done, total)

        cache.ensure(wanted.config, environment, wanted.samples, tell)
