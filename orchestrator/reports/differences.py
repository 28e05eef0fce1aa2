"""What differs between the columns of a table, beside what is compared; and what differs in nothing at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.render import ABSENT
from orchestrator.reports.variants import VariantColumn, patch_grid, short_names, varying

LORA_SCALING = "effective LoRA scaling"
"""The number that multiplies B A x: with scaling = alpha/rank it changes with the rank, and is no setting of its own."""
PATCH_GRID = "patch grid"
"""Patches per side: with backbone.grid null it follows from the backbone and the image size."""
SEEDS = "seeds"
"""The seeds that finished."""


@dataclass(frozen=True)
class Difference:
    """A setting that is not what is compared and yet differs, with its value in each column.

    `affected` are the columns that differ in it from their baseline; without a baseline, from what most columns have.
    """

    name: str
    values: tuple[str, ...]
    affected: frozenset[int]


@dataclass(frozen=True)
class Comparison:
    """Variants side by side, and how far they may be compared.

    `baselines` holds, for each column, the index of the column that it is measured against, or None. `bundled` are the
    settings that a compared factor sets by itself, as a version does with its method knobs.
    """

    variants: tuple[VariantColumn, ...]
    compared: tuple[str, ...]
    baselines: tuple[int | None, ...]
    bundled: Mapping[str, tuple[str, ...]]
    confounds: tuple[Difference, ...]

    @cached_property
    def marked(self) -> frozenset[int]:
        """The columns that a confound affects."""
        return frozenset(k for confound in self.confounds for k in confound.affected)

    @cached_property
    def equal_seeds(self) -> bool:
        """Whether every column has the same seeds."""
        return len({variant.seeds for variant in self.variants}) <= 1


def compare_variants(
    variants: Sequence[VariantColumn],
    baseline: Mapping[str, object] | None,
    covers: Mapping[str, Sequence[str]],
    bundles: Mapping[str, Mapping[str, Mapping[str, object]]] | None = None,
) -> Comparison:
    """Find out what differs.

    Args:
        variants: the columns, in the order in which they shall stand; baselines move before what is measured against them.
        baseline: {knob: value}, dotted or short; every column is measured against the one that it becomes with these
            values in place of its own, or else against the only one that has them.
        covers: {factor: settings that it sets}; a name also stands for everything below it.
        bundles: {factor: {its value: {setting: value}}}: what each of its values brings, such as the version files'
            knobs. A setting that stands at another value in any column was set by somebody else and is a confound.

    """
    variants, baselines = _baselines_first(variants, _baselines(variants, baseline or {}))
    compared = tuple(varying([v.factors for v in variants]))
    bundled: dict[str, list[str]] = {}
    confounds = []
    for path in sorted({path for v in variants for path in v.settings}):
        values = tuple(setting_text(v.settings.get(path, ABSENT)) for v in variants)
        if len(set(values)) > 1 and not any(_below(path, key) for key in compared):
            owners = [key for key in compared if _sets(key, path, variants, covers, bundles or {})]
            if owners:
                bundled.setdefault(owners[0], []).append(path)
            else:
                confounds.append(Difference(path, values, _affected(values, baselines)))
    confounds += _derived(variants, compared, baselines)
    ran_in = [_environments(v) for v in variants]
    names = {name for environments in ran_in for of in environments for name in of}
    for name in sorted(names, key=lambda name: (name.startswith("package "), name)):
        held = [sorted({_environment(of, name) for of in environments}) for environments in ran_in]
        values = tuple(" + ".join(of_column) for of_column in held)
        mixed = frozenset(k for k, of_column in enumerate(held) if len(of_column) > 1)
        if len(set(values)) > 1 or mixed:
            confounds.append(Difference(name, values, _affected(values, baselines) | mixed))
    seeds = tuple(", ".join(map(str, v.seeds)) for v in variants)
    if len(set(seeds)) > 1:
        confounds.append(Difference(SEEDS, seeds, _affected(seeds, baselines)))
    return Comparison(
        tuple(variants), compared, baselines, {key: tuple(paths) for key, paths in bundled.items()}, tuple(confounds)
    )


def _sets(
    factor: str,
    path: str,
    variants: Sequence[VariantColumn],
    covers: Mapping[str, Sequence[str]],
    bundles: Mapping[str, Mapping[str, Mapping[str, object]]],
) -> bool:
    """Whether a factor sets `path` by itself, in every column to the value that it brings."""
    if not any(_below(path, name) for name in covers.get(factor, ())):
        return False
    brought = bundles.get(factor)
    if brought is None:
        return True
    return all(
        setting_text(v.settings.get(path, ABSENT))
        == setting_text(brought.get(str(v.factors[factor]), {}).get(path, ABSENT))
        for v in variants
        if factor in v.factors
    )


def _baselines_first(
    variants: Sequence[VariantColumn], baselines: Sequence[int | None]
) -> tuple[tuple[VariantColumn, ...], tuple[int | None, ...]]:
    """Each baseline before the columns that are measured against it, and last those without one; else as given."""

    def place(k: int) -> tuple[int, bool, int]:
        of = baselines[k]
        return (len(variants) if of is None else of, of != k, k)

    order = sorted(range(len(variants)), key=place)
    now = {old: new for new, old in enumerate(order)}
    moved = [baselines[k] for k in order]
    return tuple(variants[k] for k in order), tuple(None if of is None else now[of] for of in moved)


def _below(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _derived(
    variants: Sequence[VariantColumn], compared: Sequence[str], baselines: Sequence[int | None]
) -> list[Difference]:
    """What follows from settings, and differs where the setting that names it does not."""
    found = []
    grids = tuple(patch_grid(v.settings) for v in variants)
    named = [v.settings.get("backbone.grid") is not None for v in variants]
    if len(set(grids)) > 1 and not all(named) and "backbone.grid" not in compared:
        found.append(Difference(PATCH_GRID, grids, _affected(grids, baselines)))
    scalings = tuple(_lora_scaling(v) for v in variants)
    rules = [
        tuple(setting_text(v.settings.get(path, ABSENT)) for path in ("lora.scaling", "lora.alpha")) for v in variants
    ]
    first = {rule: k for k, rule in reversed(list(enumerate(rules)))}
    against = [first[rules[k]] if of is None else of for k, of in enumerate(baselines)]
    # Whoever sets another rule or alpha means another scaling; under the same ones the rank alone has moved it.
    moved = frozenset(k for k, of in enumerate(against) if scalings[k] != scalings[of] and rules[k] == rules[of])
    return [*found, Difference(LORA_SCALING, scalings, moved)] if moved else found


def _lora_scaling(variant: VariantColumn) -> str:
    values = [trial.lora_scaling for trial in variant.trials]
    return " + ".join(dict.fromkeys(ABSENT if value is None else f"{value:.6g}" for value in values))


def _environments(variant: VariantColumn) -> list[Mapping[str, str]]:
    """Where the trials ran; they mostly share the object that says so."""
    return list({id(trial.environment): trial.environment for trial in variant.trials}.values())


def _environment(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, ABSENT)
    return value[:12] if name == "code_digest" else value


def _affected(values: Sequence[str], baselines: Sequence[int | None]) -> frozenset[int]:
    often = Counter(values)  # In the order in which the values first stand: of equally frequent ones the first.
    usual = max(often, key=lambda value: often[value])
    against = [usual if of is None else values[of] for of in baselines]
    return frozenset(k for k, value in enumerate(values) if value != against[k])


def _baselines(variants: Sequence[VariantColumn], baseline: Mapping[str, object]) -> tuple[int | None, ...]:
    if not baseline or not variants:
        return (None,) * len(variants)
    keys = list(variants[0].factors)
    dotted = {short: key for key, short in short_names(keys).items()}
    wanted = {dotted.get(name, name): setting_text(value) for name, value in baseline.items()}
    held = [{key: setting_text(value) for key, value in {**v.settings, **v.factors}.items()} for v in variants]
    fitting = [k for k, of in enumerate(held) if wanted.items() <= of.items()]

    def of_column(k: int) -> int | None:
        if k in fitting:
            return k
        becomes = {key: held[k][key] for key in keys} | wanted
        same = [f for f in fitting if all(held[f][key] == becomes[key] for key in keys)]
        candidates = same or fitting
        return candidates[0] if len(candidates) == 1 else None

    return tuple(of_column(k) for k in range(len(variants)))


def no_effects(variants: Sequence[VariantColumn]) -> list[str]:
    """One sentence for each group of variants whose digests agree for every seed that they share."""
    found: dict[tuple[str, str], list[str]] = {}
    taken: set[int] = set()
    alike = _alike(variants)
    for a, first in enumerate(variants):
        for b in sorted(k for k in alike[a] if k > a):
            if a not in taken and b not in taken and (sentence := _agreement(first, variants[b])):
                found.setdefault((first.label, sentence), []).append(variants[b].label)
                taken.add(b)
    lines = []
    for (label, sentence), others in found.items():
        lines.append(f"{' and '.join(f'`{name}`' for name in [label, *others])}: {sentence}")
    return lines


def _alike(variants: Sequence[VariantColumn]) -> list[set[int]]:
    """For each variant the places of those that share a digest with it at some seed; no others can agree."""
    holders: dict[tuple[str, int, str], set[int]] = {}
    keys = [
        [(kind, t.seed, value) for t in v.trials for kind, value in _digests(t) if value is not None] for v in variants
    ]
    for k, of_variant in enumerate(keys):
        for key in of_variant:
            holders.setdefault(key, set()).add(k)
    return [set().union(*(holders[key] for key in of_variant)) for of_variant in keys]


def _digests(trial: FinishedTrial) -> tuple[tuple[str, str | None], ...]:
    return ("state", trial.state_digest), ("scores", trial.scores_digest)


def _agreement(a: VariantColumn, b: VariantColumn) -> str | None:
    mine, theirs = ({trial.seed: trial for trial in v.trials} for v in (a, b))
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        return None
    state = all(mine[s].state_digest is not None and mine[s].state_digest == theirs[s].state_digest for s in common)
    scores = all(mine[s].scores_digest is not None and mine[s].scores_digest == theirs[s].scores_digest for s in common)
    scores_known = all(t.scores_digest is not None for s in common for t in (mine[s], theirs[s]))
    seeds = f"seed{'s' if len(common) > 1 else ''} {', '.join(map(str, common))}"
    if state and (scores or not scores_known):
        also = "state and scores digests" if scores else "state digests"
        return f"no effect: the setting did not reach training (equal {also} for {seeds})."
    if state:
        return f"no effect on training: the setting did not reach it (equal state digests for {seeds}); scores differ."
    return f"no effect on the scores (equal scores digests for {seeds})." if scores else None


def saturated(variants: Sequence[VariantColumn], classes: Sequence[str], metrics: Mapping[str, str]) -> list[str]:
    """One sentence for each row of `metrics` ({metric: its name}) in which every seed of every column is 1."""
    rows = []
    for class_name in (*classes, MEAN):
        for metric, name in metrics.items():
            known = [s for v in variants if (s := v.summary(class_name, metric)).n]
            if known and len(variants) > 1 and all(s.mean == 1 and not s.sd for s in known):
                rows.append(f"{class_name} {name}")
    return [f"Saturated at 1 in every column, and so evidence of nothing: {', '.join(rows)}."] if rows else []
