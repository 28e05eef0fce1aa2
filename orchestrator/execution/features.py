"""Compute the features of a sweep's trials, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moleflow.cache.eviction import pinned_within_budget
from moleflow.data.digests import DigestCache
from moleflow.data.scan import reading_of, scan
from moleflow.environment import Environment, open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.features.prefetch import FeatureSet, feature_sets, fill_feature_cache
from moleflow.settings.config import TrialConfig
from orchestrator.execution.backend import WorkerConfig
from orchestrator.host.hub import offline_if_hub_is_down


@dataclass(frozen=True)
class FeatureProgress:
    """The progress of computing features.

    Attributes:
        setting: the feature setting that is being computed, counted from 0.
        settings: the number of feature settings.
        done: images of this setting that are stored.
        wanted: images of this setting.

    """

    setting: int
    settings: int
    done: int
    wanted: int


@dataclass(frozen=True)
class FeatureSummary:
    """The features of a sweep once all are stored.

    Attributes:
        settings: the number of feature settings.
        images: images, counted once for each setting.
        computed: images that were computed now; the others were in the cache.
        device: `cpu` or `cuda`.

    """

    settings: int
    images: int
    computed: int
    device: str


Show = Callable[[FeatureProgress], None]


def compute_features(setup: WorkerConfig, configs: Sequence[TrialConfig], show: Show) -> FeatureSummary:
    """Compute missing features, and verify the checksums of stored ones.

    Args:
        setup: the cache, the images and the device.
        configs: the trials' configurations.
        show: called with the progress.

    Raises:
        InvalidInput, Damaged, OSError: as `moleflow.features.prefetch.fill_feature_cache`.

    """
    environment, cache = open_environment(setup.device, setup.threads), feature_cache_of(setup)
    sets = feature_sets_of(setup, configs, cache, environment)
    with pinned_within_budget(setup.cache), offline_if_hub_is_down({config.backbone.weights for config in configs}):
        fill_feature_cache(
            sets, cache, environment, lambda n, done, wanted: show(FeatureProgress(n, len(sets), done, wanted))
        )
    return summarize_features(sets, cache.forwards, environment)


def summarize_features(sets: Sequence[FeatureSet], computed: int, environment: Environment) -> FeatureSummary:
    """The summary of feature sets that are all stored, `computed` images of them now."""
    return FeatureSummary(len(sets), sum(len(one.samples) for one in sets), computed, environment.device_kind)


def feature_cache_of(setup: WorkerConfig) -> FeatureCache:
    """The feature cache that the trials read."""
    return FeatureCache(setup.cache / "features")


def feature_sets_of(
    setup: WorkerConfig, configs: Sequence[TrialConfig], cache: FeatureCache, environment: Environment
) -> list[FeatureSet]:
    """The distinct feature settings of the trials, each with its images.

    Raises:
        InvalidInput: as `scan` and `feature_sets`.

    """
    names = list(dict.fromkeys(name for config in configs for name in config.data.classes))
    if not configs:
        return []
    digests, reading = DigestCache(setup.cache / "digests.json"), reading_of(configs[0].data)
    classes = scan(setup.data_root, names, digests, reading)  # All trials of a sweep read alike.
    return feature_sets(configs, {data.name: data for data in classes}, cache, environment, setup.cache / "synthetic")
