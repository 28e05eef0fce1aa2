"""The verdict of the stated rules on one measured claim, and what would decide an undecided one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from moleflow.errors import counted
from orchestrator.claims.claims import Rules, StatedClaim, Verdict
from orchestrator.reports.paired import SEEDS, PairedComparison
from orchestrator.reports.statistics import t_interval, widening
from orchestrator.reports.verdicts import (
    DISAGREE,
    ERRORS,
    FEW_SEEDS,
    MONTE_CARLO,
    NO_INTERVAL,
    OPEN,
    Bounds,
    Evidence,
    Outcome,
    decide,
    more_seeds_text,
    place,
)


class Judgement(NamedTuple):
    """A verdict, its reason, and the sentence that says what would decide an undecided claim."""

    verdict: Verdict
    reason: str
    to_decide: str = ""


def judge_claim(claim: StatedClaim, rules: Rules, measured: PairedComparison) -> Judgement:
    """Return the judgement of the rules on an unconfounded measurement.

    The verdict is that of `decide`, with the smallest effect of interest as its zone and margin.

    Raises:
        ValueError: a difference or a bound is NaN or infinite.
    """
    if measured.baseline is None and not measured.identical:
        return Judgement("undecided", measured.resampled, f"{run_of(claim, ' --out NEW')} would tell")
    evidence = claim_evidence(claim, rules, measured)
    outcome, reason = decide(evidence)
    if outcome is Outcome.IDENTICAL:
        reason = "identical: the setting did not reach the scores (equal digests)"
        return Judgement("undecided", reason, "no run with this setup would tell")
    if outcome is Outcome.SATURATED:
        return Judgement(
            "undecided", "saturated at 1 in both: no evidence", "classes that are harder to detect would tell"
        )
    if outcome is Outcome.UNDECIDED:
        reason = _open_reason(claim, rules, measured, evidence, reason)
        return Judgement("undecided", reason, _what_would_tell(evidence, measured))
    zone = f"{evidence.margin:g}"
    if outcome is Outcome.WITHIN:
        return Judgement("too small to matter", f"the whole interval lies within {zone} of zero{_agreeing(measured)}")
    beyond = f" by more than {zone}" if evidence.margin else ""
    if (outcome is Outcome.ABOVE) != (claim.direction == "higher"):
        return Judgement("refuted", f"the whole interval lies on the other side{beyond}{_agreeing(measured)}")
    return _with_size(
        claim, measured, evidence, f"the whole interval lies on the claimed side{beyond}{_agreeing(measured)}"
    )


def run_of(claim: StatedClaim, options: str = "") -> str:
    """Return the command that measures the claim's contrast, as Markdown code."""
    return f"`moleflow-sweep run {claim.sweep} --data IMAGES{options}`"


def claim_evidence(claim: StatedClaim, rules: Rules, measured: PairedComparison) -> Evidence:
    """Return the evidence on a claim: every interval, and the zone of effects that do not matter.

    An interval over images leaves seed noise out, or covers too little of it with few seeds. So the
    t interval over the seeds has to say the same.
    """
    # The smallest effect is in points of AUROC and has no meaning for other metrics.
    zone = rules.smallest_effect if claim.metric.endswith("auroc") else 0.0
    bounds, intervals = measured.bounds, []
    if bounds is not None:
        intervals.append(bounds)
        if measured.resampled != SEEDS and measured.seed_low is not None and measured.seed_high is not None:
            intervals.append(Bounds(measured.seed_low, measured.seed_high))
    flags = {"identical": measured.identical, "saturated": measured.saturated}
    return Evidence(measured.differences, tuple(intervals), zone, zone, least_seeds=rules.least_seeds, **flags)


def stands_in_family(claim: StatedClaim, rules: Rules, measured: PairedComparison, family: int) -> bool:
    """Say whether a decided verdict stays with intervals that hold at once in 95 % of ledgers.

    This is Bonferroni's correction: the t interval is one at level 1 - 0.05 / m. The bootstrap's is
    widened about the difference as a normal interval would be, since 20,000 resamples say little
    about so high a level.

    Args:
        claim: the claim.
        rules: the rules.
        measured: its measurement.
        family: m, the number of intervals in the ledger.
    """
    evidence = claim_evidence(claim, rules, measured)
    outcome = decide(evidence)[0]
    over_seeds = t_interval(measured.differences, family)
    if outcome is Outcome.UNDECIDED or over_seeds is None or measured.difference is None:
        return False
    wide = [Bounds(*over_seeds)]
    if measured.resampled != SEEDS:
        by, centre, bounds = widening(family), measured.difference, evidence.intervals[0]
        low, high = (centre + by * (bound - centre) for bound in (bounds.low, bounds.high))
        wide.append(Bounds(low, high, by * bounds.low_error, by * bounds.high_error))
    return decide(replace(evidence, intervals=tuple(wide)))[0] is outcome


def _agreeing(measured: PairedComparison) -> str:
    if measured.resampled == SEEDS:
        return ""
    return f", and the t interval over the seeds ({_over_seeds(measured)}) agrees"


def _over_seeds(measured: PairedComparison) -> str:
    return f"{measured.seed_low:+.4f} to {measured.seed_high:+.4f}"


def _open_reason(claim: StatedClaim, rules: Rules, measured: PairedComparison, evidence: Evidence, reason: str) -> str:
    """Say why a claim is undecided."""
    if reason == FEW_SEEDS:
        return f"{counted(measured.n, 'seed')} in common, {rules.least_seeds} needed"
    if reason == NO_INTERVAL:
        return f"no interval: {measured.resampled}"
    if reason == DISAGREE:
        images, seeds = (_words(place(bounds, evidence), claim) for bounds in evidence.intervals)
        return (
            f"{measured.resampled} say {images}, the t interval over the seeds ({_over_seeds(measured)}) says {seeds}"
        )
    if reason == OPEN:
        low, high = evidence.intervals[0].low, evidence.intervals[0].high
        includes = "the interval includes zero"
        return includes if low <= 0 <= high else f"the interval reaches to within {evidence.margin:g} of zero"
    return reason


def _words(outcome: Outcome, claim: StatedClaim) -> Verdict:
    if outcome is Outcome.WITHIN:
        return "too small to matter"
    if outcome is Outcome.UNDECIDED:
        return "undecided"
    return "held" if (outcome is Outcome.ABOVE) == (claim.direction == "higher") else "refuted"


def _what_would_tell(evidence: Evidence, measured: PairedComparison) -> str:
    """Say how many more seeds would decide, or that seeds are not what is missing."""
    if measured.resampled == SEEDS or not evidence.intervals:
        return more_seeds_text(evidence)
    over_seeds = replace(evidence, intervals=evidence.intervals[1:])
    if decide(over_seeds)[0] is not Outcome.UNDECIDED:
        return "more test images would tell, more seeds would not"
    also = place(evidence.intervals[0], evidence, ERRORS) is Outcome.UNDECIDED
    return more_seeds_text(over_seeds) + ", with more test images" * also


def _with_size(claim: StatedClaim, measured: PairedComparison, evidence: Evidence, reason: str) -> Judgement:
    """Return the judgement of a claim whose direction is held.

    Every interval has to reach the smaller end of `size`. An effect beyond the larger end holds the
    claim too: otherwise a larger effect would have a worse verdict. `named` appears in the reason
    alone.
    """
    size, baseline = claim.size or claim.named, measured.baseline
    if size is None or baseline is None:
        return Judgement("held", reason)
    sign = 1 if claim.direction == "higher" else -1
    smallest, largest = sorted(share * baseline for share in size)
    in_claimed_direction = [bounds if sign > 0 else _mirrored(bounds) for bounds in evidence.intervals]
    reached = [bounds.high >= smallest for bounds in in_claimed_direction]
    shares = [f"{100 * of.low / baseline:+.1f} to {100 * of.high / baseline:+.1f}" for of in evidence.intervals]
    found = " %, over the seeds ".join(shares)
    if any(abs(of.high - smallest) < ERRORS * of.high_error for of in in_claimed_direction):
        reason = f"direction held, size undecided: {MONTE_CARLO}"
        return (
            Judgement("undecided", reason, "more test images would tell") if claim.size else Judgement("held", reason)
        )
    if all(reached):
        beyond = all(bounds.low > largest for bounds in in_claimed_direction)
        words = "beyond" if beyond else "and reaches"
        return Judgement("held", f"{reason}, {words} the size that the notes name ({claim.size_text()})")
    which = "undecided, since the intervals disagree" if any(reached) else "refuted"
    reason = f"direction held, size {which}: claimed {claim.size_text()}, interval {found} %"
    if not claim.size:
        return Judgement("held", reason)
    return Judgement("undecided", reason, "more seeds would not tell if the difference stays as it is")


def _mirrored(bounds: Bounds) -> Bounds:
    return Bounds(-bounds.high, -bounds.low, bounds.high_error, bounds.low_error)
