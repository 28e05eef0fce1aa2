"""What the update notes claim, and the rules by which a measurement holds or refutes a claim: claims.yaml, read and applied."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moleflow.errors import InvalidInput
from moleflow.settings.config import digest
from moleflow.settings.yaml_reader import parse
from orchestrator.reports.paired import SEEDS, PairedComparison

Verdict = Literal["held", "refuted", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("held", "refuted", "undecided")
Settings = dict[str, str | float | bool]


class _Stated(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoEvidence(_Stated):
    """Data sets, and starts of flags, that settle nothing: each with the words for why."""

    datasets: dict[str, str] = {}
    flags: dict[str, str] = {}


class Rule(_Stated):
    """One rule in words, with when it came into claims.yaml, and when another took its place."""

    since: AwareDatetime
    until: AwareDatetime | None = None
    rule: str


class Rules(_Stated):
    """When a claim is held or refuted: `stated` says it in words, and `judge` does it."""

    stated: tuple[Rule, ...]
    negligible: float = Field(ge=0)
    least_seeds: int = Field(ge=2)
    no_evidence: NoEvidence = NoEvidence()


class StatedClaim(_Stated):
    """One claim: its words, where the `notes` make it, the contrast of knobs that tests it, and what it expects.

    `before` and `after` are {dotted knob: value}; `instead` is another `before` that serves where the first is not
    there. `size` is the relative change that the notes name, as shares in the claimed direction; `named` is one that no verdict
    hangs on. `only` are patterns of settings that the claim is about.
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
        """The settings that the contrast is about; the version's name says nothing that they do not."""
        return frozenset({*self.before, *self.after, *(self.instead or {}), "version"})

    def of(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The classes of a sequence, in task order, that the claim is about."""
        return tuple({"mean": classes, "first": classes[:1], "later": classes[1:]}[self.classes])

    def size_text(self) -> str:
        """The change that the notes name, with its sign: `+5 to +10 %`; empty where they name none."""
        sign = 100 if self.direction == "higher" else -100
        shares = list(dict.fromkeys(f"{sign * share:+.3g}" for share in self.size or self.named or ()))
        return f"{' to '.join(shares)} %" if shares else ""


class Stated(_Stated):
    """The content of claims.yaml."""

    rules: Rules
    claims: tuple[StatedClaim, ...]


def rules_digest(rules: Rules, claims: Sequence[StatedClaim]) -> str:
    """SHA-256 over what rules and claims say, not over their notation."""
    return digest([rules.model_dump(mode="json"), [claim.model_dump(mode="json") for claim in claims]])


def stated_claims() -> Stated:
    """The claims and rules of claims.yaml.

    Raises:
        InvalidInput: the file is not what it should be.

    """
    source = files("orchestrator.claims") / "claims.yaml"
    try:
        return Stated.model_validate(parse(source.read_text(encoding="utf-8"), "claims.yaml"))
    except ValidationError as error:
        raise InvalidInput(f"claims.yaml: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}; mend it") from None


def judge_claim(claim: StatedClaim, rules: Rules, measured: PairedComparison) -> tuple[Verdict, str]:
    """The verdict of the rules on an unconfounded measurement, and why."""
    if measured.baseline is None:
        return "undecided", measured.resampled
    if measured.n < rules.least_seeds:
        return "undecided", f"{measured.n} seed{'s' * (measured.n != 1)} in common, {rules.least_seeds} needed"
    if measured.low is None or measured.high is None:
        return "undecided", f"no interval: {measured.resampled}"
    intervals = [(measured.low, measured.high)]
    verdict, reason = _lies(claim, rules, *intervals[0])
    if measured.resampled != SEEDS and verdict != "undecided":
        if measured.seed_low is None or measured.seed_high is None:
            return "undecided", "too few seeds for an interval over seeds"
        intervals.append((measured.seed_low, measured.seed_high))
        over = f"{measured.seed_low:+.4f} to {measured.seed_high:+.4f}"
        if _lies(claim, rules, *intervals[1])[0] != verdict:
            return "undecided", f"{measured.resampled} say {verdict}, the t interval over the seeds ({over}) does not"
        reason += f", and so says the t interval over the seeds ({over})"
    return _with_size(claim, measured.baseline, intervals, reason) if verdict == "held" else (verdict, reason)


def _lies(claim: StatedClaim, rules: Rules, low: float, high: float) -> tuple[Verdict, str]:
    """Where one interval of the difference lies to the direction that is claimed."""
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
    """The verdict on a claim whose direction is held, and why: a `size` has to be overlapped, `named` only to be spoken of."""
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
