"""Subsets of a class's images, drawn by content: held-out images, smaller train and test sets."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from moleflow.data.samples import Sample
from moleflow.errors import InvalidInput


def split(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Normal images as (train, validation).

    Args:
        samples: the images; their order is kept.
        fraction: share to hold out, rounded; at least one image if it is above 0.
        seed: seed of the draw; equal images give equal splits under any names.

    Raises:
        InvalidInput: no image would be left to train on.
    """
    held = max(1, round(fraction * len(samples))) if fraction > 0 else 0
    if held >= len(samples):
        left = f"which leaves no training image of {len(samples)}"
        raise InvalidInput(f"data.validation_fraction: given {fraction}, {left}; take a smaller share or add images")
    chosen = _drawn(samples, held, seed)
    validation = tuple(s for i, s in enumerate(samples) if i in chosen)
    return tuple(s for i, s in enumerate(samples) if i not in chosen), validation


def limit(samples: Sequence[Sample], count: int | None, seed: int) -> tuple[Sample, ...]:
    """At most `count` of the samples, drawn by content; None = all."""
    chosen = range(len(samples)) if count is None else _drawn(samples, count, seed)
    return tuple(s for i, s in enumerate(samples) if i in chosen)


def limit_test(samples: Sequence[Sample], count: int | None, seed: int) -> tuple[Sample, ...]:
    """At most `count` of the test samples, half of them defective (rounded up).

    If one kind has too few images, the other fills up. None = all samples.
    """
    if count is None:
        return tuple(samples)
    good = [s for s in samples if s.label == 0]
    bad = [s for s in samples if s.label == 1]
    defective = min(len(bad), max(math.ceil(count / 2), count - len(good)))
    return limit(good, count - defective, seed) + limit(bad, defective, seed)


def _drawn(samples: Sequence[Sample], count: int, seed: int) -> set[int]:
    """Positions of `count` samples, ranked by a hash of seed and content, not by file names."""

    def rank(position: int) -> tuple[str, int]:
        return hashlib.sha256(f"{seed}:{samples[position].digest}".encode()).hexdigest(), position

    return set(sorted(range(len(samples)), key=rank)[:count])
