"""Compute the features of a sweep's trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moleflow.cache.eviction import pinned_within_budget
from moleflow.data.digests import DigestCache
from moleflow.data.mvtec import scan
from moleflow.environment import Environment, open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.features.prefetch import FeatureSet, feature_sets, fill_feature_cache
from moleflow.settings.config import TrialConfig
from orchestrator.execution.backend import WorkerConfig
from orchestrator.host.hub import offline_if_hub_is_down


@dataclass(frozen=True)
class FeatureProgress:
    """How far it is: the feature setting at hand, counted from 0, and images there and wanted with it."""

    setting: int
    settings: int
    done: int
    wanted: int


@dataclass(frozen=True)
class FeatureSummary:
    """What is there at the end: images count once with each setting; `computed` of them were not there before."""

    settings: int
    images: int
    computed: int
    device: str


Show = Callable[[FeatureProgress], None]


def compute_features(setup: WorkerConfig, configs: Sequence[TrialConfig], show: Show) -> FeatureSummary:
    """Compute what is missing in this process, and compare what is stored with its checksums.

    Raises:
        InvalidInput, Damaged, OSError: as `moleflow.features.prefetch.fill`.

    """
    environment, cache = open_environment(setup.device, setup.threads), feature_cache_of(setup)
    sets = feature_sets_of(setup, configs, cache, environment)
    with pinned_within_budget(setup.cache), offline_if_hub_is_down({config.backbone.weights for config in configs}):
        fill_feature_cache(
            sets, cache, environment, lambda n, done, wanted: show(FeatureProgress(n, len(sets), done, wanted))
        )
    return FeatureSummary(len(sets), sum(len(one.samples) for one in sets), cache.forwards, environment.device_kind)


def feature_cache_of(setup: WorkerConfig) -> FeatureCache:
    """The cache that trials will read."""
    return FeatureCache(setup.cache / "features")


def feature_sets_of(
    setup: WorkerConfig, configs: Sequence[TrialConfig], cache: FeatureCache, environment: Environment
) -> list[FeatureSet]:
    """What the trials need.

    Raises:
        InvalidInput: as `scan` and `feature_sets`.

    """
    names = list(dict.fromkeys(name for config in configs for name in config.data.tasks))
    found = scan(setup.data_root, names, DigestCache(setup.cache / "digests.json"))
    return feature_sets(configs, {data.name: data for data in found}, cache, environment, setup.cache / "synthetic")
