"""The published rows: figures of the update notes and of their result logs, as data, and what differs between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from moleflow.errors import InvalidInput
from moleflow.settings.yaml_reader import read_mapping
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import change_text, setting_text
from orchestrator.reports.render import ABSENT

FOLDER = Path(__file__).parents[2] / "results" / "published"
NOT_RECORDED = "not recorded"
_PERCENT = r"\d{1,3}(\.\d+)?%"

Figure = Annotated[
    str,
    Field(
        pattern=rf"^([01]\.\d{{3,4}}|{_PERCENT}( ± {_PERCENT})?)$",
        description="a figure in quotes, as printed: 0.8204 | 100% | 98.03% ± 0.19%",
    ),
]
Change = Annotated[str, Field(pattern=r"^[+-]\d+\.\d+%$", description="a change in quotes, as printed: +20.0%")]


class _Keys(BaseModel):
    """A mapping of a file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Figures(_Keys):
    """The figures of one class, or the means; None where none is published."""

    routing_accuracy: Figure | None = None
    image_auroc: Figure | None = None
    pixel_auroc: Figure | None = None


class PublishedRun(_Keys):
    """One published row.

    `settings` maps knobs (and `patch_grid`) to values, `NOT_RECORDED` where nobody wrote the value down; `inferred` says
    of single ones where they come from. `against` is the run that this one builds on, `compares` what was changed.
    """

    name: str
    version: str
    source: str
    against: str | None = None
    compares: tuple[str, ...] = ()
    settings: dict[str, JsonValue]
    inferred: dict[str, str] = {}
    classes: dict[str, Figures] = {}
    means: Figures

    @property
    def label(self) -> str:
        """What heads its column wherever measured ones may stand beside it."""
        return f"published {self.name}"

    def figure(self, class_name: str, metric: str) -> str | None:
        """The figure as printed, of a class or of `MEAN`."""
        of = self.means if class_name == MEAN else self.classes.get(class_name, Figures())
        found: str | None = getattr(of, metric, None)
        return found

    def figures(self) -> dict[tuple[str, str], str]:
        """Every figure that is published."""
        places = [(c, m) for c in (*self.classes, MEAN) for m in Figures.model_fields]
        return {place: found for place in places if (found := self.figure(*place)) is not None}

    def setting(self, path: str) -> str:
        """A setting as tables show it; what is inferred says so."""
        value = setting_text(self.settings.get(path, NOT_RECORDED))
        return f"{value} (inferred)" if path in self.inferred else value


class ClaimedChanges(_Keys):
    """A Change column that the notes print, word for word; `plain` are the cells that they do not set in bold."""

    source: str
    before: str
    after: str
    printed: dict[str, dict[str, Change]]
    plain: tuple[str, ...] = ()


class PublishedRows(_Keys):
    """One file: runs over the same classes. `settings` are those that all of its runs share."""

    about: str
    dataset: str
    tasks: tuple[str, ...] | str
    settings: dict[str, JsonValue]
    runs: tuple[PublishedRun, ...] = Field(min_length=1)
    changes: tuple[ClaimedChanges, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of which single figures may be published."""
        return self.tasks if isinstance(self.tasks, tuple) else ()

    def run(self, name: str) -> PublishedRun:
        """The run of that name."""
        return next(run for run in self.runs if run.name == name)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [run.name for run in self.runs]
        if len(set(names)) < len(names):
            raise ValueError("runs: every name may be given once")
        for run in self.runs:
            if run.against is not None and run.against not in names:
                raise ValueError(f"run {run.name}: against '{run.against}', but the runs are {', '.join(names)}")
            unknown = {*run.compares, *run.inferred} - {path for other in self.runs for path in other.settings}
            if unknown:
                raise ValueError(f"run {run.name}: no run has a setting {', '.join(sorted(unknown))}")
            if set(run.classes) - set(self.classes):
                raise ValueError(f"run {run.name}: its classes are not among the tasks")
        for claim in self.changes:
            if not {claim.before, claim.after} <= set(names) or set(claim.printed) - {*self.classes, MEAN}:
                raise ValueError(f"changes {claim.before} to {claim.after}: an unknown run or class")
        return self


def before_of(rows: PublishedRows, run: PublishedRun) -> PublishedRun | None:
    """The run that this one builds on."""
    return None if run.against is None else rows.run(run.against)


def confound_marks(rows: PublishedRows, run: PublishedRun) -> list[str]:
    """What is wrong with the step to this run from the one that it builds on: confounded, without effect, or nothing."""
    of = before_of(rows, run)
    if of is None:
        return []
    found = ["†"] if published_confounds(of, run, run.compares) else []
    return [*found, "(no effect)"] if without_effect(of, run) else found


def step_notes(rows: PublishedRows, run: PublishedRun) -> list[str]:
    """What a reader must know about the step from the run that this one builds on."""
    before = before_of(rows, run)
    if before is None:
        return []
    step, compared = f"{before.name} -> {run.name}", ", ".join(f"`{path}`" for path in run.compares)
    lines = []
    found = published_confounds(before, run, run.compares)
    if found:
        each = "; ".join(f"`{c.path}`: {c.before} in `{before.name}`, {c.after} in `{run.name}`" for c in found)
        lines.append(f"† {step} is confounded. Compared: {compared}. Not compared, yet different: {each}.")
    if without_effect(before, run):
        values = ", ".join(f"`{p}` {before.setting(p)} -> {run.setting(p)}" for p in run.compares)
        lines.append(
            f"{step}: no effect: `{run.name}` equals `{before.name}` in every published digit ({values});"
            " judged by the digits, for no digests are published."
        )
    return lines


def run_records(rows: PublishedRows, run: PublishedRun) -> list[tuple[object, ...]]:
    """A run as rows of a report's CSV; the figures stand there as they are printed."""
    own = " ".join(["published", *confound_marks(rows, run)])
    n = None if run.settings.get("seed") in (None, NOT_RECORDED) else 1
    return [(rows.dataset, run.label, *place, figure, None, n, None, own) for place, figure in run.figures().items()]


@dataclass(frozen=True)
class Published:
    """All published rows, and a digest of them."""

    files: tuple[PublishedRows, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content, not over the notation."""
        content = [rows.model_dump(mode="json") for rows in self.files]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_published(folder: Path = FOLDER) -> Published:
    """The rows in every YAML file of `folder`, those with figures of single classes first.

    Raises:
        InvalidInput: the folder or a file is missing or damaged.

    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise InvalidInput(
            f"{folder}: no published rows (*.yaml) here; they belong to a checkout of the project, so run it from one"
        )
    files = [_rows(path) for path in paths]
    return Published(tuple(sorted(files, key=lambda rows: not rows.classes)))


def _rows(path: Path) -> PublishedRows:
    content = read_mapping(path)
    try:
        rows = PublishedRows.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        hint = "figures stand in quotes, as printed; the keys are explained in the README beside the file"
        raise InvalidInput(f"{path}: {where}: {first['msg']}, given {first['input']!r:.60}; {hint}") from None
    shared = [run.model_copy(update={"settings": rows.settings | run.settings}) for run in rows.runs]
    return rows.model_copy(update={"runs": tuple(shared)})


def value(figure: str) -> Decimal:
    """The number that a figure prints, without its spread; a percentage as a share."""
    number = figure.split(" ± ")[0]
    return Decimal(number[:-1]) / 100 if number.endswith("%") else Decimal(number)


def relative_change(before: str | None, after: str | None) -> float | None:
    """(b - a) / a of two figures as they are printed, None where one is missing."""
    if before is None or after is None or not value(before):
        return None
    return float((value(after) - value(before)) / value(before))


def follows(printed: str, before: str, after: str) -> bool:
    """Whether a printed change is what its own figures give."""
    return change_text(relative_change(before, after)) == printed


@dataclass(frozen=True)
class Confound:
    """A setting that is not what is compared, and yet differs or is not recorded: its value before and after."""

    path: str
    before: str
    after: str


def published_confounds(before: PublishedRun, after: PublishedRun, compared: Sequence[str]) -> tuple[Confound, ...]:
    """Every setting beside the `compared` ones that differs between two runs, or that is not recorded for one of them."""
    found = []
    for path in sorted({*before.settings, *after.settings} - set(compared)):
        a, b = (setting_text(run.settings.get(path, ABSENT)) for run in (before, after))
        if a != b or NOT_RECORDED in (a, b):
            found.append(Confound(path, before.setting(path), after.setting(path)))
    return tuple(found)


def without_effect(before: PublishedRun, after: PublishedRun) -> bool:
    """Whether two runs agree in every published digit."""
    return bool(after.figures()) and before.figures() == after.figures()
