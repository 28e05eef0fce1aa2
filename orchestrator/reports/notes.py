"""The sentences around the tables: what the columns are made of, what differs between them, and what is not in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.reports.differences import LORA_SCALING, SEEDS, Comparison, Difference, no_effects, saturated
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.shared_settings import shared_lines
from orchestrator.reports.variants import VariantColumn, lacking, mean_name
from orchestrator.results.schema import FINISHED, rows_of
from orchestrator.results.store import ResultStore

DATASETS = {"embedded": "embedded (generated images)"}
COST = "cost: "
_SHOWN = 10
"""Unfinished trials that are named one by one; the rest are counted."""


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def header_lines(comparison: Comparison, split: str) -> tuple[str, ...]:
    """What the reader must know first: data set, versions, seeds, settings, code, cost. The data set comes first."""
    trials = [trial for v in comparison.variants for trial in v.trials]
    if not trials:
        return ("no finished trial yet",)
    datasets = ", ".join(DATASETS.get(name, name) for name in sorted({t.dataset for t in trials}))
    digests = sorted({t.data_digest[:12] for t in trials if t.data_digest})
    lines = [f"dataset: {datasets}" + (f", digest {', '.join(digests)}" if digests else "")]
    if split != "test":
        lines.append(f"images: {split}, not test")
    lines.append(f"versions: {', '.join(sorted({t.version for t in trials}))}")
    lines.append(f"seeds: {_seeds(comparison)}")
    lines += shared_lines(comparison.variants, split)
    codes = dict.fromkeys(f"{t.code_digest[:12]} ({t.git})" for t in sorted(trials, key=lambda t: t.code_digest))
    lines.append(f"code: {', '.join(codes)}")
    return (*lines, _cost(trials))


def _cost(trials: Sequence[FinishedTrial]) -> str:
    """What all attempts at the trials took, and what they would have taken if no trial had trained for another one."""
    lost, saved = sum(t.seconds_lost for t in trials) / 3600, sum(t.seconds_saved for t in trials) / 3600
    spent = sum(t.seconds_spent for t in trials) / 3600 + lost
    words = f"{COST}{spent:.3g} compute-hours spent"
    ends = Counter(end for t in trials for end in t.unfinished)
    if ends:
        each = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
        words += f", {lost:.3g} of them in attempts that did not finish ({each})"
    if saved == 0:
        return f"{words}; no training was shared"
    least = "at least " if any(t.seconds_saved < t.seconds_reused for t in trials) else ""
    share = 100 * saved / (spent + saved)
    return f"{words}; {least}{spent + saved:.3g} without sharing, so {least}{saved:.3g} ({share:.0f}%) saved"


def _seeds(comparison: Comparison) -> str:
    variants = comparison.variants
    if comparison.equal_seeds:
        seeds = variants[0].seeds
        return f"{', '.join(map(str, seeds))} (n = {len(seeds)} in every column)"
    each = [f"`{v.label}` n = {len(v.seeds)} ({', '.join(map(str, v.seeds))})" for v in variants]
    common = sorted(set.intersection(*(set(v.seeds) for v in variants)))
    shared = f"in common: {', '.join(map(str, common))}" if common else "none in common"
    return f"not the same in every column: {'; '.join(each)}; {shared}"


def main_notes(
    comparison: Comparison,
    baseline: Mapping[str, object] | None,
    classes: Sequence[str],
    metrics: Mapping[str, str],
    current_code: str | None,
) -> tuple[str, ...]:
    """Everything that stands under the main table."""
    variants = comparison.variants
    notes = [*_differences(comparison), _seed_note(comparison), *_densities(variants), *_flags(variants)]
    notes += _baseline(comparison, baseline)
    notes += no_effects(variants)
    notes += saturated(variants, classes, metrics)
    notes += mean_notes(variants, metrics)
    notes += _stale(variants, current_code) if current_code is not None else []
    return tuple(notes)


def _seed_note(comparison: Comparison) -> str:
    words = f"Seeds: {_seeds(comparison)}; {_spread(comparison.variants)}"
    if comparison.equal_seeds:
        return words
    return f"† {words} A paired test uses only the seeds that a column shares with its baseline."


def _densities(variants: Sequence[VariantColumn]) -> list[str]:
    """Of what the likelihood is a density, where that is not the features themselves."""
    lines = []
    maps = {
        "adapter": "the input adapters cannot be inverted, and their",
        "attention": "patch attention cannot be inverted, and its",
    }
    for name, words in maps.items():
        of = [v.label for v in variants if v.settings.get(f"{name}.enabled") is True]
        if of:
            where = _where(of, len(variants))
            lines.append(f"The density is of adapted features{where}: {words} log-determinant is no part of it.")
    # In v1 and v2 the first task has no adapter.
    later = [
        v.label for v in variants if v.settings.get("adapter.enabled") and v.settings.get("adapter.task0") is False
    ]
    if later:
        lines[0] = f"{lines[0][:-1]}; the first task has no adapter{_where(later, len(variants))}."
    return lines


def _flags(variants: Sequence[VariantColumn]) -> list[str]:
    flags: dict[str, list[str]] = {}
    for variant in variants:
        for flag in dict.fromkeys(flag for t in variant.trials for flag in t.flags):
            flags.setdefault(flag, []).append(variant.label)
    return [f"flag: {flag}{_where(labels, len(variants))}" for flag, labels in flags.items()]


def _where(labels: Sequence[str], columns: int) -> str:
    """Which columns a sentence is about; nothing where it is about all."""
    return "" if len(labels) == columns else f" (in {_code(labels)})"


def mean_notes(variants: Sequence[VariantColumn], metrics: Mapping[str, str]) -> list[str]:
    """Which of `metrics` ({metric: its name}) some class lacks, and which classes their means are over."""
    found: dict[str, list[str]] = {}
    for metric, name in metrics.items():
        without, known = lacking(variants, metric)
        if without:
            shown = mean_name(variants, metric, name) != name
            mean = f"so the mean is over {_code(known)}" if shown else "and so is the mean"
            found.setdefault(f"{'‡ ' * shown}Undefined (null) for {_code(without)}, {mean}", []).append(name)
    return [f"{words}: {', '.join(names)}." for words, names in found.items()]


def _stale(variants: Sequence[VariantColumn], current_code: str) -> list[str]:
    lines = []
    for v in variants:
        stale = [t for t in v.trials if t.code_digest != current_code]
        if stale:
            made = ", ".join(sorted({t.code_digest[:12] for t in stale}))
            count = f"{len(stale)} of {_plural(len(v.trials), 'trial')}"
            lines.append(f"stale: `{v.label}`: {count} made by other code ({made}) than today's ({current_code[:12]}).")
    return [*lines, "`--rerun-stale` runs stale trials anew."] if lines else []


def same_columns(comparison: Comparison) -> tuple[str, ...]:
    """What stands under a further table of the same columns."""
    counts = [str(len(variant.seeds)) for variant in comparison.variants]
    n = f"{counts[0]} in every column" if len(set(counts)) == 1 else ", ".join(counts)
    n += "" if comparison.equal_seeds else ", not the same seeds"
    lines = [f"Columns as in the first table: {_compared(comparison)} Seeds: n = {n}."]
    if comparison.confounds:
        lines.append(f"† Also differing, as listed there: {_code([d.name for d in comparison.confounds])}.")
    return tuple(lines)


def _compared(comparison: Comparison) -> str:
    if not comparison.compared:
        return "no factor differs." if len(comparison.variants) > 1 else "one column, so nothing is compared."
    factors = []
    for key in comparison.compared:
        values = dict.fromkeys(setting_text(v.factors[key]) for v in comparison.variants)
        factors.append(f"`{key}` ({', '.join(values)})")
    return f"compared: {'; '.join(factors)}."


def _differences(comparison: Comparison) -> list[str]:
    lines = [f"What differs between the columns: {_compared(comparison)}"]
    for factor, paths in comparison.bundled.items():
        lines.append(f"`{factor}` sets by itself, and so differs with it: {_code(paths)}.")
    others = [d for d in comparison.confounds if d.name != SEEDS]  # Seeds have a note of their own.
    for d in others:
        why = " (the rule is the same, and the rank moves its number)" if d.name == LORA_SCALING else ""
        lines.append(f"† Not compared, yet different{why}: {_values(d, comparison.variants)}.")
    if not others:
        lines.append("Nothing else differs: settings, data, code, packages, device, dtype and threads are the same.")
    return lines


def _values(difference: Difference, variants: Sequence[VariantColumn]) -> str:
    columns: dict[str, list[str]] = {}
    for value, variant in zip(difference.values, variants, strict=True):
        columns.setdefault(value, []).append(variant.label)
    return f"`{difference.name}`: " + "; ".join(f"{value} in {_code(labels)}" for value, labels in columns.items())


def _spread(variants: Sequence[VariantColumn]) -> str:
    if max(len(v.seeds) for v in variants) == 1:
        return "one seed gives no spread."
    return "cells are mean ± standard deviation over seeds (ddof 1)."


def _baseline(comparison: Comparison, baseline: Mapping[str, object] | None) -> list[str]:
    if not baseline:
        return []
    name = ", ".join(f"{key}={setting_text(value)}" for key, value in baseline.items())
    pairs = list(enumerate(comparison.baselines))
    without = [comparison.variants[k].label for k, of in pairs if of is None]
    if len(without) == len(pairs):
        return [f"No change is given: baseline not finished yet, since no finished trial fits `{name}`."]
    lines = ["Change is (b-a)/a of the means."]
    against = {of for of in comparison.baselines if of is not None}
    if len(against) > 1:
        labels = [variant.label for variant in comparison.variants]
        each = [f"`{labels[k]}` against `{labels[of]}`" for k, of in pairs if of is not None and of != k]
        lines.append(f"Baselines: {'; '.join(each)}.")
    if without:
        # Some column fits; had it been the only one, it would be the baseline of all.
        lines.append(f"No change is given for {_code(without)}: several columns fit `{name}`.")
    return lines


def unfinished(store: ResultStore, selection: set[str] | None, in_tables: set[str], split: str) -> tuple[str, ...]:
    """What was asked for and is not in the tables: counted by reason, named, with its error; and every damaged file."""
    columns = ["trial_id", "attempt", "started_at", "status", "error_kind", "error", "version", "factors", "seed"]
    last: dict[str, dict[str, Any]] = {}
    if selection is None or not selection <= in_tables:
        rows = sorted(rows_of(store.read("attempts", columns)), key=lambda row: (row["started_at"], row["attempt"]))
        last = {row["trial_id"]: row for row in rows}
    wanted = last.keys() if selection is None else selection
    missing = sorted(wanted - in_tables)
    reasons = {trial: _reason(last.get(trial), split) for trial in missing}
    lines = []
    if missing:
        counts = Counter(reason for reason, _ in reasons.values())
        each = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
        lines.append(f"{len(missing)} of {_plural(len(wanted), 'trial')} not in the tables: {each}.")
        for trial in missing[:_SHOWN]:
            reason, which = reasons[trial]
            lines.append(f"`{trial}` {reason}" + (f": {which}" if which else ""))
        if len(missing) > _SHOWN:
            lines.append(f"and {len(missing) - _SHOWN} more.")
    for damage in store.damaged:
        where = damage.path.relative_to(store.folder).as_posix()
        lines.append(f"damaged: `{where}`: {damage.reason}; its trials count as not finished: run the sweep again.")
    return tuple(lines)


def _reason(row: Mapping[str, Any] | None, split: str) -> tuple[str, str]:
    """Why a trial is not in the tables, in a word; and which one it is, with its error."""
    if row is None:
        return "not run", ""
    factors = [f"{key}={setting_text(value)}" for key, value in json.loads(row["factors"]).items()] or [row["version"]]
    which = ", ".join([*factors, f"seed {row['seed']}"])
    if row["status"] == FINISHED:
        return f"finished without {split} rows", which
    error = error_line(row["error_kind"], row["error"])
    return row["status"], ": ".join(filter(None, [which, error]))


def error_line(kind: str | None, error: str | None) -> str:
    """What went wrong, on one line, with its class once."""
    said = [text.partition("\n")[0] for text in (kind, error) if text]
    return said[1] if len(said) == 2 and said[1].startswith(f"{said[0]}: ") else ": ".join(said)
