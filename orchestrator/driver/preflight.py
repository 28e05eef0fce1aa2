"""Checks before a run writes anything: SLURM profile, cluster, cache budget, backbones."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from pathlib import Path

from moleflow import files
from moleflow.cache.eviction import budget_of
from moleflow.code_digest import version
from moleflow.errors import InvalidInput, WeightsUnavailable
from moleflow.features.weights import PACKAGE, PRETRAINED, RANDOM, weights_identity
from moleflow.settings.config import TrialConfig, digest
from orchestrator.backends.slurm.queue import COMMANDS
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.host.command_line import install_command
from orchestrator.host.hardware import visible_gpus
from orchestrator.host.hub import offline_if_hub_is_down
from orchestrator.sweep.resolver import Resolver

_HARMLESS = {"storage", "projection_seed", "projection_init", "weights_seed", "normalisation"}
"""Knobs of a backbone without a value that could keep it from being built."""


def check_start(prepared: Prepared, options: Options) -> None:
    """Refuse a run that its backend could not start.

    Raises:
        InvalidInput: no SLURM or Ray here, a mistake in the profile, an address that cannot be
            joined, a budget that is no size, no compiler for `training.compile`, or a backbone that
            cannot be built.

    """
    budget_of(prepared.cache)
    starts = prepared.sweep.search is not None or bool(prepared.plan.of("to run"))
    if options.backend == "slurm":
        check_slurm(options, starts)
    if options.backend == "ray" and starts:
        _check_ray(options)
    _check_compiler(prepared, options)
    check_backbones(prepared, options)


def check_dry_run(prepared: Prepared, options: Options) -> None:
    """Refuse a dry run that no trial could pass.

    Raises:
        InvalidInput: a backbone that cannot be built, or a budget that is no size.

    """
    budget_of(prepared.cache)
    check_backbones(prepared, options, fresh=True)


def check_slurm(options: Options, submits: bool = True) -> None:
    """Check the profile, and the commands of SLURM if anything will be submitted.

    Raises:
        InvalidInput: a mistake in the profile, or this is no login node.

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
        raise InvalidInput(f"--backend ray: ray is not installed; run {install_command('ray')}")
    if options.address:
        from orchestrator.backends.ray.cluster import check_address

        check_address(options.address)


def _check_compiler(prepared: Prepared, options: Options) -> None:
    """Look for a compiler if trials train with compiled kernels on this machine."""
    if options.backend not in ("inline", "local"):
        return
    configs = [trial.config for trial in prepared.plan.of("to run")]
    if prepared.sweep.search is not None:
        configs.append(Resolver(prepared.sweep).config({}))
    if any(config.training.compile for config in configs):
        from moleflow.training.compilation import require_compiler  # Loads torch.

        require_compiler("cuda" if options.device != "cpu" and visible_gpus() else "cpu")


def check_backbones(prepared: Prepared, options: Options, *, fetch: bool = True, fresh: bool = False) -> None:
    """Build each backbone of the trials to run once, unless an earlier start has built it.

    Args:
        prepared: the sweep. Of a search, only the backbone of its base is built.
        options: the command's options.
        fetch: download pretrained weights; else such a backbone is built with random weights.
        fresh: ignore stored features, as a dry run does.

    Raises:
        InvalidInput: unknown model or layer, weights that do not fit or are not available here, or
            layers that cannot be averaged.

    """
    for config in _distinct(prepared):
        if not fetch and config.backbone.weights == PRETRAINED:
            backbone = config.backbone.model_copy(update={"weights": RANDOM})
            _build_once(config.model_copy(update={"backbone": backbone}), prepared.cache)
            continue
        try:
            _build_once(config, prepared.cache)
        except WeightsUnavailable:
            # Nodes of a cluster may have the weights that this machine lacks; a dry run runs here.
            elsewhere = not fresh and (options.backend == "slurm" or options.address is not None)
            if not elsewhere and (fresh or not _features_are_stored(prepared, options, config)):
                raise


def _distinct(prepared: Prepared) -> list[TrialConfig]:
    """Return one configuration for each backbone and image size."""
    if prepared.sweep.search is not None:
        return [Resolver(prepared.sweep).config({})]
    first: dict[object, TrialConfig] = {}
    for trial in prepared.plan.of("to run"):
        first.setdefault((trial.config.backbone, trial.config.data.image_size), trial.config)
    return list(first.values())


def _build_once(config: TrialConfig, cache: Path) -> None:
    if _marker(config, cache).exists():
        return
    # torch and timm take seconds to import, so only an unknown backbone costs them.
    from moleflow.environment import environment_of
    from moleflow.features.backbone import FrozenBackbone

    with offline_if_hub_is_down([config.backbone.weights]):
        FrozenBackbone(config, environment_of("cpu", 1))
    remember_backbone(config, cache)


def remember_backbone(config: TrialConfig, cache: Path) -> None:
    """Note in the cache that a configuration's backbone can be built."""
    marker = _marker(config, cache)
    with contextlib.suppress(OSError):  # Without the note, the next start builds it again.
        files.make_folder(marker.parent)
        marker.touch()


def _marker(config: TrialConfig, cache: Path) -> Path:
    """Return the path of the empty file that notes a built backbone."""
    backbone = config.backbone
    settings = backbone.model_dump(exclude=_HARMLESS)
    if backbone.weights not in (PRETRAINED, PACKAGE, RANDOM):
        settings["weights"] = "file"  # A file is known by its content, not by its path.
    size, identity = config.data.image_size, weights_identity(backbone)
    built = {"backbone": settings, "image_size": size, "weights": identity, "timm": version("timm")}
    return cache / "backbones" / digest(built)[:32]


def _features_are_stored(prepared: Prepared, options: Options, like: TrialConfig) -> bool:
    """Return True if all features of the trials with this backbone are stored."""
    import torch

    from moleflow.environment import environment_of
    from moleflow.features.prefetch import distinct_feature_settings
    from orchestrator.execution.features import feature_cache_of, feature_sets_of

    setup = worker_config(prepared, options)
    cache = feature_cache_of(setup)
    configs = distinct_feature_settings(
        trial.config for trial in prepared.sample if trial.config.backbone == like.backbone
    )
    environments = [environment_of("cpu", options.threads)]
    if torch.cuda.is_available():
        environments.append(environment_of("cuda", options.threads))
    return any(
        not any(cache.missing(one.config, here, one.samples) for one in feature_sets_of(setup, configs, cache, here))
        for here in environments
    )
