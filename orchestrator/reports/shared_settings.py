"""What all columns of a report share: the settings that a reader asks for first, the tasks, and the machine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.reports.number_format import setting_text
from orchestrator.reports.variants import VariantColumn, patch_grid

_WORDS = {
    "backbone.model": "backbone {}",
    "backbone.weights": "weights {}",
    "backbone.layers": "layers {}",
    "data.image_size": "image size {}",
    "patch_grid": "patch grid {}",
    "training.epochs": "{} epochs",
    "training.batch_size": "batch size {}",
    "training.learning_rate": "learning rate {}",
}
"""Settings that are named where they are equal in all columns; where they are not, they stand among the differences."""


def shared_lines(variants: Sequence[VariantColumn], split: str) -> list[str]:
    """One line each for the settings, the tasks with their images, and the machine, as far as all columns share them."""
    words = []
    held = [{**v.settings, "patch_grid": patch_grid(v.settings)} for v in variants]
    for path, word in _WORDS.items():
        values = {_short(of[path]) if path in of else "" for of in held}
        if len(values) == 1 and (value := values.pop()):
            words.append(word.format(value))
    lines = [f"settings{' shared by all columns' * (len(variants) > 1)}: {', '.join(words)}"] if words else []
    trials = [trial for v in variants for trial in v.trials]
    if len({trial.classes for trial in trials}) == 1:
        classes, images = trials[0].classes, {trial.images for trial in trials}
        if len(images) == 1:
            counts = zip(classes, images.pop(), strict=True)
            each = ", ".join(f"{name} {n} ({defective})" for name, (n, defective) in counts)
            lines.append(f"tasks in order, with {split} images (defective ones among them): {each}")
        else:
            lines.append(f"tasks in order: {', '.join(classes)}")
    machine = [{trial.environment[name] for trial in trials} for name in ("device_model", "torch")]
    known = [f"{word}{of.pop()}" for word, of in zip(("", "torch "), machine, strict=True) if len(of) == 1]
    return [*lines, f"made on: {', '.join(known)}"] if known else lines


def _short(value: object) -> str:
    """A setting in few letters: a digest by its first eight, a list without brackets."""
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(item) for item in value)
    return re.sub(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}", r"\1", setting_text(value))
