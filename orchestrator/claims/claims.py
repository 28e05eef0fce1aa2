"""The claims of the update notes and the rules that judge them: claims.yaml, read and applied."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moleflow.errors import InvalidInput, counted
from moleflow.settings.config import digest
from moleflow.settings.yaml_reader import parse
from orchestrator.reports.paired import SEEDS, PairedComparison

Verdict = Literal["held", "refuted", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("held", "refuted", "undecided")
Settings = dict[str, str | float | bool]


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
    negligible: float = Field(ge=0)
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
    """Return the verdict of the rules on an unconfounded measurement, and the reason."""
    if measured.baseline is None:
        return "undecided", measured.resampled
    if measured.n < rules.least_seeds:
        return "undecided", f"{counted(measured.n, 'seed')} in common, {rules.least_seeds} needed"
    if measured.low is None or measured.high is None:
        return "undecided", f"no interval: {measured.resampled}"
    intervals = [(measured.low, measured.high)]
    verdict, reason = _judge_interval(claim, rules, *intervals[0])
    # An interval over images leaves seed noise out, or covers too little of it with few seeds: the
    # t interval over the seeds has to agree.
    if measured.resampled != SEEDS and verdict != "undecided":
        if measured.seed_low is None or measured.seed_high is None:
            return "undecided", "too few seeds for an interval over seeds"
        intervals.append((measured.seed_low, measured.seed_high))
        over = f"{measured.seed_low:+.4f} to {measured.seed_high:+.4f}"
        if _judge_interval(claim, rules, *intervals[1])[0] != verdict:
            return "undecided", f"{measured.resampled} say {verdict}, the t interval over the seeds ({over}) does not"
        reason += f", and the t interval over the seeds ({over}) agrees"
    return _with_size(claim, measured.baseline, intervals, reason) if verdict == "held" else (verdict, reason)


def _judge_interval(claim: StatedClaim, rules: Rules, low: float, high: float) -> tuple[Verdict, str]:
    """Judge one interval of the difference by the claimed direction."""
    # `negligible` is in points of AUROC and has no meaning for other metrics.
    negligible = rules.negligible if claim.metric.endswith("auroc") else 0.0
    if -negligible <= low and high <= negligible:
        return "refuted", f"the whole interval lies within {negligible:g} of zero"
    least, most = (low, high) if claim.direction == "higher" else (-high, -low)
    if most < 0:
        return "refuted", "the whole interval lies on the other side"
    if least <= 0:
        return "undecided", "the interval includes zero"
    return "held", "the whole interval lies on the claimed side"


def _with_size(
    claim: StatedClaim, baseline: float, intervals: Sequence[tuple[float, float]], reason: str
) -> tuple[Verdict, str]:
    """Return the verdict on a claim whose direction is held, and the reason.

    The intervals have to overlap `size`. `named` appears in the reason alone.
    """
    size = claim.size or claim.named
    if size is None:
        return "held", reason
    sign = 1 if claim.direction == "higher" else -1
    smallest, largest = sorted(sign * share * baseline for share in size)
    overlaps = [low <= largest and smallest <= high for low, high in intervals]
    if all(overlaps):
        return "held", f"{reason}, and overlaps the size that the notes name ({claim.size_text()})"
    verdict: Verdict = "undecided" if claim.size else "held"
    shares = [" to ".join(f"{100 * bound / baseline:+.1f}" for bound in interval) for interval in intervals]
    found = " %, over the seeds ".join(shares)
    which = "undecided, since the intervals disagree" if any(overlaps) else "refuted"
    return verdict, f"direction held, size {which}: claimed {claim.size_text()}, interval {found} %"
