"""Checks of the inputs of trials: the folder of images and the backbone's weights."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow.data.copies import copies_notes
from moleflow.data.digests import DigestCache
from moleflow.data.findings import findings_of, passed_over_note, split_note, undefined_note
from moleflow.data.layouts.layout import ClassFiles
from moleflow.data.layouts.table import BY_LOOKING, Reading, find_classes
from moleflow.data.outside import files_outside
from moleflow.data.samples import GOOD
from moleflow.data.scan import list_files, scan
from moleflow.errors import InvalidInput, counted
from moleflow.features.weights import PRETRAINED, RANDOM, weights_file
from moleflow.settings.config import BackboneKnobs
from orchestrator.doctor.finding import Finding
from orchestrator.host.command_line import program_name
from orchestrator.host.hub import download_host, is_reachable

SHOWN_CLASSES = 5


def find_images(
    root: Path | None,
    tasks: Sequence[str],
    base: str,
    reading: Reading = BY_LOOKING,
    cache: Path | None = None,
) -> Finding:
    """Check the data root by listing its files, as a scan does; no image is opened.

    Classes whose images were all looked at before are checked by the facts that the cache holds.

    Args:
        root: --data or MOLEFLOW_DATA; None if neither is given.
        tasks: the classes that the base learns.
        base: the name of the base.
        reading: how the base reads the root.
        cache: the cache folder, with facts of images; None = none are known.

    """
    if root is None:
        text = "no folder given: sweeps run on embedded (generated) images and say so"
        return Finding("images", "note", text, "--data FOLDER, or export MOLEFLOW_DATA=FOLDER")
    try:
        classes = find_classes(root, reading)
    except (InvalidInput, OSError) as error:
        return Finding("images", "lacks", str(error), "give the folder of classes with --data; see docs/data.md")
    try:
        listed = list_files(root, [*classes], classes, reading)
        outside = files_outside(root, classes, reading)
    except (InvalidInput, OSError) as error:
        return Finding("images", "lacks", str(error), "see docs/data.md")
    train, test = (sum(len(getattr(files, part)) for files in listed.values()) for part in ("train", "test"))
    masks = sum(len(image.masks) for files in listed.values() for image in files.test)
    text = f"{root}: {len(classes)} class{'' if len(classes) == 1 else 'es'} ({_some([*classes])}), "
    text += f"{train} training and {test} test images, {masks} masks"
    empty = [name for name, files in listed.items() if not files.train or not files.test]
    if empty:
        folders = f"<class>/train/{GOOD} and <class>/test"
        return Finding("images", "lacks", f"{text}; no images in {', '.join(empty)}", f"put images into {folders}")
    without = [name for name, files in listed.items() if not files.has_masks]
    if without:
        text += f"; no pixel metrics for {', '.join(without[:SHOWN_CLASSES])}"
    over = list(filter(None, (passed_over_note(name, files.passed_over) for name, files in listed.items())))
    over += [split_note(name, files.split) for name, files in listed.items() if files.split]
    over += [passed_over_note(str(root), outside)] * bool(outside)
    text += "".join(f"; {note}" for note in over[:SHOWN_CLASSES])
    text += f"; {len(over) - SHOWN_CLASSES} more such notes" if len(over) > SHOWN_CLASSES else ""
    try:
        notes, unseen = _of_looked_at(root, listed, reading, DigestCache(cache and cache / "digests.json"))
    except (InvalidInput, OSError) as error:
        return Finding("images", "lacks", str(error), "see docs/data.md")
    text += "".join(f"; {note}" for note in notes[:SHOWN_CLASSES])
    text += f"; {len(notes) - SHOWN_CLASSES} more findings" if len(notes) > SHOWN_CLASSES else ""
    if cache is not None and unseen:
        number = sum(len(listed[name].train) + len(listed[name].test) for name in unseen)
        text += f"; not looked at: {counted(number, 'image')} of {_some(unseen)} ({program_name()} data {shlex.quote(str(root))})"
    over += notes
    missing = [task for task in tasks if task not in classes]
    if missing:
        text += f"; base {base} learns {', '.join(tasks)}; not there: {', '.join(missing)}"
        hint = f"--set 'tasks=[{', '.join([*classes][:3])}]', or data.tasks in the sweep file"
        return Finding("images", "note", text, hint)
    return Finding("images", "note" if over else "ok", text, "see docs/data.md" if over else None)


def _of_looked_at(
    root: Path, listed: Mapping[str, ClassFiles], reading: Reading, known: DigestCache
) -> tuple[list[str], list[str]]:
    """The findings that need the contents of images, and the classes whose contents are not known.

    Raises:
        InvalidInput: a class is broken.

    """
    seen = [name for name, files in listed.items() if _is_known(files, known)]
    tasks = scan(root, seen, known, reading)
    notes: list[str] = []
    for one in map(findings_of, tasks):
        # The list of files has told these already.
        told = [passed_over_note(one.name, one.passed_over)] + [undefined_note(one)] * ("image" not in one.undefined)
        notes += [note for note in one.notes if note not in told]
    return notes + copies_notes(tasks), [name for name in listed if name not in seen]


def _is_known(files: ClassFiles, known: DigestCache) -> bool:
    images = (*files.train, *files.test)
    return all(known.knows(image.path) and all(known.knows(mask, True) for mask in image.masks) for image in images)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return ", ".join(names[:SHOWN_CLASSES]) + more


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
