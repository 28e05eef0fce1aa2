"""Short names of variants for tables, and the legend that says what they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.reports.variants import VariantColumn

LONGEST = 40
"""Characters of a name above which all variants of a table get short names."""
BASE = "base"
_VERSION = "version="


def with_short_names(
    variants: Sequence[VariantColumn], baselines: Sequence[int | None], others: str = "variant"
) -> list[VariantColumn]:
    """Return the variants under names that fit into tables; `configuration` keeps the long names.

    Versions alone are named `v3`. If a name is longer than `LONGEST`, baselines become `base` and
    the others are numbered: `variant 1`, or `variant` if there is one.

    Args:
        variants: the columns in the order of the table.
        baselines: for each column the position of its baseline, or None.
        others: the word for variants that are no baseline.
    """
    labels = [variant.label for variant in variants]
    if labels and all(label.startswith(_VERSION) and ", " not in label for label in labels):
        names = [label.removeprefix(_VERSION) for label in labels]
    elif max(map(len, labels), default=0) > LONGEST:
        names = _numbered(labels, {of for of in baselines if of is not None}, others)
    else:
        return list(variants)
    return [replace(v, label=name, configuration=v.label) for v, name in zip(variants, names, strict=True)]


def _numbered(labels: Sequence[str], baselines: set[int], others: str) -> list[str]:
    """Return `base` and numbered names; a column's sweep in brackets at its end stays."""
    names = []
    counts = {BASE: len(baselines), others: len(labels) - len(baselines)}
    seen = dict.fromkeys(counts, 0)
    for k, label in enumerate(labels):
        word = BASE if k in baselines else others
        seen[word] += 1
        sweep = re.search(r" \([^()]+\)$", label)
        number = f" {seen[word]}" if counts[word] > 1 else ""
        names.append(f"{word}{number}{sweep[0] if sweep else ''}")
    return names


def legend(variants: Sequence[VariantColumn]) -> str:
    """Return the settings behind each short name; empty where the names say it all."""
    short = [v for v in variants if v.configuration and v.configuration.removeprefix(_VERSION) != v.label]
    return f"{'; '.join(f'`{v.label}` is {v.configuration}' for v in short)}." if short else ""
