"""Short names of variants for tables, and the legend that says what they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from orchestrator.reports.number_format import setting_text
from orchestrator.reports.render import ABSENT
from orchestrator.reports.variants import VariantColumn, short_factor_names, varying_factors

LONGEST = 40
"""Characters of a name above which all variants of a table get short names."""
BASE = "base"
_VERSION = "version="


def with_short_names(
    variants: Sequence[VariantColumn],
    baselines: Sequence[int | None],
    others: str = "variant",
    known: Mapping[str, str] = MappingProxyType({}),
) -> list[VariantColumn]:
    """Return the variants under names that fit into tables; `configuration` keeps the long names.

    Versions alone are named `v3`. If a name that is not known is longer than `LONGEST`, baselines
    become `base`. With one baseline, a variant is named by what differs from it: `kernel=null`.
    Those that this does not tell apart are numbered: `variant 1`, or `variant` if there is one.

    Args:
        variants: the columns in the order of the table.
        baselines: for each column the position of its baseline, or None.
        others: the word for variants that are no baseline.
        known: short names that are taken as they are, by trial id.
    """
    labels = [variant.label for variant in variants]
    given = [next((known[t.trial_id] for t in v.trials if t.trial_id in known), "") for v in variants]
    pairs = list(zip(labels, given, strict=True))
    is_long = max((len(label) for label, name in pairs if not name), default=0) > LONGEST
    if labels and all(label.startswith(_VERSION) and ", " not in label for label in labels):
        names = [label.removeprefix(_VERSION) for label in labels]
    elif is_long or any(given):
        names = _differing(variants, baselines, others) if is_long else labels
        names = [f"{name}{_sweep_of(label)}" if name else own for own, (label, name) in zip(names, pairs, strict=True)]
    else:
        return list(variants)
    return [replace(v, label=name, configuration=v.label) for v, name in zip(variants, names, strict=True)]


def _differing(variants: Sequence[VariantColumn], baselines: Sequence[int | None], others: str) -> list[str]:
    """Return `base`, and for others what differs from it, if this is short and tells them apart."""
    labels = [variant.label for variant in variants]
    found = {of for of in baselines if of is not None}
    numbered = _numbered(labels, found, others)
    if len(found) != 1:
        return numbered
    base = variants[found.pop()].factors
    short = short_factor_names(varying_factors([variant.factors for variant in variants]))
    pairs = [[(key, v.factors.get(key, ABSENT)) for key in short] for v in variants]
    differences = [
        ", ".join(f"{short[key]}={setting_text(value)}" for key, value in of if value != base.get(key, ABSENT))
        for of in pairs
    ]
    names = [f"{text}{_sweep_of(label)}" for text, label in zip(differences, labels, strict=True)]
    return [
        name if text and len(name) <= LONGEST and names.count(name) == 1 else number
        for text, name, number in zip(differences, names, numbered, strict=True)
    ]


def _numbered(labels: Sequence[str], baselines: set[int], others: str) -> list[str]:
    """Return `base` and numbered names; a column's sweep in brackets at its end stays."""
    names = []
    counts = {BASE: len(baselines), others: len(labels) - len(baselines)}
    seen = dict.fromkeys(counts, 0)
    for k, label in enumerate(labels):
        word = BASE if k in baselines else others
        seen[word] += 1
        number = f" {seen[word]}" if counts[word] > 1 else ""
        names.append(f"{word}{number}{_sweep_of(label)}")
    return names


def _sweep_of(label: str) -> str:
    """Return a column's sweep in brackets at the end of its name; empty if there is none."""
    sweep = re.search(r" \([^()]+\)$", label)
    return sweep[0] if sweep else ""


def legend(variants: Sequence[VariantColumn]) -> str:
    """Return the settings behind each short name; empty where the names say it all."""
    short = [v for v in variants if v.configuration and v.configuration.removeprefix(_VERSION) != v.label]
    listed = [f"`{v.label}` is {v.configuration}" for v in short if "=" not in v.label]
    text = f"{'; '.join(listed)}." if listed else ""
    return f"{text} Other names say what differs from `{BASE}`." if len(listed) < len(short) else text


def versions_explained(variants: Sequence[VariantColumn], shown: Sequence[int]) -> str:
    """Return what the versions of some columns are, in the first sentence of their files.

    Empty where all variants have one version, or a version that is no longer there.
    """
    versions = [variant.factors.get("version") for variant in variants]
    if len(set(versions)) < 2:
        return ""
    from moleflow.settings.knobs import version_explanations

    known = version_explanations()
    names = dict.fromkeys(str(versions[k]) for k in shown)
    return " ".join(f"`{name}`: {known[name]}." for name in names if name in known)
