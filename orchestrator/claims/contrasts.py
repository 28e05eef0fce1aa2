"""The contrasts that test a claim: pairs of stored variants that differ in its knobs alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from orchestrator.claims.claims import Settings, StatedClaim
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.variants import VariantColumn

_NAMED = 4
"""Classes that are named; more are only counted."""


def contrast_pairs(claim: StatedClaim, variants: Sequence[VariantColumn]) -> list[tuple[VariantColumn, VariantColumn]]:
    """Return the pairs that test the claim, one for each setup, which is all other settings.

    If every pair differs in further settings, only the pair that differs in the fewest is returned.
    It settles nothing, but the ledger can name its confounds.
    """
    settings = [settings_with_defaults(v) for v in variants]
    after = [k for k in range(len(variants)) if _fits(settings[k], claim.after)]
    chosen: dict[str, tuple[int, int]] = {}
    nearest: tuple[int, int, int] | None = None
    for values in (claim.before, claim.instead):
        by_setup: dict[str, tuple[int, int]] = {}
        for a in (k for k in range(len(variants)) if values is not None and _fits(settings[k], values)):
            for b in after:
                apart = len(_apart(settings[a], settings[b], claim.knobs))
                nearest = min(nearest or (apart, a, b), (apart, a, b))
                if apart == 0:
                    rest = {path: value for path, value in settings[b].items() if path not in claim.knobs}
                    key = json.dumps(rest, sort_keys=True)
                    by_setup[key] = max(by_setup.get(key, (a, b)), (a, b), key=lambda pair: _rank(pair, variants))
        chosen = by_setup | chosen  # `instead` serves only the setups without `before`.
    if not chosen and nearest is not None:
        chosen[""] = nearest[1:]
    return [(variants[a], variants[b]) for a, b in chosen.values()]


def _rank(pair: tuple[int, int], variants: Sequence[VariantColumn]) -> tuple[int, bool, int, int]:
    """Rank pairs of one setup by seeds in common, then equal versions, then their order."""
    a, b = (variants[k] for k in pair)
    same = a.trials[0].version == b.trials[0].version
    return len(set(a.seeds) & set(b.seeds)), same, -pair[0], -pair[1]


def settings_with_defaults(variant: VariantColumn) -> dict[str, str]:
    """Return the configuration as {dotted path: text}.

    A knob that is newer than the trials has its default value.
    """
    from moleflow.settings.knobs import fields

    defaults = {path: field.get_default(call_default_factory=True) for path, field in fields().items()}
    defaults.pop("seed", None)
    return {path: setting_text(plain_value(value)) for path, value in (defaults | dict(variant.settings)).items()}


def _fits(settings: Mapping[str, str], values: Settings) -> bool:
    return all(settings.get(path) == setting_text(value) for path, value in values.items())


def _apart(a: Mapping[str, str], b: Mapping[str, str], knobs: frozenset[str]) -> list[str]:
    """Return the settings that differ, apart from `knobs`."""
    return sorted(path for path in (a.keys() | b.keys()) - knobs if a.get(path) != b.get(path))


def contrast_confounds(claim: StatedClaim, before: VariantColumn, after: VariantColumn) -> list[str]:
    """Return the other settings that differ, and the environment of trials paired by seed."""
    settings = _apart(settings_with_defaults(before), settings_with_defaults(after), claim.knobs)
    of_a, of_b = ({trial.seed: trial.environment for trial in v.trials} for v in (before, after))
    pairs = [(of_a[seed], of_b[seed]) for seed in of_a.keys() & of_b.keys()]
    names = {name for pair in pairs for environment in pair for name in environment}
    return [*settings, *sorted(name for name in names if any(x.get(name) != y.get(name) for x, y in pairs))]


def describe_setups(variants: Sequence[VariantColumn], knobs: frozenset[str]) -> list[str]:
    """Describe each variant of a claim: data set, classes, backbone, epochs, other differences."""
    settings = [settings_with_defaults(v) for v in variants]
    paths = sorted({path for of in settings for path in of} - knobs)
    varying = [path for path in paths if len({of.get(path) for of in settings}) > 1]
    usual = ("data.tasks", "data_digests", "backbone.model", "training.epochs")
    descriptions = []
    for variant, of in zip(variants, settings, strict=True):
        classes = variant.trials[0].classes
        which = ", ".join(classes) if len(classes) <= _NAMED else f"{len(classes)} classes"
        parts = [f"{' + '.join(sorted({t.dataset for t in variant.trials}))} ({which})", of["backbone.model"]]
        parts.append(f"{of['training.epochs']} epochs")
        parts += [f"{path}={of.get(path)}" for path in varying if path not in usual]
        descriptions.append(", ".join(parts))
    return descriptions
