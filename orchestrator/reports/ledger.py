"""The ledger of claims: each claim's contrast found among stored trials, measured, and judged by the stated rules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from orchestrator import folder
from orchestrator.reports.against import interval_text, signed
from orchestrator.reports.bootstrap import RESAMPLES, SEEDS_DRAWN_FROM, TrialScores, read_scores
from orchestrator.reports.cells import change_text, number
from orchestrator.reports.claims import VERDICTS, Claim, Rules, Settings, Stated, Verdict, judge, stated_claims
from orchestrator.reports.render import ABSENT, Cell, Table, markdown_list, markdown_table
from orchestrator.reports.statistics import NO_EFFECT, Paired, paired
from orchestrator.reports.variants import METRICS, FinishedTrial, Variant, finished_trials, group, plain, text
from orchestrator.results.store import ResultStore

_SPLIT = "test"
_SHOWN = 8
"""Confounds that are named; the rest are counted."""
_NAMED = 4
"""Classes that are named; of more, only the number is."""
_HEADER = (
    "Claim",
    "In the notes",
    "Contrast",
    "Expected",
    "Measured on",
    "n",
    "Difference",
    "95 % interval",
    "Verdict",
)


@dataclass(frozen=True)
class ClaimRow:
    """One claim on one footing: what was measured, and what follows.

    `footing` says what it was measured on, empty where nothing was; `before` and `after` are the variants' labels.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    footing: str = ""
    before: str = ""
    after: str = ""
    measured: Paired | None = None


def ledger(sources: Sequence[tuple[ResultStore, set[str] | None]], stated: Stated | None = None) -> list[ClaimRow]:
    """One row for each claim and each footing that it was measured on; one that says what to run where there is none.

    Args:
        sources: stores, each with the ids of the trials to take from it; None takes all. A contrast may span stores.
        stated: claims and rules; those of claims.yaml when left out.

    Raises:
        InvalidInput: there is no store in a folder.

    """
    stated = stated or stated_claims()
    trials: dict[str, FinishedTrial] = {}
    homes: dict[str, ResultStore] = {}
    for store, selection in sources:
        for trial in finished_trials(store, selection, _SPLIT):
            if trial.trial_id not in trials:
                trials[trial.trial_id], homes[trial.trial_id] = trial, store
    variants = group(list(trials.values()))
    pairs = {claim.id: _pairs(claim, variants) for claim in stated.claims}
    needed = {t.trial_id for of_claim in pairs.values() for pair in of_claim for v in pair for t in v.trials}
    scores: dict[str, TrialScores] = {}
    for store, _ in sources:
        scores |= read_scores(store, {trial_id for trial_id in needed if homes[trial_id] is store}, _SPLIT)
    rows = []
    for claim in stated.claims:
        if not pairs[claim.id]:
            missing = [*_unmeasured(claim), f"needs {claim.sweep}"]
            rows.append(ClaimRow(claim, "undecided", "; ".join(missing)))
        footings = _footings([after for _, after in pairs[claim.id]], claim.knobs)
        for (before, after), footing in zip(pairs[claim.id], footings, strict=True):
            rows.append(_row(claim, stated.rules, before, after, footing, scores))
    return rows


def read_ledger(places: Sequence[Path], everything: bool = False) -> list[ClaimRow]:
    """The ledger over the results folders of sweeps.

    Args:
        places: results folders.
        everything: every stored trial, not only those of each folder's latest plan.

    Raises:
        InvalidInput: a folder holds no sweep.

    """
    sources: list[tuple[ResultStore, set[str] | None]] = []
    for place in places:
        selection = set(folder.read(place).trial_ids)
        sources.append((ResultStore(place), None if everything else selection))
    return ledger(sources)


def _pairs(claim: Claim, variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """The pairs that test the claim, one a footing; where settings differ beside it in all, the nearest pair."""
    settings = [_settings(v) for v in variants]
    after = [k for k in range(len(variants)) if _fits(settings[k], claim.after)]
    chosen: dict[str, tuple[int, int]] = {}
    nearest: tuple[int, int, int] | None = None
    for values in (claim.before, claim.instead):
        found: dict[str, tuple[int, int]] = {}
        for a in (k for k in range(len(variants)) if values is not None and _fits(settings[k], values)):
            for b in after:
                apart = len(_apart(settings[a], settings[b], claim.knobs))
                nearest = min(nearest or (apart, a, b), (apart, a, b))
                if apart == 0:
                    key = json.dumps(_rest(settings[b], claim.knobs), sort_keys=True)
                    found[key] = max(found.get(key, (a, b)), (a, b), key=lambda pair: _fitness(pair, variants))
        chosen = found | chosen  # `instead` serves only the footings that have no `before`
    if not chosen and nearest is not None:
        chosen[""] = nearest[1:]
    return [(variants[a], variants[b]) for a, b in chosen.values()]


def _fitness(pair: tuple[int, int], variants: Sequence[Variant]) -> tuple[int, bool, int, int]:
    """Of pairs on one footing the one with the most seeds in common, then of one version, then the first."""
    a, b = (variants[k] for k in pair)
    same = a.trials[0].version == b.trials[0].version
    return len(set(a.seeds) & set(b.seeds)), same, -pair[0], -pair[1]


def _settings(variant: Variant) -> dict[str, str]:
    """The configuration as {dotted path: text}; a knob that did not exist yet when it ran had today's default."""
    from moleflow.knobs import fields

    defaults = {path: field.get_default(call_default_factory=True) for path, field in fields().items()}
    defaults.pop("seed", None)
    return {path: text(plain(value)) for path, value in (defaults | dict(variant.settings)).items()}


def _fits(settings: Mapping[str, str], values: Settings) -> bool:
    return all(settings.get(path) == text(value) for path, value in values.items())


def _rest(settings: Mapping[str, str], knobs: frozenset[str]) -> dict[str, str]:
    return {path: value for path, value in settings.items() if path not in knobs}


def _apart(a: Mapping[str, str], b: Mapping[str, str], knobs: frozenset[str]) -> list[str]:
    """The settings beside `knobs` that are not equal."""
    return sorted(path for path in (a.keys() | b.keys()) - knobs if a.get(path) != b.get(path))


def _confounds(claim: Claim, before: Variant, after: Variant) -> list[str]:
    """What differs beside the contrast: settings, and the environment of the trials that are paired by seed."""
    found = _apart(_settings(before), _settings(after), claim.knobs)
    of_a, of_b = ({trial.seed: trial.environment for trial in v.trials} for v in (before, after))
    pairs = [(of_a[seed], of_b[seed]) for seed in of_a.keys() & of_b.keys()]
    names = {name for pair in pairs for environment in pair for name in environment}
    return [*found, *sorted(name for name in names if any(x.get(name) != y.get(name) for x, y in pairs))]


def _footings(variants: Sequence[Variant], knobs: frozenset[str]) -> list[str]:
    """What each was measured on: data set, classes, backbone, epochs, and whatever else tells these footings apart."""
    settings = [_settings(v) for v in variants]
    paths = sorted({path for of in settings for path in of} - knobs)
    varying = [path for path in paths if len({of.get(path) for of in settings}) > 1]
    usual = ("data.tasks", "data_digests", "backbone.model", "training.epochs")
    found = []
    for variant, of in zip(variants, settings, strict=True):
        classes = variant.trials[0].classes
        which = ", ".join(classes) if len(classes) <= _NAMED else f"{len(classes)} classes"
        words = [f"{' + '.join(sorted({t.dataset for t in variant.trials}))} ({which})", of["backbone.model"]]
        words.append(f"{of['training.epochs']} epochs")
        words += [f"{path}={of.get(path)}" for path in varying if path not in usual]
        found.append(", ".join(words))
    return found


def _row(
    claim: Claim, rules: Rules, before: Variant, after: Variant, footing: str, scores: Mapping[str, TrialScores]
) -> ClaimRow:
    names = claim.of(after.trials[0].classes)
    measured = paired([(before, after)], scores, [names], claim.metric)[0]
    verdict, reason = _refusal(claim, rules, before, after, measured) or judge(claim, rules, measured)
    return ClaimRow(claim, verdict, reason, footing, before.label, after.label, measured)


def _refusal(
    claim: Claim, rules: Rules, before: Variant, after: Variant, measured: Paired
) -> tuple[Verdict, str] | None:
    """Why this contrast cannot settle the claim, whatever its numbers; None when it can."""
    reasons = _unmeasured(claim)
    settings = _settings(after)
    for path, pattern in claim.only.items():
        if not fnmatchcase(settings.get(path, ""), pattern):
            reasons.append(f"a claim about {path} {pattern} only")
    confounds = _confounds(claim, before, after)
    if confounds:
        more = f" and {len(confounds) - _SHOWN} more" if len(confounds) > _SHOWN else ""
        reasons.append(f"confounded by {', '.join(confounds[:_SHOWN])}{more}")
    trials = [trial for v in (before, after) for trial in v.trials]
    reasons += _first(word for t in trials for name, word in rules.no_evidence.datasets.items() if t.dataset == name)
    flags = [flag for trial in trials for flag in trial.flags]
    reasons += _first(
        word for flag in flags for start, word in rules.no_evidence.flags.items() if flag.startswith(start)
    )
    if measured.verdict == NO_EFFECT:
        reasons.append("no effect: the setting did not reach the scores (equal digests)")
    elif measured.baseline == 1 and measured.difference == 0:
        reasons.append("saturated at 1 in both: no evidence")
    return ("undecided", "; ".join(reasons)) if reasons else None


def _unmeasured(claim: Claim) -> list[str]:
    return [] if claim.metric in METRICS else [f"no column holds {claim.metric}"]


def _first(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def ledger_markdown(rows: Sequence[ClaimRow], rules: Rules) -> str:
    """The ledger as a Markdown document, what was measured first."""
    ordered = sorted(rows, key=lambda row: row.measured is None)
    table = Table(
        "Claims of the update notes", _HEADER, tuple((row.claim.id, _cells(row)) for row in ordered), _notes(rules)
    )
    counts = Counter(row.verdict for row in rows)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return "\n".join(
        ["# Ledger of claims", "", *markdown_list([f"{len(rows)} rows: {summary}"]), "", markdown_table(table)]
    )


def _cells(row: ClaimRow) -> tuple[Cell, ...]:
    of, claim = row.measured or Paired(()), row.claim
    size = "" if claim.size is None else f", by {change_text(claim.size[0])} to {change_text(claim.size[1])}"
    measure = claim.metric.replace("_", " ").replace("auroc", "AUROC")
    change = None if of.difference is None or not of.baseline else of.difference / of.baseline
    texts = (
        f"{claim.claim} ({claim.notes})",
        claim.contrast,
        f"{measure}, {_CLASSES[claim.classes]}: {claim.direction}{size}",
        f"{row.footing}: {row.before} to {row.after}" if row.footing else ABSENT,
        str(of.n) if row.measured else ABSENT,
        ABSENT
        if of.baseline is None
        else f"{signed(of.difference)} from {number(of.baseline)} ({change_text(change)})",
        ABSENT if of.low is None else f"{interval_text(of.low, of.high)}, over {of.resampled}",
        f"{row.verdict}: {row.reason}",
    )
    return tuple(Cell(words, bold=k == len(texts) - 1 and row.verdict != "undecided") for k, words in enumerate(texts))


_CLASSES = {"mean": "mean of all classes", "first": "first class", "later": "mean of the classes after the first"}


def _notes(rules: Rules) -> tuple[str, ...]:
    return (
        "held: the whole interval lies on the claimed side of zero, and overlaps the size where the notes name one. refuted: it "
        f"lies on the other side, or within {rules.negligible:g} of zero. undecided: anything else, also with fewer than "
        f"{rules.least_seeds} seeds in common, a confound, or nothing to measure with. Claims and rules: claims.yaml, written "
        "before the runs.",
        f"95 % intervals of image AUROC: {RESAMPLES:,} paired bootstrap resamples of test images within classes, and of seeds "
        f"from {SEEDS_DRAWN_FROM} in common on. With fewer, the t interval over the seeds has to give the same verdict. "
        "Intervals of pixel AUROC: t over the seeds, since scores of pixels are not stored.",
        "Change is (b-a)/a. The rules look at intervals, one claim at a time: among many claims some intervals miss by chance.",
    )
