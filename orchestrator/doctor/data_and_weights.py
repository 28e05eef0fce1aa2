"""What trials read: the images' folder and the backbone's weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow.data.images import SUFFIXES
from moleflow.data.mvtec import GOOD, class_names
from moleflow.errors import InvalidInput
from moleflow.features.weights import PRETRAINED, RANDOM, weights_file
from moleflow.settings.config import BackboneKnobs
from orchestrator.doctor.finding import Finding
from orchestrator.host.hub import download_host, is_reachable

SHOWN = 5


def find_images(root: Path | None, tasks: Sequence[str], base: str) -> Finding:
    """The data root: classes, images and masks; files are counted, none is opened.

    Args:
        root: --data or MOLEFLOW_DATA; None where neither was given.
        tasks: the classes that the base learns.
        base: its name.

    """
    if root is None:
        said = "no folder given: sweeps run on embedded (generated) images and say so"
        return Finding("images", "note", said, "--data FOLDER, or export MOLEFLOW_DATA=FOLDER")
    try:
        classes = class_names(root)
    except (InvalidInput, OSError) as error:
        return Finding("images", "lacks", str(error), "give the folder of classes with --data")
    counts = {name: [_count(root / name / part) for part in ("train", "test", "ground_truth")] for name in classes}
    train, test, masks = (sum(of[k] for of in counts.values()) for k in range(3))
    shown = ", ".join(classes[:SHOWN]) + (f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else "")
    said = f"{root}: {len(classes)} class{'' if len(classes) == 1 else 'es'} ({shown}), {train} training and {test} test images, "
    said += f"{masks} masks"
    empty = [name for name, (of_train, of_test, _) in counts.items() if not of_train or not of_test]
    if empty:
        folders = f"<class>/train/{GOOD} and <class>/test"
        return Finding("images", "lacks", f"{said}; no images in {', '.join(empty)}", f"put images into {folders}")
    without = [name for name, (*_, of_masks) in counts.items() if not of_masks]
    if without:
        said += f"; no pixel metrics for {', '.join(without[:SHOWN])}"
    missing = [task for task in tasks if task not in classes]
    if missing:
        said += f"; base {base} learns {', '.join(tasks)}, and {', '.join(missing)} is not there"
        return Finding(
            "images", "note", said, f"--set 'tasks=[{', '.join(classes[:3])}]', or data.tasks in the sweep file"
        )
    return Finding("images", "ok", said)


def find_weights(backbone: BackboneKnobs, base: str, known: Mapping[str, Any]) -> Finding:
    """The weights of a backbone: a local file, drawn, in timm's cache, or to be had from the network.

    Args:
        backbone: which.
        base: the name of the settings that ask for them.
        known: what `machine.imports` found.

    Raises:
        InvalidInput: they are named by a word or a path that is none.

    """
    of = f"base {base}: {backbone.model}"
    if backbone.weights == RANDOM:
        return Finding("weights", "ok", f"{of}, drawn at random")
    file = weights_file(backbone)
    if file is not None:
        return Finding("weights", "ok", f"{of}: {file}")
    if "known" not in known:
        return Finding("weights", "note", f"{of}: not looked for, as timm cannot be imported")
    if not known["known"]:
        return Finding(
            "weights", "lacks", f"{of}: timm knows no such model", "moleflow-sweep knobs; timm.list_models()"
        )
    if known["cached"]:
        return Finding("weights", "ok", f"{of}: {PRETRAINED}, in the cache ({known['hub']})")
    prefetch = "moleflow-sweep prefetch FILE where there is a network, with HF_HOME on a folder that both machines see"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Finding("weights", "lacks", f"{of}: not in the cache, and HF_HUB_OFFLINE is set", prefetch)
    host, port = download_host()
    if is_reachable(host, port):
        return Finding("weights", "note", f"{of}: not in the cache; the first run fetches them ({host} answers)")
    mend = f"{prefetch}; or backbone.weights: a local file"
    return Finding("weights", "lacks", f"{of}: not in the cache, and {host} does not answer", mend)


def _count(folder: Path) -> int:
    """Image files below a folder, hidden ones left out."""

    def walk() -> Iterator[str]:
        for _, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)

    return sum(1 for _ in walk())
