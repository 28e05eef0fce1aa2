"""The claims of the update notes and the rules that judge them, as claims.yaml states them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moleflow.errors import InvalidInput
from moleflow.settings.config import digest
from moleflow.settings.yaml_reader import parse

Verdict = Literal["held", "refuted", "too small to matter", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("held", "refuted", "too small to matter", "undecided")
DECIDED = VERDICTS[:3]
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


class KnobChange(_Stated):
    """{dotted knob: value} of two variants that are otherwise equal."""

    before: Settings = Field(alias="from")
    after: Settings = Field(alias="to")

    @property
    def knobs(self) -> frozenset[str]:
        """The settings that it varies; a version's name adds nothing to its settings."""
        return frozenset({*self.before, *self.after, "version"})


class StatedClaim(_Stated):
    """One claim, the contrast of knobs that tests it, and the expected result.

    Attributes:
        notes: the section of the notes that makes it.
        contrast: the contrast in words.
        sweep: the sweep file that measures it.
        before, after: the two sides of the change that it is about, {dotted knob: value}.
        otherwise: other forms of that change, each for results that have none of those before it.
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
    otherwise: tuple[KnobChange, ...] = Field((), alias="or")
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
    def changes(self) -> tuple[KnobChange, ...]:
        """The forms of the change, the preferred one first."""
        return (KnobChange.model_validate({"from": self.before, "to": self.after}), *self.otherwise)

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
    """Return SHA-256 over the content of rules and claims; their notation does not count."""
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
