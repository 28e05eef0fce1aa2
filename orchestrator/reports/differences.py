"""Differences between the columns of a table: factors and confounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.render import ABSENT
from orchestrator.reports.short_names import with_short_names
from orchestrator.reports.variants import VariantColumn, patch_grid, short_factor_names, varying_factors
from orchestrator.sweep.baselines import find_baselines

LORA_SCALING = "effective LoRA scaling"
"""The number that multiplies B A x. Under scaling = alpha/rank it changes with the rank."""
PATCH_GRID = "patch grid"
"""Patches per side. Without `backbone.grid` it follows from the backbone and the image size."""
SEEDS = "seeds"
"""The seeds that finished."""

VersionSettings = Mapping[str, Mapping[str, object]]
"""{version: {dotted path: value}}: the settings that each version file sets."""


@dataclass(frozen=True)
class Difference:
    """A confound: a setting that is not compared and yet differs.

    Attributes:
        name: dotted path of the setting, or one of the names above.
        values: its value in each column.
        affected: the columns that differ from their baseline in it, or from most columns if they
            have none.
    """

    name: str
    values: tuple[str, ...]
    affected: frozenset[int]


@dataclass(frozen=True)
class Comparison:
    """Variants side by side, and all that differs between them.

    Attributes:
        variants: the columns.
        compared: the factors that differ.
        baselines: for each column, the index of its baseline column, or None.
        version_sets: the settings that differ because the compared versions set them.
        confounds: all other settings that differ.
    """

    variants: tuple[VariantColumn, ...]
    compared: tuple[str, ...]
    baselines: tuple[int | None, ...]
    version_sets: tuple[str, ...]
    confounds: tuple[Difference, ...]

    @cached_property
    def confounded(self) -> frozenset[int]:
        """The columns that a confound affects."""
        return frozenset(k for confound in self.confounds for k in confound.affected)

    @cached_property
    def equal_seeds(self) -> bool:
        """True if every column has the same seeds."""
        return len({variant.seeds for variant in self.variants}) <= 1


def compare_variants(
    variants: Sequence[VariantColumn],
    baseline: Mapping[str, object] | None,
    version_settings: VersionSettings | None = None,
    others: str = "variant",
    names: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """Order the variants, give them short names, and list their differences.

    Args:
        variants: the columns in order. Each baseline moves before the columns measured against it.
        baseline: {knob: value}, with dotted or short names. The baseline of a column is the one
            that differs from it by these values alone, or else the only column that has them.
        version_settings: what each version sets. A setting at another value than its version sets
            was set elsewhere and is a confound.
        others: the word for variants that are no baseline, if names are long.
        names: short names that are known already, by trial id.
    """
    variants, baselines = _baselines_first(variants, _baselines(variants, baseline or {}))
    variants = with_short_names(variants, baselines, others, names)
    compared = tuple(varying_factors([v.factors for v in variants]))
    version_sets = []
    confounds = []
    for path in sorted({path for v in variants for path in v.settings}):
        values = tuple(setting_text(v.settings.get(path, ABSENT)) for v in variants)
        if len(set(values)) > 1 and not any(f"{path}.".startswith(f"{key}.") for key in compared):
            if "version" in compared and _set_by_version(path, variants, version_settings or {}):
                version_sets.append(path)
            else:
                confounds.append(Difference(path, values, _affected(values, baselines)))
    confounds += _derived(variants, compared, baselines)
    confounds += _environment_differences(variants, baselines)
    seeds = tuple(", ".join(map(str, v.seeds)) for v in variants)
    if len(set(seeds)) > 1:
        confounds.append(Difference(SEEDS, seeds, _affected(seeds, baselines)))
    return Comparison(tuple(variants), compared, baselines, tuple(version_sets), tuple(confounds))


def _set_by_version(path: str, variants: Sequence[VariantColumn], version_settings: VersionSettings) -> bool:
    """Say whether every column has the value of `path` that its version sets."""
    if not any(path in settings for settings in version_settings.values()):
        return False
    return all(
        setting_text(v.settings.get(path, ABSENT))
        == setting_text(version_settings.get(str(v.factors["version"]), {}).get(path, ABSENT))
        for v in variants
    )


def _baselines_first(
    variants: Sequence[VariantColumn], baselines: Sequence[int | None]
) -> tuple[tuple[VariantColumn, ...], tuple[int | None, ...]]:
    """Put each baseline before the columns measured against it, and columns without one last."""

    def sort_key(k: int) -> tuple[int, bool, int]:
        of = baselines[k]
        return (len(variants) if of is None else of, of != k, k)

    order = sorted(range(len(variants)), key=sort_key)
    position = {old: new for new, old in enumerate(order)}
    moved = [baselines[k] for k in order]
    return tuple(variants[k] for k in order), tuple(None if of is None else position[of] for of in moved)


def _derived(
    variants: Sequence[VariantColumn], compared: Sequence[str], baselines: Sequence[int | None]
) -> list[Difference]:
    """List values that follow from settings and differ although their own setting does not."""
    found = []
    grids = tuple(patch_grid(v.settings) for v in variants)
    given = [v.settings.get("backbone.grid") is not None for v in variants]
    # A grid that every column sets is listed as a setting already.
    if len(set(grids)) > 1 and not all(given) and "backbone.grid" not in compared:
        found.append(Difference(PATCH_GRID, grids, _affected(grids, baselines)))
    scalings = tuple(_lora_scaling(v) for v in variants)
    rules = [
        tuple(setting_text(v.settings.get(path, ABSENT)) for path in ("lora.scaling", "lora.alpha")) for v in variants
    ]
    first = {rule: k for k, rule in reversed(list(enumerate(rules)))}
    reference = [first[rules[k]] if of is None else of for k, of in enumerate(baselines)]
    # A column with another rule or alpha asked for another scaling. Under the same rule and alpha,
    # only the rank can have changed it, perhaps without intention.
    moved = frozenset(k for k, of in enumerate(reference) if scalings[k] != scalings[of] and rules[k] == rules[of])
    return [*found, Difference(LORA_SCALING, scalings, moved)] if moved else found


def _lora_scaling(variant: VariantColumn) -> str:
    values = [trial.lora_scaling for trial in variant.trials]
    return " + ".join(dict.fromkeys(ABSENT if value is None else f"{value:.6g}" for value in values))


def _environment_differences(variants: Sequence[VariantColumn], baselines: Sequence[int | None]) -> list[Difference]:
    """List differences in code, packages and machine, also those within one column."""
    # Trials mostly share the object of their environment, so each is looked at once.
    environments = [list({id(t.environment): t.environment for t in v.trials}.values()) for v in variants]
    names = {name for of_column in environments for environment in of_column for name in environment}
    found = []
    for name in sorted(names, key=lambda name: (name.startswith("package "), name)):
        held = [sorted({environment_text(of, name) for of in of_column}) for of_column in environments]
        values = tuple(" + ".join(of_column) for of_column in held)
        mixed = frozenset(k for k, of_column in enumerate(held) if len(of_column) > 1)
        if len(set(values)) > 1 or mixed:
            found.append(Difference(name, values, _affected(values, baselines) | mixed))
    return found


def environment_text(environment: Mapping[str, str], name: str) -> str:
    """Return one entry of an environment as tables show it; a code digest is cut to 12 digits."""
    value = environment.get(name, ABSENT)
    return value[:12] if name == "code_digest" else value


def _affected(values: Sequence[str], baselines: Sequence[int | None]) -> frozenset[int]:
    often = Counter(values)  # In order of first occurrence: of equally frequent values the first.
    usual = max(often, key=lambda value: often[value])
    reference = [usual if of is None else values[of] for of in baselines]
    return frozenset(k for k, value in enumerate(values) if value != reference[k])


def _baselines(variants: Sequence[VariantColumn], baseline: Mapping[str, object]) -> tuple[int | None, ...]:
    """Return the index of each column's baseline, or None."""
    if not baseline or not variants:
        return (None,) * len(variants)
    dotted = {short: key for key, short in short_factor_names(list(variants[0].factors)).items()}
    wanted = {dotted.get(name, name): setting_text(value) for name, value in baseline.items()}
    places = {key: place for place, key in enumerate(dict.fromkeys([*variants[0].factors, *wanted]))}
    held = [{key: setting_text(value) for key, value in {**v.settings, **v.factors}.items()} for v in variants]
    return find_baselines(
        [[of.get(key) for key in places] for of in held], {places[key]: of for key, of in wanted.items()}
    )


def saturation_notes(
    variants: Sequence[VariantColumn], classes: Sequence[str], metrics: Mapping[str, str]
) -> list[str]:
    """Return a sentence that names the rows in which every seed of every variant is 1, if any."""
    rows = []
    for class_name in (*classes, MEAN):
        for metric, name in metrics.items():
            known = [s for v in variants if (s := v.summary(class_name, metric)).n]
            if known and len(variants) > 1 and all(s.mean == 1 for s in known):
                rows.append(f"{class_name} {name}")
    return [f"Saturated: 1 for every seed of every variant, so no evidence either way: {', '.join(rows)}."] * bool(rows)
