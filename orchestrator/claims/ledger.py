"""The ledger of claims: each contrast found among stored trials, measured, and judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from moleflow.errors import counted
from orchestrator.claims.claims import (
    DECIDED,
    VERDICTS,
    Rules,
    Stated,
    StatedClaim,
    Verdict,
    rules_digest,
    stated_claims,
)
from orchestrator.claims.contrasts import ContrastPair, contrast_pairs, describe_setups, settings_with_defaults
from orchestrator.claims.judging import Judgement, judge_claim, run_of, stands_in_family
from orchestrator.records.sweep_folder import read_sweep_folder, refuse_duplicates
from orchestrator.reports.bootstrap import RESAMPLES, SEEDS_DRAWN_FROM, TrialScores, read_scores
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials
from orchestrator.reports.notes import damage_notes
from orchestrator.reports.number_format import change_text, difference_text, grouped, interval_text, metric_text
from orchestrator.reports.paired import PairedComparison, compare_paired
from orchestrator.reports.render import ABSENT, Cell, Table, markdown_list, markdown_table
from orchestrator.reports.variants import VariantColumn, group_variants
from orchestrator.reports.verdicts import POWER
from orchestrator.reports.yardstick import set_apart
from orchestrator.results.store import ResultStore

_SPLIT = "test"
_AT_ONCE = "also simultaneously"
_SHOWN = 8
"""Confounds that are named; the rest are counted."""
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
    "What would decide it",
)


@dataclass(frozen=True)
class ClaimRow:
    """One claim measured under one setup, and its verdict.

    Attributes:
        setup: data set, classes and settings; empty if nothing was measured.
        before, after: labels of the two variants.
        to_decide: the sentence that says what would decide an undecided row.
        started_at: start of the first of its trials.
        reused: whether any trial reused stages from the cache.
    """

    claim: StatedClaim
    verdict: Verdict
    reason: str
    to_decide: str = ""
    setup: str = ""
    before: str = ""
    after: str = ""
    measured: PairedComparison | None = None
    started_at: datetime | None = None
    reused: bool = False


def build_ledger(
    sources: Sequence[tuple[ResultStore, set[str] | None]], stated: Stated | None = None
) -> list[ClaimRow]:
    """Return one row for each claim and setup; a claim without measurement names its sweep.

    Args:
        sources: stores, each with the ids of the trials to take from it (None = all). A contrast
            may span stores.
        stated: claims and rules; None = those of claims.yaml.

    Raises:
        InvalidInput: there is no store in a folder.
    """
    stated = stated or stated_claims()
    trials: dict[str, FinishedTrial] = {}
    homes: dict[str, ResultStore] = {}
    for store, selection in sources:
        for trial in set_apart(finished_trials(store, selection, _SPLIT))[0]:
            if trial.trial_id not in trials:
                trials[trial.trial_id], homes[trial.trial_id] = trial, store
    variants = group_variants(list(trials.values()))
    tested = {claim.id: _tested_pairs(claim, variants) for claim in stated.claims}
    by_id = {claim.id: claim for claim in stated.claims}
    losses = {claim.id: claim.loss(by_id[claim.recovers]) for claim in stated.claims if claim.recovers}
    lost = {name: contrast_pairs(loss, variants) for name, loss in losses.items()}
    both = [*tested.values(), *lost.values()]
    needed = {t.trial_id for of_claim in both for pair in of_claim for v in (pair.before, pair.after) for t in v.trials}
    # Scores are by far the largest table: read only those of contrasts, from one store each.
    scores: dict[str, TrialScores] = {}
    starts = _first_starts([store for store, _ in sources])
    for store, _ in sources:
        scores |= read_scores(store, {trial_id for trial_id in needed if homes[trial_id] is store}, _SPLIT)

    def _without_loss(row: ClaimRow, before: VariantColumn) -> ClaimRow:
        """Return the row as undecided if there is no loss to recover from."""
        loss, ids = losses[row.claim.id], {trial.trial_id for trial in before.trials}
        pairs = [pair for pair in lost[row.claim.id] if ids & {trial.trial_id for trial in pair.after.trials}]
        found = [_row(loss, stated.rules, pair, "", scores, starts) for pair in pairs]
        if any(of.verdict == "held" for of in found):
            return row
        if not found:
            reason, to_decide = "no loss was measured to recover from", f"{run_of(loss)} would tell"
        else:
            verdicts = "; ".join(f"that of {loss.contrast} is {of.verdict} ({of.reason})" for of in found)
            reason = f"no loss to recover from: {verdicts}"
            of_losses = "; ".join(of.to_decide for of in found if of.to_decide)
            to_decide = f"of the loss: {of_losses}" if of_losses else "no run would tell: there is no loss"
        return replace(row, verdict="undecided", reason=reason, to_decide=to_decide)

    rows = []
    for claim in stated.claims:
        found = tested[claim.id]
        if not found:
            rows.append(ClaimRow(claim, "undecided", "not measured", f"{run_of(claim)} would tell"))
        for pair, setup in zip(found, describe_setups(found), strict=True):
            row = _row(claim, stated.rules, pair, setup, scores, starts)
            needs_loss = claim.id in losses and row.verdict in ("held", "undecided")
            rows.append(_without_loss(row, pair.before) if needs_loss else row)
    return rows


def read_ledger(places: Sequence[Path], everything: bool = False) -> tuple[list[ClaimRow], tuple[str, ...]]:
    """Return the ledger over the results folders of sweeps, of their latest plans or `everything`.

    Returns:
        Its rows, and a line about each damaged part, whose trials are not in them.

    Raises:
        InvalidInput: a folder holds no sweep, or is given twice.
    """
    refuse_duplicates(places, "claims")
    plans = [set(read_sweep_folder(place).trial_ids) for place in places]
    stores = [ResultStore(place) for place in places]
    rows = build_ledger([(store, None if everything else of) for store, of in zip(stores, plans, strict=True)])
    return rows, tuple(f"{store.folder}: {line}" for store in stores for line in damage_notes(store))


def _row(
    claim: StatedClaim,
    rules: Rules,
    pair: ContrastPair,
    setup: str,
    scores: Mapping[str, TrialScores],
    starts: Mapping[str, datetime],
) -> ClaimRow:
    before, after = pair.before, pair.after
    names = claim.select_classes(after.trials[0].classes)
    measured = compare_paired([(before, after)], scores, [names], claim.metric)[0]
    judgement = _refusal(claim, rules, pair) or judge_claim(claim, rules, measured)
    known = () if measured.difference is None else measured.seeds
    trials = [trial for v in (before, after) for trial in v.trials if trial.seed in known]
    first = min((starts[trial.trial_id] for trial in trials), default=None)
    reused = any(trial.seconds_reused > 0 for trial in trials)
    return ClaimRow(claim, *judgement, setup, before.label, after.label, measured, first, reused)


def _first_starts(stores: Sequence[ResultStore]) -> dict[str, datetime]:
    """Return the first start of each finished trial: it decides which rules are later."""
    starts: dict[str, datetime] = {}
    for store in stores:
        for trial_id, of in store.finished().items():
            starts[trial_id] = min(of.started_at, starts.get(trial_id, of.started_at))
    return starts


def _tested_pairs(claim: StatedClaim, variants: Sequence[VariantColumn]) -> list[ContrastPair]:
    """Return the contrasts that are about the claim, or else those that lack its settings."""
    pairs = contrast_pairs(claim, variants)
    return [pair for pair in pairs if not _missing_settings(claim, pair)] or pairs


def _missing_settings(claim: StatedClaim, pair: ContrastPair) -> list[str]:
    """Return the settings that the claim is about and that the contrast was not measured with."""
    settings = settings_with_defaults(pair.after)
    return [
        f"{path} {pattern}" for path, pattern in claim.only.items() if not fnmatchcase(settings.get(path, ""), pattern)
    ]


def _refusal(claim: StatedClaim, rules: Rules, pair: ContrastPair) -> Judgement | None:
    """Return why this contrast cannot settle the claim, and the run that can; None if it can."""
    needed = _missing_settings(claim, pair)
    reasons = [f"a claim about {setting} only" for setting in needed]
    differing, of_environment = pair.confounds(), pair.environment_confounds()
    if confounds := [*differing, *of_environment]:
        more = f" and {len(confounds) - _SHOWN} more" if len(confounds) > _SHOWN else ""
        reasons.append(f"confounded by {', '.join(confounds[:_SHOWN])}{more}")
        needed += ["both on one base"] * bool(differing)
        needed += ["both on one machine with the same code and packages"] * bool(of_environment)
    trials = [trial for v in (pair.before, pair.after) for trial in v.trials]
    none = rules.no_evidence
    generated = dict.fromkeys(none.datasets[t.dataset] for t in trials if t.dataset in none.datasets)
    flags = [flag for trial in trials for flag in trial.flags]
    flagged = dict.fromkeys(words for flag in flags for start, words in none.flags.items() if flag.startswith(start))
    reasons += [*generated, *flagged]
    needed += ["real images"] * bool(generated) + ["pretrained weights"] * bool(flagged)
    if not reasons:
        return None
    run = run_of(claim, " --out NEW" * bool(of_environment))
    return Judgement("undecided", "; ".join(reasons), f"{run} would tell, with {', '.join(needed)}")


def ledger_markdown(rows: Sequence[ClaimRow], rules: Rules, missing: Sequence[str] = ()) -> str:
    """Return the ledger as a Markdown document, with measured claims first.

    Args:
        rows: the ledger.
        rules: the rules by which its claims were judged.
        missing: lines about trials that are not in the table.
    """
    family = sum(row.measured is not None and row.measured.low is not None for row in rows)
    standing = [row for row in rows if family > 1 and _stands(row, rules, family)]
    ordered = sorted(rows, key=lambda row: row.measured is None)
    body = tuple((row.claim.id, _cells(row, row in standing)) for row in ordered)
    table = Table("Claims of the update notes", _HEADER, body, tuple(_notes(rows, rules, family)))
    counts = Counter(row.verdict for row in rows)
    at_once = Counter(row.verdict for row in standing)
    shares = {
        verdict: f" ({at_once[verdict]} {_AT_ONCE})" if counts[verdict] and family > 1 else "" for verdict in DECIDED
    }
    summary = ", ".join(f"{counts[verdict]} {verdict}{shares.get(verdict, '')}" for verdict in VERDICTS)
    (line,) = markdown_list([f"{counted(len(rows), 'row')}: {summary}"])
    parts = [f"# Ledger of claims\n\n{line}\n", markdown_table(table)]
    if missing:
        parts.append("\n".join(["## Not in the table", "", *markdown_list(missing), ""]))
    return "\n".join(parts)


def _stands(row: ClaimRow, rules: Rules, family: int) -> bool:
    """Say whether a decided row keeps its verdict when all intervals of the ledger hold at once."""
    return (
        row.verdict in DECIDED and row.measured is not None and stands_in_family(row.claim, rules, row.measured, family)
    )


def _cells(row: ClaimRow, stands: bool) -> tuple[Cell, ...]:
    of, claim = row.measured or PairedComparison(()), row.claim
    size = (
        f", by {claim.size_text()}" if claim.size else f" (the notes name {claim.size_text()})" if claim.named else ""
    )
    measure = claim.metric.replace("_", " ").replace("auroc", "AUROC")
    change = None if of.difference is None or not of.baseline else of.difference / of.baseline
    texts = (
        f"{claim.claim} ({claim.notes})",
        claim.contrast,
        f"{measure}, {_CLASSES[claim.classes]}: {claim.direction}{size}",
        f"{row.setup}: {row.before} to {row.after}" if row.setup else ABSENT,
        str(of.n) if row.measured else ABSENT,
        ABSENT
        if of.baseline is None
        else f"{difference_text(of.difference)} from {metric_text(of.baseline)} ({change_text(change)})",
        ABSENT if of.low is None else f"{interval_text(of.low, of.high)}, over {of.resampled}",
        f"{row.verdict}: {row.reason}{f'; {_AT_ONCE}' if stands else ''}",
        row.to_decide or ABSENT,
    )
    return tuple(Cell(words, bold=k == len(texts) - 2 and row.verdict != "undecided") for k, words in enumerate(texts))


_CLASSES = {"mean": "mean of all classes", "first": "first class", "later": "mean of the classes after the first"}


def _notes(rows: Sequence[ClaimRow], rules: Rules, family: int) -> list[str]:
    claims = {row.claim.id: row.claim for row in rows}
    digest = rules_digest(rules, list(claims.values()))[:12]
    notes = [
        f"Claims and rules: claims.yaml, digest {digest} of their content; `smallest_effect` {rules.smallest_effect:g}, "
        f"`least_seeds` {rules.least_seeds}."
    ]
    periods = grouped(((stated.since, stated.until), stated.rule) for stated in rules.stated)
    measured = [row for row in rows if row.started_at is not None]
    for (since, until), words in periods.items():
        early = _named([row for row in measured if row.started_at is not None and row.started_at < since], rows)
        began = f"Measured rows that began before: {early or 'none'}." if until is None else "No longer applied."
        notes.append(
            f"Rules since {_date(since)}{f' until {_date(until)}' if until else ''}: {'; '.join(words)}. {began}"
        )
    if reused := _named([row for row in measured if row.reused], rows):
        notes.append(f"These rows reuse trained tasks, which may be older than the start of the rows: {reused}.")
    at_once = (
        f" A verdict holds {_AT_ONCE} if it stays when the {family} intervals of this ledger are made so wide that all hold "
        "at once in 95 % of ledgers (Bonferroni)."
    )
    return [
        *notes,
        f"95 % intervals of image AUROC: {RESAMPLES:,} paired bootstrap resamples of the test images within each class, and of "
        f"the seeds if {SEEDS_DRAWN_FROM} or more are in common. All other metrics: t interval over the seeds, because their "
        "values are not stored image by image.",
        *_monte_carlo_note(rows),
        f"More seeds: as many as would decide with a power of {POWER:g}, if the differences go on with the mean and the spread "
        "seen so far. IMAGES is the folder of your images, NEW a new results folder. `--base` runs a sweep on another base than "
        "its own.",
        "Change is (b-a)/a. The rules judge each interval by itself: among many claims, some intervals miss the true "
        f"difference by chance.{at_once if family > 1 else ''}",
    ]


def _monte_carlo_note(rows: Sequence[ClaimRow]) -> list[str]:
    """Note the largest Monte Carlo error of any bootstrap bound, if there is any."""
    worst = max(
        (max(of.low_error, of.high_error) for row in rows if (of := row.measured) is not None and of.low is not None),
        default=0.0,
    )
    return [f"Monte Carlo standard error of the bootstrap's bounds: at most {worst:.5f}."] if worst else []


def _named(chosen: Sequence[ClaimRow], rows: Sequence[ClaimRow]) -> str:
    """Return the claims of the `chosen` rows, with the setup if a claim has several."""
    several = {id for id, n in Counter(row.claim.id for row in rows).items() if n > 1}
    return "; ".join(f"`{row.claim.id}`" + (f" ({row.setup})" if row.claim.id in several else "") for row in chosen)


def _date(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
