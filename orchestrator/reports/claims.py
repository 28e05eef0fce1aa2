"""What the update notes claim, and the rules by which a measurement holds or refutes a claim: claims.yaml, read and applied."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moleflow.documents import parse
from moleflow.errors import InvalidInput
from orchestrator.reports.statistics import IMAGES, Paired

Verdict = Literal["held", "refuted", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("held", "refuted", "undecided")
Settings = dict[str, str | float | bool]


class _Stated(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoEvidence(_Stated):
    """Data sets, and starts of flags, that settle nothing: each with the words for why."""

    datasets: dict[str, str] = {}
    flags: dict[str, str] = {}


class Rules(_Stated):
    """When a claim is held or refuted; claims.yaml says it in words."""

    negligible: float = Field(ge=0)
    least_seeds: int = Field(ge=2)
    no_evidence: NoEvidence = NoEvidence()


class Claim(_Stated):
    """One claim: its words, where the `notes` make it, the contrast of knobs that tests it, and what it expects.

    `before` and `after` are {dotted knob: value}; `instead` is another `before` that serves where the first is not
    there. `size` is the relative change that the notes name, as shares; `only` are patterns of settings that the claim is
    about.
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
    only: dict[str, str] = {}

    @property
    def knobs(self) -> frozenset[str]:
        """The settings that the contrast is about; the version's name says nothing that they do not."""
        return frozenset({*self.before, *self.after, *(self.instead or {}), "version"})

    def of(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The classes of a sequence, in task order, that the claim is about."""
        return tuple({"mean": classes, "first": classes[:1], "later": classes[1:]}[self.classes])


class Stated(_Stated):
    """The content of claims.yaml."""

    rules: Rules
    claims: tuple[Claim, ...]


def stated_claims() -> Stated:
    """The claims and rules of claims.yaml.

    Raises:
        InvalidInput: the file is not what it should be.

    """
    source = files("orchestrator.reports") / "claims.yaml"
    try:
        return Stated.model_validate(parse(source.read_text(encoding="utf-8"), "claims.yaml"))
    except ValidationError as error:
        raise InvalidInput(f"claims.yaml: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}; mend it") from None


def judge(claim: Claim, rules: Rules, measured: Paired) -> tuple[Verdict, str]:
    """The verdict of the rules on an unconfounded measurement, and why."""
    if measured.baseline is None:
        return "undecided", measured.resampled
    if measured.n < rules.least_seeds:
        return "undecided", f"{measured.n} seed{'s' * (measured.n != 1)} in common, {rules.least_seeds} needed"
    if measured.low is None or measured.high is None:
        return "undecided", f"no interval: {measured.resampled}"
    verdict, reason = _lies(claim, rules, measured.low, measured.high, measured.baseline)
    if measured.resampled == IMAGES and verdict != "undecided":
        if measured.seed_low is None or measured.seed_high is None:
            return "undecided", "too few seeds for an interval over seeds"
        over = f"{measured.seed_low:+.4f} to {measured.seed_high:+.4f}"
        reason += f", and so says the one over the seeds ({over})"
        if _lies(claim, rules, measured.seed_low, measured.seed_high, measured.baseline)[0] != verdict:
            return "undecided", f"test images alone say {verdict}, the interval over the seeds ({over}) does not"
    return verdict, reason


def _lies(claim: Claim, rules: Rules, low: float, high: float, baseline: float) -> tuple[Verdict, str]:
    """Where one interval of the difference lies to what the claim expects."""
    if -rules.negligible <= low and high <= rules.negligible:
        return "refuted", f"the whole interval lies within {rules.negligible:g} of zero"
    least, most = (low, high) if claim.direction == "higher" else (-high, -low)
    if most < 0:
        return "refuted", "the whole interval lies on the other side"
    if least <= 0:
        return "undecided", "the interval includes zero"
    if claim.size is None:
        return "held", "the whole interval lies on the claimed side"
    smallest, largest = (share * baseline for share in claim.size)
    if most < smallest or least > largest:
        less = "less" if most < smallest else "more"
        return "undecided", f"the claimed direction, but {less} than the size that the notes name"
    return "held", "the whole interval lies on the claimed side and overlaps the size that the notes name"
