"""Header lines about all columns of a report: settings, tasks, and the machine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.variants import VariantColumn, patch_grid

_TEXTS = {
    "backbone.model": "backbone {}",
    "backbone.weights": "weights {}",
    "backbone.layers": "layers {}",
    "data.image_size": "image size {}",
    "patch_grid": "patch grid {}",
    "training.epochs": "{} epochs",
    "training.batch_size": "batch size {}",
    "training.learning_rate": "learning rate {}",
}
"""The settings that the header names if all columns share them; otherwise the notes list them."""


def shared_lines(variants: Sequence[VariantColumn], split: str) -> list[str]:
    """Return one line each for settings, tasks and machine, as far as all columns share them."""
    shared = []
    columns = [{**v.settings, "patch_grid": patch_grid(v.settings)} for v in variants]
    for path, text in _TEXTS.items():
        values = {_short_text(settings[path]) if path in settings else "" for settings in columns}
        if len(values) == 1 and (value := values.pop()):
            shared.append(text.format(value))
    lines = [f"settings{' shared by all variants' * (len(variants) > 1)}: {', '.join(shared)}"] if shared else []
    trials = [trial for v in variants for trial in v.trials]
    if len({trial.classes for trial in trials}) == 1:
        lines.append(_classes_line(trials, split))
    machine = [{trial.environment[name] for trial in trials} for name in ("device_model", "torch")]
    known = [f"{word}{values.pop()}" for word, values in zip(("", "torch "), machine, strict=True) if len(values) == 1]
    return [*lines, f"computed on: {', '.join(known)}"] if known else lines


def _classes_line(trials: Sequence[FinishedTrial], split: str) -> str:
    """Return the sequence that all trials share; if they share the classes alone, those."""
    classes, images, sequences = trials[0].classes, {t.images for t in trials}, {t.tasks for t in trials}
    texts = dict(zip(classes, classes, strict=True))
    counted = ""
    if len(images) == 1:
        counts = zip(classes, images.pop(), strict=True)
        texts = {name: f"{name} {n} ({defective})" for name, (n, defective) in counts}
        counted = f", with their {split} images (defective ones in brackets)"
    if len(sequences) > 1:
        return f"classes in order{counted}: {', '.join(texts.values())}"
    tasks = sequences.pop()
    if len(tasks) == len(classes):
        return f"tasks in order{counted}: {', '.join(texts.values())}"
    each = (" + ".join(texts[name] for name in names) for names in tasks)
    return f"tasks in order{counted}: {' -> '.join(each)}"


def _short_text(value: object) -> str:
    """Return a setting with digests cut to eight digits and lists without brackets."""
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(item) for item in value)
    return re.sub(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}", r"\1", setting_text(value))
