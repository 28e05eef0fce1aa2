"""The tables of several sweeps side by side: one column a variant and sweep, and no table across different images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.reports.baseline_table import compare_with_baseline_by
from orchestrator.reports.bootstrap import TrialScores, read_scores
from orchestrator.reports.differences import Comparison, compare_variants
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials
from orchestrator.reports.notes import header_lines, unfinished
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.render import ABSENT, Table
from orchestrator.reports.tables import Record, Report, tables_of
from orchestrator.reports.variants import VariantColumn, comparable_means, group_variants, short_names, varying
from orchestrator.results.store import ResultStore

SWEEP = "sweep"
"""The factor that tells which sweep a column is of."""

_AT = "@"


@dataclass(frozen=True)
class ComparedSweep:
    """One sweep: what it is called here, where its results are, and the trials to take from it (None = all that are stored)."""

    name: str
    store: ResultStore
    selection: frozenset[str] | None


@dataclass(frozen=True)
class SharedSettings:
    """Columns that were measured on the same images, and may stand in one table."""

    words: str
    comparison: Comparison
    classes: tuple[str, ...]


def cross_sweep_report(
    sources: Sequence[ComparedSweep],
    baseline: Mapping[str, object] | None,
    split: str,
    *,
    current_code: str | None = None,
    covers: Mapping[str, Sequence[str]] | None = None,
    bundles: Mapping[str, Mapping[str, Mapping[str, object]]] | None = None,
) -> Report:
    """The report over the finished trials of several sweeps; as that of one in everything but that it has no lock.

    A column is a variant of one sweep; where two sweeps hold the very same trials, with the same digits, they share it. Columns
    measured on other images stand in other tables: no mark for the best, no change and no test goes across.

    Args:
        sources: the sweeps, under different names.
        baseline: {knob: value}, and under `sweep` a sweep's name, of the columns that changes are taken against. Without `sweep` each
            column is measured against the one of its own sweep, or else against the only one that fits.
        split: test or validation.
        current_code: code digest of today; trials made by other code are shown as stale.
        covers: as for `tables.build`.
        bundles: as for `tables.build`.

    Raises:
        InvalidInput: there is no store in a folder.

    """
    baseline = None if not baseline else dict(sorted(baseline.items()))
    trials, twins = _tagged(sources, split)
    title = f"{' and '.join(source.name for source in sources)} side by side"
    missing = [
        f"{source.name}: {line}"
        for source in sources
        for line in unfinished(source.store, _selected(source), _ids(trials, twins, source.name), split)
    ]
    names = _labels(group_variants(trials), twins)
    footings = [_footing(of, names, baseline, covers or {}, bundles) for of in _by_images(trials)]
    header = _header(sources, footings, trials, twins, split)
    tables: list[Table] = []
    records: list[Record] = []
    for footing in footings:
        statistics = compare_with_baseline_by(footing.comparison, lambda ids: _scores(sources, ids, split))
        found, numbers = tables_of(footing.comparison, footing.classes, baseline, current_code, statistics)
        on = f", on {footing.words}" if len(footings) > 1 else ""
        tables += [replace(table, title=f"{table.title}{on}") for table in found]
        records += numbers
    return Report(title, header, tuple(tables), tuple(missing), tuple(records))


def column_fits(report_baseline: Mapping[str, object], sources: Sequence[ComparedSweep], split: str) -> bool:
    """Whether any column can be measured against `report_baseline`."""
    trials, twins = _tagged(sources, split)
    names = _labels(group_variants(trials), twins)
    footings = [_footing(of, names, report_baseline, {}, None) for of in _by_images(trials)]
    return any(of is not None for footing in footings for of in footing.comparison.baselines)


def _selected(source: ComparedSweep) -> set[str] | None:
    return None if source.selection is None else set(source.selection)


def _tagged(sources: Sequence[ComparedSweep], split: str) -> tuple[list[FinishedTrial], dict[str, tuple[str, ...]]]:
    """The trials of all sweeps, each marked with its sweep; and for those of a column that others hold too, in which sweeps.

    The mark is a factor and, for as long as it takes to group them, a setting; ids carry it, since a trial may be in several sweeps.
    """
    found: list[FinishedTrial] = []
    seen: dict[tuple[object, ...], str] = {}
    twins: dict[str, tuple[str, ...]] = {}
    for source in sources:
        for variant in group_variants(finished_trials(source.store, _selected(source), split)):
            same = tuple(
                (t.trial_id, t.classes, t.images, t.state_digest, t.scores_digest, tuple(t.environment.items()))
                for t in variant.trials
            )
            known = seen.setdefault(same, source.name)
            if known != source.name:
                for trial in variant.trials:
                    twins[f"{trial.trial_id}{_AT}{known}"] = (
                        *twins.get(f"{trial.trial_id}{_AT}{known}", ()),
                        source.name,
                    )
                continue
            mark = {SWEEP: source.name}
            for trial in variant.trials:
                factors, settings = {**trial.factors, **mark}, {**trial.settings, **mark}
                own_id = f"{trial.trial_id}{_AT}{source.name}"
                found.append(replace(trial, trial_id=own_id, factors=factors, settings=settings))
    return found, twins


def _ids(trials: Sequence[FinishedTrial], twins: Mapping[str, Collection[str]], sweep: str) -> set[str]:
    """The ids of a sweep's trials that are in the tables, in its own columns or in shared ones."""
    own = [trial.trial_id.split(_AT, 1) for trial in trials]
    return {id for id, of in own if of == sweep} | {key.split(_AT, 1)[0] for key, of in twins.items() if sweep in of}


def _by_images(trials: Sequence[FinishedTrial]) -> list[list[FinishedTrial]]:
    """The trials by the images that they were measured on: data set, classes with the digests of their images, how many were scored."""
    found: dict[str, list[FinishedTrial]] = {}
    for trial in trials:
        digests = {k: v for k, v in trial.settings.items() if k.startswith("data_digests")}
        of_classes = sorted(zip(trial.classes, trial.images, strict=True))
        found.setdefault(repr((trial.dataset, sorted(digests.items()), of_classes)), []).append(trial)
    return [comparable_means(of) for _, of in sorted(found.items())]


def _labels(variants: Sequence[VariantColumn], twins: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The name of each trial's column: what differs between all columns, and the sweep where that is not enough."""
    factors = [{key: value for key, value in v.factors.items() if key != SWEEP} for v in variants]
    differing = varying(factors) or sorted({key for of in factors for key in of})
    short = short_names(differing)
    bare = [", ".join(f"{short[key]}={setting_text(of[key])}" for key in differing) for of in factors]
    bare = [label or v.trials[0].version for label, v in zip(bare, variants, strict=True)]
    often = Counter(bare)
    named = []
    for label, variant in zip(bare, variants, strict=True):
        sweeps = [setting_text(variant.factors[SWEEP]), *twins.get(variant.trials[0].trial_id, ())]
        named.append(f"{label} ({', '.join(sweeps)})" if often[label] > 1 or len(sweeps) > 1 else label)
    # Two configurations of one sweep may agree in all factors: an older plan's, say. The confounds tell them apart.
    total, nth = Counter(named), Counter[str]()
    names: dict[str, str] = {}
    for label, variant in zip(named, variants, strict=True):
        nth[label] += 1
        own = f"{label} #{nth[label]}" if total[label] > 1 else label
        names |= {trial.trial_id: own for trial in variant.trials}
    return names


def _footing(
    trials: Sequence[FinishedTrial],
    names: Mapping[str, str],
    baseline: Mapping[str, object] | None,
    covers: Mapping[str, Sequence[str]],
    bundles: Mapping[str, Mapping[str, Mapping[str, object]]] | None,
) -> SharedSettings:
    def unmarked(trial: FinishedTrial) -> FinishedTrial:
        return replace(trial, settings={k: v for k, v in trial.settings.items() if k != SWEEP})

    variants = [
        VariantColumn(names[v.trials[0].trial_id], v.factors, tuple(map(unmarked, v.trials)))
        for v in group_variants(list(trials))
    ]
    classes = tuple(dict.fromkeys(name for trial in trials for name in trial.classes))
    digests = sorted({trial.data_digest[:12] for trial in trials if trial.data_digest})
    words = f"{trials[0].dataset} ({', '.join(classes)})" + (f", digest {', '.join(digests)}" if digests else "")
    return SharedSettings(words, compare_variants(variants, baseline, covers, bundles), classes)


def _header(
    sources: Sequence[ComparedSweep],
    footings: Sequence[SharedSettings],
    trials: Sequence[FinishedTrial],
    twins: Mapping[str, Collection[str]],
    split: str,
) -> tuple[str, ...]:
    """What the reader must know first: which sweeps, and what keeps them from being compared."""
    counts = {source.name: len(_ids(trials, twins, source.name)) for source in sources}
    lines = ["sweeps: " + ", ".join(f"{name} ({n} trial{'' if n == 1 else 's'})" for name, n in counts.items())]
    if len(footings) > 1:
        each = "; ".join(f"{footing.words}: {', '.join(_sweeps(footing))}" for footing in footings)
        lines.append(
            f"DIFFERENT IMAGES: {each}. They stand in tables of their own: nothing is marked best, measured against a baseline or "
            "tested across them."
        )
    lines += _loud(footings)
    if shared := sorted({sweep for of in twins.values() for sweep in of}):
        lines.append(f"the very same trials, equal to the digit, are in {', '.join(shared)} too: they share a column")
    for footing in footings:
        on = f" (on {footing.words})" if len(footings) > 1 else ""
        lines += [f"{line}{on}" for line in header_lines(footing.comparison, split)]
    return tuple(lines)


def _sweeps(footing: SharedSettings) -> list[str]:
    return list(dict.fromkeys(setting_text(v.factors[SWEEP]) for v in footing.comparison.variants))


def _loud(footings: Sequence[SharedSettings]) -> list[str]:
    """Code and environment, where the columns of some table differ in them: what each sweep has."""
    variants = [v for footing in footings for v in footing.comparison.variants]
    known = {name for v in variants for trial in v.trials for name in trial.environment} - {"dataset"}
    differing = dict.fromkeys(c.name for footing in footings for c in footing.comparison.confounds if c.name in known)
    lines = []
    for field in differing:
        held: dict[str, dict[str, None]] = {}
        for variant in variants:
            for trial in variant.trials:
                value = trial.environment.get(field, ABSENT)
                short = value[:12] if field == "code_digest" else value
                held.setdefault(short, {})[setting_text(variant.factors[SWEEP])] = None
        each = "; ".join(f"{value} in {', '.join(sweeps)}" for value, sweeps in sorted(held.items()))
        word = "DIFFERENT CODE" if field == "code_digest" else "DIFFERENT ENVIRONMENT"
        lines.append(f"{word}: {field}: {each}. What such columns (†) differ in may come of that.")
    return lines


def _scores(sources: Sequence[ComparedSweep], ids: set[str], split: str) -> dict[str, TrialScores]:
    """The image scores of marked trials."""
    found: dict[str, TrialScores] = {}
    for source in sources:
        own = {id for id, sweep in (marked.split(_AT, 1) for marked in ids) if sweep == source.name}
        found |= {f"{id}{_AT}{source.name}": of for id, of in read_scores(source.store, own, split).items()}
    return found
