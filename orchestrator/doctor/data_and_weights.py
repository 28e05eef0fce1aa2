"""Checks of the inputs of trials: the folder of images and the backbone's weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow.data.images import SUFFIXES
from moleflow.data.mvtec import GOOD, class_names
from moleflow.errors import InvalidInput
from moleflow.features.weights import PRETRAINED, RANDOM, weights_file
from moleflow.settings.config import BackboneKnobs
from orchestrator.doctor.finding import Finding
from orchestrator.host.command_line import program_name
from orchestrator.host.hub import download_host, is_reachable

SHOWN_CLASSES = 5


def find_images(root: Path | None, tasks: Sequence[str], base: str) -> Finding:
    """Check the data root by counting its files; no image is opened.

    Args:
        root: --data or MOLEFLOW_DATA; None if neither is given.
        tasks: the classes that the base learns.
        base: the name of the base.

    """
    if root is None:
        text = "no folder given: sweeps run on embedded (generated) images and say so"
        return Finding("images", "note", text, "--data FOLDER, or export MOLEFLOW_DATA=FOLDER")
    try:
        classes = class_names(root)
    except (InvalidInput, OSError) as error:
        return Finding("images", "lacks", str(error), "give the folder of classes with --data")
    counts = {name: [_count(root / name / part) for part in ("train", "test", "ground_truth")] for name in classes}
    train, test, masks = (sum(column) for column in zip(*counts.values(), strict=True))
    shown = ", ".join(classes[:SHOWN_CLASSES]) + (
        f" and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""
    )
    text = f"{root}: {len(classes)} class{'' if len(classes) == 1 else 'es'} ({shown}), "
    text += f"{train} training and {test} test images, {masks} masks"
    empty = [name for name, (in_train, in_test, _) in counts.items() if not in_train or not in_test]
    if empty:
        folders = f"<class>/train/{GOOD} and <class>/test"
        return Finding("images", "lacks", f"{text}; no images in {', '.join(empty)}", f"put images into {folders}")
    without = [name for name, (*_, in_masks) in counts.items() if not in_masks]
    if without:
        text += f"; no pixel metrics for {', '.join(without[:SHOWN_CLASSES])}"
    missing = [task for task in tasks if task not in classes]
    if missing:
        text += f"; base {base} learns {', '.join(tasks)}, and {', '.join(missing)} is not there"
        hint = f"--set 'tasks=[{', '.join(classes[:3])}]', or data.tasks in the sweep file"
        return Finding("images", "note", text, hint)
    return Finding("images", "ok", text)


def find_weights(backbone: BackboneKnobs, base: str, known: Mapping[str, Any]) -> Finding:
    """Check that the weights of a backbone are random, a local file, cached or can be downloaded.

    Args:
        backbone: the settings of the backbone.
        base: the name of the base that they come from.
        known: timm's knowledge of the model, from `machine.find_imports`.

    Raises:
        InvalidInput: backbone.weights is neither a known word nor a file.

    """
    name = f"base {base}: {backbone.model}"
    if backbone.weights == RANDOM:
        return Finding("weights", "ok", f"{name}, random weights")
    file = weights_file(backbone)
    if file is not None:
        return Finding("weights", "ok", f"{name}: {file}")
    if "known" not in known:
        return Finding("weights", "note", f"{name}: not looked for, as timm cannot be imported")
    if not known["known"]:
        return Finding(
            "weights", "lacks", f"{name}: timm knows no such model", f"{program_name()} knobs; timm.list_models()"
        )
    if known["cached"]:
        return Finding("weights", "ok", f"{name}: {PRETRAINED}, in the cache ({known['hub']})")
    prefetch = "moleflow-sweep prefetch FILE on a machine with a network, with HF_HOME on a folder that both see"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Finding("weights", "lacks", f"{name}: not in the cache, and HF_HUB_OFFLINE is set", prefetch)
    host, port = download_host()
    if is_reachable(host, port):
        return Finding("weights", "note", f"{name}: not in the cache; the first run downloads them ({host} answers)")
    hint = f"{prefetch}; or backbone.weights: a local file"
    return Finding("weights", "lacks", f"{name}: not in the cache, and {host} does not answer", hint)


def _count(folder: Path) -> int:
    """Count the image files below a folder, without hidden ones."""
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES for name in files)
    return count
