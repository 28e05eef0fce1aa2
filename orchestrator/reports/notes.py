"""The sentences around the tables: header lines, notes under tables, and what is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from moleflow.errors import counted
from orchestrator.host.durations import duration_text
from orchestrator.reports.differences import (
    LORA_SCALING,
    SEEDS,
    Comparison,
    Difference,
    saturation_notes,
)
from orchestrator.reports.final_metrics import MAIN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.identical_variants import identity_notes
from orchestrator.reports.number_format import code_list, grouped, setting_text
from orchestrator.reports.shared_settings import shared_lines
from orchestrator.reports.variants import VariantColumn, classes_without_and_with, mean_name
from orchestrator.results.schema import FINISHED, rows_of
from orchestrator.results.store import ResultStore

DATASETS = {"embedded": "embedded (generated images)"}
CHANGE = "Change is (b-a)/a of the means, with a the baseline."
COST = "cost: "
"""The beginning of the header line about cost."""
_SHOWN = 10
"""Unfinished trials that are named one by one; the rest are counted."""


def header_lines(comparison: Comparison, split: str) -> tuple[str, ...]:
    """Return the lines under the title: data set first, then versions, seeds, settings and cost."""
    trials = [trial for v in comparison.variants for trial in v.trials]
    if not trials:
        return ("no finished trial yet",)
    datasets = ", ".join(DATASETS.get(name, name) for name in sorted({t.dataset for t in trials}))
    digests = sorted({t.data_digest[:12] for t in trials if t.data_digest})
    lines = [f"dataset: {datasets}" + (f", digest {', '.join(digests)}" if digests else "")]
    if split != "test":
        lines.append(f"images: {split}, not test")
    if any(t.dataset not in DATASETS for t in trials):
        lines.append("not looked for: near copies among the images; `moleflow-sweep data FOLDER` does")
    lines.append(f"versions: {', '.join(sorted({t.version for t in trials}))}")
    lines.append(f"seeds: {_seeds(comparison)}")
    lines += shared_lines(comparison.variants, split)
    codes = dict.fromkeys(f"{t.code_digest[:12]} ({t.git})" for t in sorted(trials, key=lambda t: t.code_digest))
    lines.append(f"code: {', '.join(codes)}")
    return (*lines, _cost(trials))


def untested_lines(judged: Comparison) -> tuple[str, ...]:
    """Return the header of a search that has tested nothing; `judged` has its configurations."""
    n = len(judged.variants)
    were = "was" if n == 1 else "were"
    return (
        f"nothing tested: {counted(n, 'configuration')} {were} judged on validation images alone, and no test image was "
        "opened after the scan of the data folder",
        "to compare them: search.md, or `moleflow-sweep report FOLDER --split validation --all`",
        *header_lines(judged, "validation"),
    )


def _cost(trials: Sequence[FinishedTrial]) -> str:
    """Return the cost of all attempts, and the cost if no trial had reused stages of another."""
    lost, saved = sum(t.seconds_lost for t in trials), sum(t.seconds_saved for t in trials)
    spent = sum(t.seconds_spent for t in trials) + lost
    text = f"{COST}{duration_text(spent)} of compute time spent"
    ends = Counter(end for t in trials for end in t.unfinished)
    if ends:
        each = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
        text += f", {duration_text(lost)} of it in attempts that did not finish ({each})"
    if saved == 0:
        return f"{text}; no training was shared"
    # A trial's own failed attempts may have trained what it reused, which then saved nothing.
    least = "at least " if any(t.seconds_saved < t.seconds_reused for t in trials) else ""
    share = 100 * saved / (spent + saved)
    without = f"{least}{duration_text(spent + saved)} without sharing"
    return f"{text}; {without}, so {least}{duration_text(saved)} ({share:.0f}%) saved"


def _seeds(comparison: Comparison) -> str:
    variants = comparison.variants
    if comparison.equal_seeds:
        seeds = variants[0].seeds
        return f"{', '.join(map(str, seeds))} (n = {len(seeds)} in every variant)"
    each = [f"`{v.label}` n = {len(v.seeds)} ({', '.join(map(str, v.seeds))})" for v in variants]
    common = sorted(set.intersection(*(set(v.seeds) for v in variants)))
    shared = f"in common: {', '.join(map(str, common))}" if common else "none in common"
    return f"not the same in every variant: {'; '.join(each)}; {shared}"


def main_notes(
    comparison: Comparison,
    baseline: Mapping[str, object] | None,
    classes: Sequence[str],
    current_code: str | None,
) -> tuple[str, ...]:
    """Return the notes under the main table; without `current_code` none is about stale trials."""
    variants = comparison.variants
    metrics = {metric: name for metric, name in MAIN.items() if metric != "routing_accuracy"}
    notes = [
        *_differences(comparison),
        _seed_note(comparison),
        *_densities(variants),
        *_flags(variants),
    ]
    notes += _baseline(comparison, baseline)
    notes += identity_notes(variants)
    notes += saturation_notes(variants, classes, metrics)
    notes += mean_notes(variants, metrics)
    notes += _stale(variants, current_code) if current_code is not None else []
    return tuple(notes)


def _seed_note(comparison: Comparison) -> str:
    if max(len(v.seeds) for v in comparison.variants) == 1:
        spread = "One seed gives no standard deviation."
    else:
        spread = "Cells are mean ± standard deviation over seeds (ddof 1)."
    text = f"Seeds: {_seeds(comparison)}. {spread}"
    if comparison.equal_seeds:
        return text
    return f"† {text} A paired test uses only the seeds that a column shares with its baseline."


def _densities(variants: Sequence[VariantColumn]) -> list[str]:
    """Note for which columns the likelihood is not a density of the backbone's features."""
    lines = []
    reasons = {
        "adapter": "the input adapters cannot be inverted, so their",
        "attention": "patch attention cannot be inverted, so its",
    }
    for group, reason in reasons.items():
        labels = [v.label for v in variants if v.settings.get(f"{group}.enabled") is True]
        if labels:
            where = _where(labels, len(variants))
            lines.append(f"The density is of adapted features{where}: {reason} log-determinant is left out.")
    # In v1 and v2 the first task has no adapter.
    later = [
        v.label for v in variants if v.settings.get("adapter.enabled") and v.settings.get("adapter.task0") is False
    ]
    if later:
        lines[0] += f" The first task has no adapter{_where(later, len(variants))}."
    return lines


def _flags(variants: Sequence[VariantColumn]) -> list[str]:
    flags = grouped((flag, v.label) for v in variants for flag in dict.fromkeys(f for t in v.trials for f in t.flags))
    classes = {name for v in variants for name in v.classes}
    # The same flag of several classes is one line.
    lines: dict[tuple[str, str], list[str]] = {}
    for flag, labels in flags.items():
        name, colon, text = flag.partition(": ")
        own = colon and name in classes
        lines.setdefault((text if own else flag, _where(labels, len(variants))), []).extend([name] if own else [])
    return [f"flag: {', '.join(names)}{': ' * bool(names)}{text}{where}" for (text, where), names in lines.items()]


def _where(labels: Sequence[str], columns: int) -> str:
    """Return ` (in …)` for a sentence about some of the columns; empty if it is about all."""
    return "" if len(labels) == columns else f" (in {code_list(labels)})"


def mean_notes(variants: Sequence[VariantColumn], metrics: Mapping[str, str]) -> list[str]:
    """Note which of `metrics` ({metric: its name}) classes lack, and the classes of their means."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for metric, name in metrics.items():
        without, known = classes_without_and_with(variants, metric)
        if without:
            marked = mean_name(variants, metric, name) != name
            mean = f"The mean is over {code_list(known)}." if marked else "The mean is undefined too."
            lines.setdefault(("‡ " * marked, code_list(without), mean), []).append(name)
    return [
        f"{mark}Undefined (null) for {without}: {', '.join(names)}. {mean}"
        for (mark, without, mean), names in lines.items()
    ]


def _stale(variants: Sequence[VariantColumn], current_code: str) -> list[str]:
    columns: dict[str, list[str]] = {}
    for v in variants:
        stale = [t for t in v.trials if t.code_digest != current_code]
        if stale:
            made = ", ".join(sorted({t.code_digest[:12] for t in stale}))
            count = f"{len(stale):,} of {counted(len(v.trials), 'trial')}"
            text = f"stale: other code ({made}) than today's ({current_code[:12]}) made {count}"
            columns.setdefault(text, []).append(v.label)
    every = len(columns) == 1 and len(next(iter(columns.values()))) == len(variants) > 1
    lines = [f"{text} in {'every variant' if every else code_list(labels)}." for text, labels in columns.items()]
    return [*lines, "`--rerun-stale` runs stale trials again."] if lines else []


def same_columns(comparison: Comparison) -> tuple[str, ...]:
    """Return the notes under a further table of the same variants."""
    counts = [str(len(variant.seeds)) for variant in comparison.variants]
    n = f"{counts[0]} in every variant" if len(set(counts)) == 1 else ", ".join(counts)
    n += "" if comparison.equal_seeds else ", not the same seeds"
    lines = [f"Variants as in the first table, whose notes say what is compared. Seeds: n = {n}."]
    if comparison.confounds:
        names = code_list([difference.name for difference in comparison.confounds])
        lines.append(f"† Confounds, with their values under the first table: {names}.")
    return tuple(lines)


def _compared(comparison: Comparison) -> str:
    if not comparison.compared:
        return "nothing, since no factor differs." if len(comparison.variants) > 1 else "nothing, with one column."
    factors = []
    for key in comparison.compared:
        values = dict.fromkeys(setting_text(v.factors[key]) for v in comparison.variants)
        factors.append(f"`{key}` ({', '.join(values)})")
    return f"{'; '.join(factors)}."


def _differences(comparison: Comparison) -> list[str]:
    lines = [f"Compared: {_compared(comparison)}"]
    if comparison.version_sets:
        lines.append(f"Set by `version`, and so different with it: {code_list(comparison.version_sets)}.")
    confounds = [d for d in comparison.confounds if d.name != SEEDS]  # Seeds have a note of their own.
    for difference in confounds:
        why = " (the rule is the same, but its number changes with the rank)" if difference.name == LORA_SCALING else ""
        lines.append(f"† Confounded by `{difference.name}`{why}: {_values(difference, comparison.variants)}.")
    if not confounds:
        lines.append("Nothing else differs: settings, data, code, packages, device, dtype and threads are equal.")
    return lines


def _values(difference: Difference, variants: Sequence[VariantColumn]) -> str:
    columns = grouped(zip(difference.values, (variant.label for variant in variants), strict=True))
    return "; ".join(f"{value} in {code_list(labels)}" for value, labels in columns.items())


def _baseline(comparison: Comparison, baseline: Mapping[str, object] | None) -> list[str]:
    if not baseline:
        return []
    name = ", ".join(f"{key}={setting_text(value)}" for key, value in baseline.items())
    pairs = list(enumerate(comparison.baselines))
    without = [comparison.variants[k].label for k, of in pairs if of is None]
    if len(without) == len(pairs):
        return [f"No change is given: no finished trial fits the baseline `{name}` yet."]
    lines = [CHANGE]
    if len({of for of in comparison.baselines if of is not None}) > 1:
        labels = [variant.label for variant in comparison.variants]
        each = [f"`{labels[k]}` against `{labels[of]}`" for k, of in pairs if of is not None and of != k]
        lines += [f"Baselines: {'; '.join(each)}."] if each else []
    if without:
        # Several columns fit: a single one would be the baseline of all.
        lines.append(f"No change is given for {code_list(without)}: several columns fit the baseline `{name}`.")
    return lines


def unfinished(store: ResultStore, selection: set[str] | None, in_tables: set[str], split: str) -> tuple[str, ...]:
    """Note the trials of `selection` (None: all) outside the tables, and every damaged file.

    Trials are counted by reason, and the first ones named with their error.
    """
    # Reading all attempts is slow and not needed where every trial is in the tables.
    needed = selection is None or not selection <= in_tables
    last = last_attempts(store, ["version", "factors", "seed"]) if needed else {}
    wanted = last.keys() if selection is None else selection
    missing = sorted(wanted - in_tables)
    reasons = {trial: _reason(last.get(trial), split) for trial in missing}
    lines = []
    if missing:
        counts = Counter(reason for reason, _ in reasons.values())
        each = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
        lines.append(f"{len(missing):,} of {counted(len(wanted), 'trial')} not in the tables: {each}.")
        for trial in missing[:_SHOWN]:
            reason, which = reasons[trial]
            lines.append(f"`{trial}` {reason}" + (f": {which}" if which else ""))
        if len(missing) > _SHOWN:
            lines.append(f"and {len(missing) - _SHOWN:,} more.")
    return (*lines, *damage_notes(store))


def damage_notes(store: ResultStore) -> tuple[str, ...]:
    """Return a line about each damaged part that the store has found so far."""
    return tuple(
        f"damaged: `{damage.path.relative_to(store.folder).as_posix()}`: {damage.reason}; "
        "its trials count as not finished: run the sweep again."
        for damage in store.damaged
    )


def last_attempts(store: ResultStore, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the last attempt of each trial: these columns, its status and its error."""
    columns = ["trial_id", "attempt", "started_at", "status", "error_kind", "error", *columns]
    rows = sorted(rows_of(store.read("attempts", columns)), key=lambda row: (row["started_at"], row["attempt"]))
    return {row["trial_id"]: row for row in rows}


def _reason(row: Mapping[str, Any] | None, split: str) -> tuple[str, str]:
    """Return in a word why a trial is not in the tables, and its factors with its error."""
    if row is None:
        return "not run", ""
    factors = [f"{key}={setting_text(value)}" for key, value in json.loads(row["factors"]).items()] or [row["version"]]
    which = ", ".join([*factors, f"seed {row['seed']}"])
    if row["status"] == FINISHED:
        return f"finished without {split} rows", which
    error = error_line(row["error_kind"], row["error"])
    return row["status"], ": ".join(filter(None, [which, error]))


def error_line(kind: str | None, error: str | None) -> str:
    """Return an error on one line, with the name of its class once."""
    texts = [text.partition("\n")[0] for text in (kind, error) if text]
    return texts[1] if len(texts) == 2 and texts[1].startswith(f"{texts[0]}: ") else ": ".join(texts)
