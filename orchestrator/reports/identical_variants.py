"""Variants of equal digests: which ones they are, and which settings changed nothing."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import code_list, setting_text
from orchestrator.reports.render import ABSENT
from orchestrator.reports.variants import VariantColumn

_FOCAL = frozenset({"loss.focal_gamma", "loss.focal_form", "loss.focal_detach"})
_NAMED = 4
"""Settings that a sentence names; the rest are counted."""


def identity_notes(variants: Sequence[VariantColumn]) -> list[str]:
    """Return one sentence for each group of variants with equal digests on all shared seeds."""
    found: dict[tuple[str, str], list[str]] = {}
    taken: set[int] = set()  # Each variant is named once, with the first one that it agrees with.
    alike = _sharing_a_digest(variants)
    for a, first in enumerate(variants):
        for b in sorted(k for k in alike[a] if k > a):
            if a not in taken and b not in taken and (sentence := _agreement(first, variants[b])):
                found.setdefault((first.label, sentence), []).append(variants[b].label)
                taken.add(b)
    return [f"`{'` and `'.join([label, *others])}`: {sentence}" for (label, sentence), others in found.items()]


def _sharing_a_digest(variants: Sequence[VariantColumn]) -> list[set[int]]:
    """Return for each variant those that share a digest with it at some seed.

    No other pairs can agree. Comparing all pairs would be quadratic in the number of variants.
    """
    holders: dict[tuple[str, int, str], set[int]] = {}
    keys = [
        [
            (kind, t.seed, value)
            for t in v.trials
            for kind, value in (("state", t.state_digest), ("scores", t.scores_digest))
            if value is not None
        ]
        for v in variants
    ]
    for k, of_variant in enumerate(keys):
        for key in of_variant:
            holders.setdefault(key, set()).add(k)
    return [set().union(*(holders[key] for key in of_variant)) for of_variant in keys]


def _common_trials(a: VariantColumn, b: VariantColumn) -> list[tuple[FinishedTrial, FinishedTrial]]:
    """Return the trials of both variants for each seed that they share."""
    of_a, of_b = ({trial.seed: trial for trial in v.trials} for v in (a, b))
    return [(of_a[seed], of_b[seed]) for seed in sorted(of_a.keys() & of_b.keys())]


def _equal_states(pairs: Sequence[tuple[FinishedTrial, FinishedTrial]]) -> bool:
    return all(x.state_digest is not None and x.state_digest == y.state_digest for x, y in pairs)


def _agreement(a: VariantColumn, b: VariantColumn) -> str | None:
    """Return a sentence about equal digests on all shared seeds, or None where they differ."""
    pairs = _common_trials(a, b)
    if not pairs:
        return None
    state = _equal_states(pairs)
    scores = all(x.scores_digest is not None and x.scores_digest == y.scores_digest for x, y in pairs)
    scores_known = all(t.scores_digest is not None for pair in pairs for t in pair)
    seeds = f"seed{'s' if len(pairs) > 1 else ''} {', '.join(str(x.seed) for x, _ in pairs)}"
    named = _named(_differing_settings(a, b))
    if state and (scores or not scores_known):
        also = "state and scores digests" if scores else "state digests"
        why = _known_reason(a, b) or f"{named} did not reach training"
        return f"identical: {why} (equal {also} for {seeds})."
    if state:
        told = f"identical training: {named} did not reach it (equal state digests for {seeds})"
        # The digest of scores covers all images that were scored.
        is_same_images = a.settings.get("data.evaluate") == b.settings.get("data.evaluate")
        return f"{told}; scores differ." if is_same_images else f"{told}."
    return f"identical scores (equal scores digests for {seeds})." if scores else None


def identity_reason(a: VariantColumn, b: VariantColumn) -> str:
    """Say in which settings two variants of equal scores differ, and why that changed nothing."""
    if known := _known_reason(a, b):
        return known
    equal = "were trained to equal digits" if _equal_states(_common_trials(a, b)) else "give equal scores"
    return f"they differ in {_named(_differing_settings(a, b))}, and {equal}"


def _differing_settings(a: VariantColumn, b: VariantColumn) -> list[str]:
    """Return the paths of the settings that differ."""
    paths = sorted(a.settings.keys() | b.settings.keys())
    return [
        path
        for path in paths
        if setting_text(a.settings.get(path, ABSENT)) != setting_text(b.settings.get(path, ABSENT))
    ]


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{code_list(paths[:_NAMED])}{more}"


def _known_reason(a: VariantColumn, b: VariantColumn) -> str:
    """Say why the settings that differ compute the same; empty where that is not known."""
    paths = _differing_settings(a, b)
    if paths == ["version"]:
        return "their settings are equal but for the version's name"
    if not paths:
        return "their settings are equal"
    if not _FOCAL.issuperset(path for path in paths if path != "version"):
        return ""
    forms = {v.settings.get("loss.focal_form") for v in (a, b) if v.settings.get("loss.focal_gamma")}
    if not forms:
        return f"without `loss.focal_gamma`, {_named([path for path in paths if path != 'version'])} has no effect"
    if forms == {"joint"}:
        limit = "the focal weight is 1 to the last bit while every patch's NLL is above 17"
        return f"with `loss.focal_form: joint`, {limit} (`relative` has no such limit)"
    return ""
