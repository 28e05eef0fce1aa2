"""The tables of several sweeps side by side: one column for each variant of each sweep."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moleflow.errors import counted
from orchestrator.reports.baseline_table import compare_with_baselines
from orchestrator.reports.bootstrap import TrialScores, read_scores
from orchestrator.reports.differences import Comparison, VersionSettings, compare_variants, environment_text
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials
from orchestrator.reports.notes import header_lines, unfinished
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.render import ABSENT, Table
from orchestrator.reports.short_names import LONGEST, legend, with_short_names
from orchestrator.reports.tables import Record, Report, build_tables
from orchestrator.reports.variants import (
    VariantColumn,
    comparable_means,
    factor_labels,
    group_variants,
    number_duplicates,
)
from orchestrator.reports.yardstick import set_apart
from orchestrator.results.store import ResultStore

SWEEP = "sweep"
"""The factor that tells the sweep of a column."""

_AT = "@"
"""Stands between a trial's id and its sweep's name, as a trial may be in several sweeps."""


@dataclass(frozen=True)
class ComparedSweep:
    """One sweep of a comparison.

    Attributes:
        name: its name, unlike that of the others.
        store: its results.
        selection: ids of the trials to take; None = all.
        names: short names of variants by trial id, that a search gave.
    """

    name: str
    store: ResultStore
    selection: set[str] | None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageGroup:
    """Columns that were measured on the same images and may stand in one table.

    The description names the data set, its classes and digest; the classes order the rows.
    """

    description: str
    comparison: Comparison
    classes: tuple[str, ...]


def cross_sweep_report(
    sources: Sequence[ComparedSweep],
    baseline: Mapping[str, object] | None,
    split: str,
    *,
    current_code: str | None = None,
    version_settings: VersionSettings | None = None,
) -> Report:
    """Return the report over the finished trials of several sweeps. It has no lock.

    A column is a variant of one sweep. Sweeps that hold identical trials, equal in every digit,
    share a column. Columns measured on different images stand in different tables: no best mean, no
    change and no test spans them.

    Args:
        sources: the sweeps, under different names.
        baseline: {knob: value} of the columns that changes are taken against; `sweep` stands for
            the name of a sweep. Without `sweep` each column is measured against the one of its own
            sweep, or else against the only one that fits.
        split: test | validation, the images that the tables are about.
        current_code: code digest of today; trials made by other code are shown as stale.
        version_settings: {version: {setting: value}}, as for `build_report`.

    Raises:
        InvalidInput: there is no store in a folder.
    """
    baseline = None if not baseline else dict(sorted(baseline.items()))
    tagged = _tagged_trials(sources, split)
    trials, twins, banks = tagged.trials, tagged.twins, tagged.banks
    title = f"{' and '.join(source.name for source in sources)} side by side"
    missing = [
        f"{source.name}: {line}"
        for source in sources
        for line in unfinished(
            source.store, source.selection, _ids(trials, twins, source.name) | banks[source.name], split
        )
    ]
    groups = _image_groups(tagged, baseline, version_settings)
    header = _header(sources, groups, trials, twins, split)
    tables: list[Table] = []
    records: list[Record] = []
    for group in groups:
        compared = compare_with_baselines(group.comparison, lambda ids: _read_scores(sources, ids, split), split)
        of_group, numbers = build_tables(group.comparison, group.classes, baseline, current_code, compared, split)
        on = f", on {group.description}" if len(groups) > 1 else ""
        tables += [replace(table, title=f"{table.title}{on}") for table in of_group]
        records += numbers
    return Report(title, header, tuple(tables), tuple(missing), tuple(records))


def any_column_fits(baseline: Mapping[str, object], sources: Sequence[ComparedSweep], split: str) -> bool:
    """Say whether any column can be measured against `baseline`."""
    groups = _image_groups(_tagged_trials(sources, split), baseline, None)
    return any(of is not None for group in groups for of in group.comparison.baselines)


@dataclass(frozen=True)
class _TaggedTrials:
    """The trials of all sweeps, each tagged with its sweep.

    Attributes:
        trials: the trials; one that a later sweep holds too is there once.
        twins: {tagged id: the names of the later sweeps}.
        banks: {sweep: ids of its memory banks}, which are not compared.
        own_names: the short name of a trial's variant in its own sweep, by tagged id.
        given_names: those that a search gave.
    """

    trials: list[FinishedTrial]
    twins: dict[str, tuple[str, ...]]
    banks: dict[str, set[str]]
    own_names: dict[str, str]
    given_names: dict[str, str]


def _tagged_trials(sources: Sequence[ComparedSweep], split: str) -> _TaggedTrials:
    """Tag the trials of all sweeps with their sweep.

    The tag is part of the id and a factor. It is also a setting until the trials are grouped, so
    that equal configurations of two sweeps stay two columns.
    """
    trials: list[FinishedTrial] = []
    seen: dict[tuple[object, ...], str] = {}
    twins: dict[str, tuple[str, ...]] = {}
    banks: dict[str, set[str]] = {}
    own: dict[str, str] = {}
    given: dict[str, str] = {}
    for source in sources:
        versions, of_banks = set_apart(finished_trials(source.store, source.selection, split))
        banks[source.name] = {trial.trial_id for trial in of_banks}
        variants = group_variants(versions)
        labels = [one.label for one in with_short_names(variants, [None] * len(variants))]
        for variant, label in zip(variants, labels, strict=True):
            # Digests and environment are part of it: trials run twice with other digits stay apart.
            identity = tuple(
                (t.trial_id, t.classes, t.images, t.state_digest, t.scores_digest, tuple(t.environment.items()))
                for t in variant.trials
            )
            first = seen.setdefault(identity, source.name)
            tag = {SWEEP: source.name}
            for trial in variant.trials:
                tagged = f"{trial.trial_id}{_AT}{first}"
                own.setdefault(tagged, label)
                if trial.trial_id in source.names:
                    given.setdefault(tagged, source.names[trial.trial_id])
                if first != source.name:
                    twins[tagged] = (*twins.get(tagged, ()), source.name)
                    continue
                factors, settings = {**trial.factors, **tag}, {**trial.settings, **tag}
                trials.append(replace(trial, trial_id=tagged, factors=factors, settings=settings))
    return _TaggedTrials(trials, twins, banks, own, given)


def _ids(trials: Sequence[FinishedTrial], twins: Mapping[str, Collection[str]], sweep: str) -> set[str]:
    """Return the ids of a sweep's trials in the tables, in its own columns or in shared ones."""
    own = [trial.trial_id.split(_AT, 1) for trial in trials]
    return {id for id, of in own if of == sweep} | {key.split(_AT, 1)[0] for key, of in twins.items() if sweep in of}


def _image_groups(
    tagged: _TaggedTrials, baseline: Mapping[str, object] | None, version_settings: VersionSettings | None
) -> list[ImageGroup]:
    """Group trials by their images: data set, digest of each class, and how many were scored.

    If the names of columns are long, each column has the name that it has in its own sweep.
    """
    trials = tagged.trials
    names = _column_names(group_variants(trials), tagged.twins)
    is_long = max(map(len, names.values()), default=0) > LONGEST
    known = (tagged.own_names if is_long else {}) | tagged.given_names
    by_images: dict[str, list[FinishedTrial]] = {}
    for trial in trials:
        of_data = sorted((k, v) for k, v in trial.settings.items() if k.startswith("data_digests"))
        of_classes = sorted(zip(trial.classes, trial.images, strict=True))
        by_images.setdefault(repr((trial.dataset, of_data, of_classes)), []).append(trial)
    groups = []
    for _, members in sorted(by_images.items()):
        variants = [
            # Among the settings, the sweep would be a confound.
            VariantColumn(
                names[v.trials[0].trial_id],
                v.factors,
                tuple(replace(t, settings={k: x for k, x in t.settings.items() if k != SWEEP}) for t in v.trials),
            )
            for v in group_variants(comparable_means(members))
        ]
        classes = tuple(dict.fromkeys(name for trial in members for name in trial.classes))
        digests = sorted({trial.data_digest[:12] for trial in members if trial.data_digest})
        description = f"{members[0].dataset} ({', '.join(classes)})"
        description += f", digest {', '.join(digests)}" if digests else ""
        comparison = compare_variants(variants, baseline, version_settings, names=known)
        groups.append(ImageGroup(description, comparison, classes))
    return groups


def _column_names(variants: Sequence[VariantColumn], twins: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the column name of each trial: its factors, and its sweeps if there are several."""
    factors = [
        ({key: value for key, value in v.factors.items() if key != SWEEP}, v.trials[0].version) for v in variants
    ]
    labels = factor_labels(factors)
    several = len({setting_text(variant.factors[SWEEP]) for variant in variants}) > 1
    named = []
    for label, variant in zip(labels, variants, strict=True):
        sweeps = [setting_text(variant.factors[SWEEP]), *twins.get(variant.trials[0].trial_id, ())]
        named.append(f"{label} ({', '.join(sweeps)})" if several or len(sweeps) > 1 else label)
    numbered = zip(number_duplicates(named), variants, strict=True)
    return {trial.trial_id: name for name, variant in numbered for trial in variant.trials}


def _header(
    sources: Sequence[ComparedSweep],
    groups: Sequence[ImageGroup],
    trials: Sequence[FinishedTrial],
    twins: Mapping[str, Collection[str]],
    split: str,
) -> tuple[str, ...]:
    """Return the lines under the title: the sweeps, and what limits their comparison."""
    counts = {source.name: len(_ids(trials, twins, source.name)) for source in sources}
    lines = ["sweeps: " + ", ".join(f"{name} ({counted(n, 'trial')})" for name, n in counts.items())]
    if len(groups) > 1:
        sweeps = [dict.fromkeys(setting_text(v.factors[SWEEP]) for v in of.comparison.variants) for of in groups]
        each = "; ".join(f"{of.description}: {', '.join(names)}" for of, names in zip(groups, sweeps, strict=True))
        lines.append(
            f"DIFFERENT IMAGES: {each}. Each has its own tables: no best mean, no baseline and no test spans them."
            + _data_settings(groups)
        )
    lines += _environment_warnings(groups)
    if shared := sorted({sweep for of in twins.values() for sweep in of}):
        lines.append(f"identical trials, equal in every digit, are in {', '.join(shared)} too: they share a column")
    for group in groups:
        on = f" (on {group.description})" if len(groups) > 1 else ""
        names = legend(group.comparison.variants)
        lines += [f"names: {names}{on}"] * bool(names)
        lines += [f"{line}{on}" for line in header_lines(group.comparison, split)]
    return tuple(lines)


def _data_settings(groups: Sequence[ImageGroup]) -> str:
    """Return the settings of the data in which groups differ, such as `test_images: 8`."""
    by_group = [[v.settings for v in of.comparison.variants] for of in groups]
    paths = sorted({path for of in by_group for settings in of for path in settings if path.startswith("data.")})
    differing = []
    for path in paths:
        values = [", ".join(dict.fromkeys(setting_text(s.get(path, ABSENT)) for s in of)) for of in by_group]
        if len(set(values)) > 1:
            differing.append(f"`{path.removeprefix('data.')}: {'` and `'.join(dict.fromkeys(values))}`")
    return f" They differ in {'; '.join(differing)}." if differing else ""


def _environment_warnings(groups: Sequence[ImageGroup]) -> list[str]:
    """Name code and environment of each sweep where the columns of a table differ in them."""
    variants = [v for group in groups for v in group.comparison.variants]
    known = {name for v in variants for trial in v.trials for name in trial.environment} - {"dataset"}
    differing = dict.fromkeys(c.name for group in groups for c in group.comparison.confounds if c.name in known)
    lines = []
    for name in differing:
        sweeps_by_value: dict[str, dict[str, None]] = {}
        for variant in variants:
            for trial in variant.trials:
                value = environment_text(trial.environment, name)
                sweeps_by_value.setdefault(value, {})[setting_text(variant.factors[SWEEP])] = None
        each = "; ".join(f"{value} in {', '.join(sweeps)}" for value, sweeps in sorted(sweeps_by_value.items()))
        kind = "CODE" if name == "code_digest" else "ENVIRONMENT"
        lines.append(f"DIFFERENT {kind}: {name}: {each}. It may explain differences between such columns (†).")
    return lines


def _read_scores(sources: Sequence[ComparedSweep], ids: set[str], split: str) -> dict[str, TrialScores]:
    """Return the image scores of tagged trials."""
    found: dict[str, TrialScores] = {}
    for source in sources:
        own = {id for id, sweep in (tagged.split(_AT, 1) for tagged in ids) if sweep == source.name}
        found |= {f"{id}{_AT}{source.name}": of for id, of in read_scores(source.store, own, split).items()}
    return found
