"""The claims of the update notes and the rules that judge them: claims.yaml, read and applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moleflow.errors import InvalidInput, counted
from moleflow.settings.config import digest
from moleflow.settings.yaml_reader import parse
from orchestrator.reports.paired import SEEDS, PairedComparison
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

Verdict = Literal["held", "refuted", "too small to matter", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("held", "refuted", "too small to matter", "undecided")
Settings = dict[str, str | float | bool | None]


class _Stated(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoEvidence(_Stated):
    """Data sets, and beginnings of flags, that settle no claim: each with the reason."""

    datasets: dict[str, str] = {}
    flags: dict[str, str] = {}


class Rule(_Stated):
    """One rule in words, with the times when it came into force and was replaced."""

    since: AwareDatetime
    until: AwareDatetime | None = None
    rule: str


class Rules(_Stated):
    """The rules in words, and the numbers by which `judge_claim` applies them."""

    stated: tuple[Rule, ...]
    smallest_effect: float = Field(ge=0)
    least_seeds: int = Field(ge=2)
    no_evidence: NoEvidence = NoEvidence()


class StatedClaim(_Stated):
    """One claim, the contrast of knobs that tests it, and the expected result.

    Attributes:
        notes: the section of the notes that makes it.
        contrast: the contrast in words.
        sweep: the sweep file that measures it.
        before, after: {dotted knob: value} of the two variants.
        instead: another `before`, for results that have none of the first.
        classes: the classes that the metric is averaged over.
        direction: the expected direction of the difference.
        size: the range of the relative change that the claim names, in the claimed direction.
        named: such a range that does not bear on the verdict.
        only: {dotted knob: pattern} of the settings that the claim is limited to.
        recovers: id of the claim whose contrast has to show a loss, in this claim's metric and
            classes, before anything can be recovered.
    """

    id: str
    claim: str
    notes: str
    contrast: str
    sweep: str
    before: Settings = Field(alias="from")
    after: Settings = Field(alias="to")
    instead: Settings | None = Field(None, alias="or_from")
    metric: str
    classes: Literal["mean", "first", "later"]
    direction: Literal["higher", "lower"]
    size: tuple[float, float] | None = None
    named: tuple[float, float] | None = None
    only: dict[str, str] = {}
    recovers: str | None = None

    def loss(self, of: StatedClaim) -> StatedClaim:
        """Return the claim that the contrast of `of` costs what this claim recovers."""
        direction = "lower" if self.direction == "higher" else "higher"
        change = {"metric": self.metric, "classes": self.classes, "direction": direction, "only": self.only}
        return of.model_copy(update=change | {"size": None, "named": None, "recovers": None})

    @property
    def knobs(self) -> frozenset[str]:
        """The settings that the contrast varies; a version's name adds nothing to its settings."""
        return frozenset({*self.before, *self.after, *(self.instead or {}), "version"})

    def select_classes(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return those of a sequence's classes, in task order, that the claim is about."""
        return tuple({"mean": classes, "first": classes[:1], "later": classes[1:]}[self.classes])

    def size_text(self) -> str:
        """Return the change that the notes name, `+5 to +10 %`; empty if they name none."""
        sign = 100 if self.direction == "higher" else -100
        shares = list(dict.fromkeys(f"{sign * share:+.3g}" for share in self.size or self.named or ()))
        return f"{' to '.join(shares)} %" if shares else ""


class Stated(_Stated):
    """The content of claims.yaml."""

    rules: Rules
    claims: tuple[StatedClaim, ...]


def rules_digest(rules: Rules, claims: Sequence[StatedClaim]) -> str:
    """Return SHA-256 over the content of rules and claims, whatever their notation."""
    return digest([rules.model_dump(mode="json"), [claim.model_dump(mode="json") for claim in claims]])


def stated_claims() -> Stated:
    """Read the claims and rules of claims.yaml.

    Raises:
        InvalidInput: the file does not match its schema.
    """
    source = files("orchestrator.claims") / "claims.yaml"
    try:
        return Stated.model_validate(parse(source.read_text(encoding="utf-8"), "claims.yaml"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"claims.yaml: {where}: {first['msg']}, given {first['input']!r:.60}; correct it") from None


def judge_claim(claim: StatedClaim, rules: Rules, measured: PairedComparison) -> tuple[Verdict, str]:
    """Return the verdict of the rules on an unconfounded measurement, and the reason.

    The verdict is that of `decide`, with the smallest effect of interest as its zone and margin.

    Raises:
        ValueError: a difference or a bound is NaN or infinite.
    """
    if measured.baseline is None and not measured.identical:
        return "undecided", measured.resampled
    evidence = claim_evidence(claim, rules, measured)
    outcome, reason = decide(evidence)
    if outcome is Outcome.IDENTICAL:
        return "undecided", "identical: the setting did not reach the scores (equal digests)"
    if outcome is Outcome.SATURATED:
        return "undecided", "saturated at 1 in both: no evidence"
    if outcome is Outcome.UNDECIDED:
        return (
            "undecided",
            f"{_open_reason(claim, rules, measured, evidence, reason)}; {_what_would_tell(evidence, measured)}",
        )
    zone = f"{evidence.margin:g}"
    if outcome is Outcome.WITHIN:
        return "too small to matter", f"the whole interval lies within {zone} of zero{_agreeing(measured)}"
    beyond = f" by more than {zone}" if evidence.margin else ""
    if (outcome is Outcome.ABOVE) != (claim.direction == "higher"):
        return "refuted", f"the whole interval lies on the other side{beyond}{_agreeing(measured)}"
    return _with_size(
        claim, measured, evidence, f"the whole interval lies on the claimed side{beyond}{_agreeing(measured)}"
    )


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
        return "more seeds do not help, more test images would"
    also = place(evidence.intervals[0], evidence, ERRORS) is Outcome.UNDECIDED
    return more_seeds_text(over_seeds) + ", with more test images" * also


def _with_size(claim: StatedClaim, measured: PairedComparison, evidence: Evidence, reason: str) -> tuple[Verdict, str]:
    """Return the verdict on a claim whose direction is held, and the reason.

    Every interval has to reach the smaller end of `size`. An effect beyond the larger end holds the
    claim too: otherwise a larger effect would have a worse verdict. `named` appears in the reason
    alone.
    """
    size, baseline = claim.size or claim.named, measured.baseline
    if size is None or baseline is None:
        return "held", reason
    sign = 1 if claim.direction == "higher" else -1
    smallest, largest = sorted(share * baseline for share in size)
    in_claimed_direction = [bounds if sign > 0 else _mirrored(bounds) for bounds in evidence.intervals]
    reached = [bounds.high >= smallest for bounds in in_claimed_direction]
    shares = [f"{100 * of.low / baseline:+.1f} to {100 * of.high / baseline:+.1f}" for of in evidence.intervals]
    found = " %, over the seeds ".join(shares)
    if any(abs(of.high - smallest) < ERRORS * of.high_error for of in in_claimed_direction):
        return "undecided" if claim.size else "held", f"direction held, size undecided: {MONTE_CARLO}"
    if all(reached):
        if all(bounds.low > largest for bounds in in_claimed_direction):
            return "held", f"{reason}, beyond the size that the notes name ({claim.size_text()})"
        return "held", f"{reason}, and reaches the size that the notes name ({claim.size_text()})"
    verdict: Verdict = "undecided" if claim.size else "held"
    which = "undecided, since the intervals disagree" if any(reached) else "refuted"
    missing = "; more seeds do not help if the difference stays as it is" if claim.size else ""
    return verdict, f"direction held, size {which}: claimed {claim.size_text()}, interval {found} %{missing}"


def _mirrored(bounds: Bounds) -> Bounds:
    return Bounds(-bounds.high, -bounds.low, bounds.high_error, bounds.low_error)
