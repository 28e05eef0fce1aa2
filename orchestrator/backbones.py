"""Whether the backbones of a sweep can be built, asked before a folder is opened and once for each.

    <cache>/backbones/<digest>      empty; a backbone with these settings, weights and version of timm was built once

What was found good is remembered, so that only the first start with a new backbone imports torch and timm.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from moleflow.config import TrialConfig, digest
from moleflow.errors import Unreachable
from moleflow.source import version
from moleflow.weights import PACKAGE, PRETRAINED, RANDOM, weights_identity
from orchestrator.expansion import Resolver
from orchestrator.hub import asked_once
from orchestrator.prepared import Options, Prepared, setup

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
        except Unreachable:
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
    from moleflow.backbone import FrozenBackbone
    from moleflow.environment import environment_of

    with asked_once([config.backbone.weights]):
        FrozenBackbone(config, environment_of("cpu", 1))
    remember(config, cache)


def remember(config: TrialConfig, cache: Path) -> None:
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
    from moleflow.prefetch import distinct
    from orchestrator.prefetch import features_of, sets_of

    made = setup(prepared, options)
    cache = features_of(made)
    alike = distinct(trial.config for trial in prepared.sample if trial.config.backbone == like.backbone)
    environments = [environment_of("cpu", options.threads)]
    if torch.cuda.is_available():
        environments.append(environment_of("cuda", options.threads))
    return any(
        not any(cache.missing(one.config, there, one.samples) for one in sets_of(made, alike, cache, there))
        for there in environments
    )
