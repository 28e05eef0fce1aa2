"""All checks of `doctor`, in the order of its output."""

from __future__ import annotations

import os
from pathlib import Path

from moleflow.data.layouts.manifest import is_manifest
from moleflow.data.scan import reading_of
from moleflow.errors import InvalidInput
from moleflow.features.weights import weights_file
from moleflow.settings.knobs import base_layers, resolve, version_layer, version_names
from orchestrator.doctor import backends, data_and_weights, folders, machine
from orchestrator.doctor.finding import Finding
from orchestrator.host.cache_folder import check_folder, default_cache


def run_checks(data: Path | None, weights: str | None, base: str, out: Path, cache: Path | None) -> list[Finding]:
    """Run all checks.

    Args:
        data: a folder of classes; None = MOLEFLOW_DATA, if that is set.
        weights: a value of backbone.weights; None = that of the base.
        base: the base whose backbone and classes are checked.
        out: the folder for results.
        cache: the cache folder; None = the default one.

    Raises:
        InvalidInput: no such folder, base or weights, or the cache is a file.

    """
    root = data or (Path(os.environ["MOLEFLOW_DATA"]).expanduser() if os.environ.get("MOLEFLOW_DATA") else None)
    if data is not None and not (data.is_dir() or is_manifest(data)):
        raise InvalidInput(
            f"--data: {data} is no folder; give the folder that contains <class>/train/good and <class>/test"
        )
    if cache is not None:
        check_folder(cache)
    newest = version_names()[-1]
    config = resolve([version_layer(newest, "versions"), *base_layers(base, newest, "--base", Path.cwd())])
    backbone = config.backbone
    if weights is not None:
        backbone = backbone.model_copy(update={"weights": weights})
        weights_file(backbone)
    imports, known = machine.find_imports(backbone.model, backbone.weights)
    cache = cache or default_cache()
    try:
        found_weights = data_and_weights.find_weights(backbone, base, known)
    except InvalidInput as error:
        found_weights = Finding("weights", "lacks", str(error), "backbone.weights in the base, or --set weights=...")
    return [
        machine.find_python(),
        *imports,
        machine.find_gpus(known.get("gpus")),
        machine.find_size(),
        *backends.find_slurm(),
        backends.find_ray(),
        backends.find_package("optuna", "optuna", "search"),
        backends.find_package("charts", "vl-convert-python"),
        data_and_weights.find_images(root, config.data.classes, base, reading_of(config.data), cache),
        found_weights,
        folders.free_space("results", out, "--out"),
        folders.free_space("cache", cache, "--cache"),
        folders.cache_budget(cache),
        folders.find_checkout(),
    ]
