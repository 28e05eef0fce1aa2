"""What a start can know to fail before its folder is opened: the site's profile, the cluster, the budget, the backbones."""

from __future__ import annotations

import importlib.util
import shutil

from moleflow.cache.eviction import budget_of
from moleflow.errors import InvalidInput
from orchestrator.backends.slurm.queue import COMMANDS

pass
import contextlib
from pathlib import Path

from moleflow.code_digest import version
from moleflow.errors import WeightsUnavailable
from moleflow.features.weights import PACKAGE, PRETRAINED, RANDOM, weights_identity
from moleflow.settings.config import TrialConfig, digest
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.host.hub import offline_if_hub_is_down
from orchestrator.sweep.resolver import Resolver


def check_start(prepared: Prepared, options: Options) -> None:
    """Refuse a run that its backend could not begin.

    Raises:
        InvalidInput: no SLURM or Ray here, a profile with a mistake, an address that cannot be joined, no size as a budget, or a
            backbone that cannot be built.

    """
    budget_of(prepared.cache)
    begins = prepared.sweep.search is not None or bool(prepared.plan.of("to run"))
    if options.backend == "slurm":
        check_slurm(options, begins)
    if options.backend == "ray" and begins:
        _check_ray(options)
    check_backbones(prepared, options)


def check_dry_run(prepared: Prepared, options: Options) -> None:
    """Refuse a dry run that no trial could pass.

    Raises:
        InvalidInput: a backbone that cannot be built, or no size as a budget.

    """
    budget_of(prepared.cache)
    check_backbones(prepared, options, fresh=True)


def check_slurm(options: Options, submits: bool = True) -> None:
    """See that the profile is right and that this is a login node, if anything is to be submitted.

    Raises:
        InvalidInput: one of them is not so.

    """
    from orchestrator.backends.slurm.site_profile import load_profile

    load_profile(options.profile)
    missing = next((name for name in COMMANDS if shutil.which(name) is None), None)
    if submits and missing:
        raise InvalidInput(
            f"--backend: given slurm, but {missing} is not found here; type the command on a SLURM login node, "
            "or take --backend local"
        )


def _check_ray(options: Options) -> None:
    if importlib.util.find_spec("ray") is None:
        raise InvalidInput("--backend ray: ray is not installed; install the extra: pip install 'moleflow-sweep[ray]'")
    if options.address:
        from orchestrator.backends.ray.cluster import check_address

        check_address(options.address)


_UNSEEN = {"storage", "projection_seed", "weights_seed"}  # No value of these can be a mistake.


def check_backbones(prepared: Prepared, options: Options, *, fetch: bool = True, fresh: bool = False) -> None:
    """Build each backbone that trials which are to run need, unless it is known to be good. Of a search, that of its base.

    Args:
        prepared: the sweep.
        options: how it will run.
        fetch: with its weights; else without those that would have to be fetched.
        fresh: features that are stored already will not be used.

    Raises:
        InvalidInput: unknown model or layer, weights that do not fit or cannot be had here, layers that cannot be averaged.

    """
    for config in _distinct(prepared):
        if not fetch and config.backbone.weights == PRETRAINED:
            _check(_with_weights(config, RANDOM), prepared.cache)
            continue
        try:
            _check(config, prepared.cache)
        except WeightsUnavailable:
            elsewhere = not fresh and (options.backend == "slurm" or options.address is not None)
            if not elsewhere and (fresh or not _features_are_there(prepared, options, config)):
                raise


def _distinct(prepared: Prepared) -> list[TrialConfig]:
    """One configuration for each backbone and image size."""
    if prepared.sweep.search is not None:
        return [Resolver(prepared.sweep).config({})]
    found: dict[object, TrialConfig] = {}
    for trial in prepared.plan.of("to run"):
        found.setdefault((trial.config.backbone, trial.config.data.image_size), trial.config)
    return list(found.values())


def _check(config: TrialConfig, cache: Path) -> None:
    if _mark(config, cache).exists():
        return
    from moleflow.environment import environment_of
    from moleflow.features.backbone import FrozenBackbone

    with offline_if_hub_is_down([config.backbone.weights]):
        FrozenBackbone(config, environment_of("cpu", 1))
    remember_backbone(config, cache)


def remember_backbone(config: TrialConfig, cache: Path) -> None:
    """Note that a configuration's backbone was built, so that no start need ask again."""
    known = _mark(config, cache)
    with contextlib.suppress(OSError):  # It is asked again the next time.
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _mark(config: TrialConfig, cache: Path) -> Path:
    """The file that says that a configuration's backbone was built once."""
    backbone = config.backbone
    settings = backbone.model_dump(exclude=_UNSEEN)
    if backbone.weights not in (PRETRAINED, PACKAGE, RANDOM):
        settings["weights"] = "file"
    size, identity = config.data.image_size, weights_identity(backbone)
    built = {"backbone": settings, "image_size": size, "weights": identity, "timm": version("timm")}
    return cache / "backbones" / digest(built)[:32]


def _with_weights(config: TrialConfig, weights: str) -> TrialConfig:
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"weights": weights})})


def _features_are_there(prepared: Prepared, options: Options, like: TrialConfig) -> bool:
    """Whether all features of the trials with a configuration's backbone are stored, so that none of them needs the weights."""
    import torch

    from moleflow.environment import environment_of
    from moleflow.features.prefetch import distinct_feature_settings
    from orchestrator.execution.features import feature_cache_of, feature_sets_of

    made = worker_config(prepared, options)
    cache = feature_cache_of(made)
    alike = distinct_feature_settings(
        trial.config for trial in prepared.sample if trial.config.backbone == like.backbone
    )
    environments = [environment_of("cpu", options.threads)]
    if torch.cuda.is_available():
        environments.append(environment_of("cuda", options.threads))
    return any(
        not any(cache.missing(one.config, there, one.samples) for one in feature_sets_of(made, alike, cache, there))
        for there in environments
    )
