"""The contrasts that test a claim: pairs of stored variants that differ in its knobs alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.claims.claims import KnobChange, Settings, StatedClaim
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.variants import VariantColumn

_NAMED = 4
"""Classes that are named; more are only counted."""


@dataclass(frozen=True)
class ContrastPair:
    """Two stored variants, and the change of knobs that lies between them."""

    before: VariantColumn
    after: VariantColumn
    change: KnobChange

    def confounds(self) -> list[str]:
        """The other settings that differ."""
        a, b = settings_with_defaults(self.before), settings_with_defaults(self.after)
        return _apart(a, b, self.change.knobs)

    def environment_confounds(self) -> list[str]:
        """The parts of the environment that differ between the two trials of a seed."""
        of_a, of_b = ({trial.seed: trial.environment for trial in v.trials} for v in (self.before, self.after))
        pairs = [(of_a[seed], of_b[seed]) for seed in of_a.keys() & of_b.keys()]
        names = {name for pair in pairs for environment in pair for name in environment}
        return sorted(name for name in names if any(x.get(name) != y.get(name) for x, y in pairs))


def contrast_pairs(claim: StatedClaim, variants: Sequence[VariantColumn]) -> list[ContrastPair]:
    """Return the pairs that test the claim, one for each setup, which is all other settings.

    If every pair differs in further settings, only the pair that differs in the fewest is returned.
    It settles nothing, but the ledger can name its confounds.
    """
    settings = [settings_with_defaults(v) for v in variants]
    all_knobs = frozenset[str]().union(*(change.knobs for change in claim.changes))
    chosen: list[tuple[int, int, KnobChange]] = []
    nearest: tuple[int, int, int, int] | None = None
    for form, change in enumerate(claim.changes):
        # Another form of the change serves only the setups in which none before it was found.
        served = {_setup(settings[b], all_knobs) for _, b, _ in chosen}
        by_setup: dict[str, tuple[int, int]] = {}
        after = [k for k in range(len(variants)) if _fits(settings[k], change.after)]
        for a in (k for k in range(len(variants)) if _fits(settings[k], change.before)):
            for b in after:
                apart = len(_apart(settings[a], settings[b], change.knobs))
                nearest = min(nearest or (apart, form, a, b), (apart, form, a, b))
                if apart == 0 and _setup(settings[b], all_knobs) not in served:
                    key = _setup(settings[b], change.knobs)
                    by_setup[key] = max(by_setup.get(key, (a, b)), (a, b), key=lambda pair: _rank(pair, variants))
        chosen += [(a, b, change) for a, b in by_setup.values()]
    if not chosen and nearest is not None:
        _, form, a, b = nearest
        chosen.append((a, b, claim.changes[form]))
    return [ContrastPair(variants[a], variants[b], change) for a, b, change in chosen]


def _setup(settings: Mapping[str, str], knobs: frozenset[str]) -> str:
    return json.dumps({path: value for path, value in settings.items() if path not in knobs}, sort_keys=True)


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


def describe_setups(pairs: Sequence[ContrastPair]) -> list[str]:
    """Describe the setup of each pair: data set, classes, backbone, epochs, other differences."""
    settings = [settings_with_defaults(pair.after) for pair in pairs]
    paths = sorted({path for of in settings for path in of})
    varying = [path for path in paths if len({of.get(path) for of in settings}) > 1]
    usual = ("data.tasks", "data_digests", "backbone.model", "training.epochs")
    descriptions = []
    for pair, of in zip(pairs, settings, strict=True):
        trials = pair.after.trials
        classes = trials[0].classes
        which = ", ".join(classes) if len(classes) <= _NAMED else f"{len(classes)} classes"
        parts = [f"{' + '.join(sorted({t.dataset for t in trials}))} ({which})", of["backbone.model"]]
        parts.append(f"{of['training.epochs']} epochs")
        parts += [f"{path}={of.get(path)}" for path in varying if path not in {*usual, *pair.change.knobs}]
        descriptions.append(", ".join(parts))
    return descriptions
