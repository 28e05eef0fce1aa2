"""The published rows: figures of the update notes and result logs, as data, with confounds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from moleflow.errors import InvalidInput
from moleflow.settings.yaml_reader import read_mapping, yaml_text
from moleflow.suggestions import hint_at
from orchestrator.host.provenance import ROOT
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import change_text, code_list, setting_text
from orchestrator.reports.render import ABSENT
from orchestrator.reports.verdicts import Evidence, Outcome, decide

FOLDER = ROOT / "results" / "published"
NOT_RECORDED = "not recorded"
PATCH_GRID = "patch_grid"
"""The one setting of a row that is no knob: rows x columns of patches, which follow from others."""
SEED = "seed"
_PERCENT = r"\d{1,3}(\.\d+)?%"

_FIGURE = "a figure in quotes, as printed, such as '0.8204', '100%', '98.03% ± 0.19%', or a change, such as '+20.0%'"
Figure = Annotated[str, Field(pattern=rf"^([01]\.\d{{3,4}}|{_PERCENT}( ± {_PERCENT})?)$")]
Change = Annotated[str, Field(pattern=r"^[+-]\d+\.\d+%$")]


class _Keys(BaseModel):
    """A mapping of a file. Unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Figures(_Keys):
    """The figures of one class, or the means; None where nothing is published."""

    routing_accuracy: Figure | None = None
    image_auroc: Figure | None = None
    pixel_auroc: Figure | None = None
    pixel_ap: Figure | None = None


class PublishedRun(_Keys):
    """One published row.

    Attributes:
        source: where it is printed.
        against: the run that this one builds on.
        compares: the settings that were changed from that run on purpose.
        settings: {knob or `patch_grid`: value}, `NOT_RECORDED` if it was not written down.
        inferred: {setting: reason} of the values that were inferred.
    """

    name: Annotated[str, Field(pattern=r"^\S[^\n]*$")]
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
        """The name of its column next to measured ones."""
        return f"published {self.name}"

    def figure(self, class_name: str, metric: str) -> str | None:
        """Return the figure of a class or of `MEAN` as printed."""
        of = self.means if class_name == MEAN else self.classes.get(class_name, Figures())
        found: str | None = getattr(of, metric, None)
        return found

    def figures(self) -> dict[tuple[str, str], str]:
        """Return every published figure by (class name, metric)."""
        places = [(c, m) for c in (*self.classes, MEAN) for m in Figures.model_fields]
        return {place: found for place in places if (found := self.figure(*place)) is not None}

    def setting(self, path: str) -> str:
        """Return a setting as tables show it, with `(inferred)` behind an inferred value."""
        value = setting_text(self.settings.get(path, NOT_RECORDED))
        return f"{value} (inferred)" if path in self.inferred else value


class ClaimedChanges(_Keys):
    """A Change column as the notes print it.

    Attributes:
        source: where it is printed.
        before, after: names of the runs.
        printed: {class name: {metric: change}}.
        plain: names of the rows that the notes do not set in bold.
    """

    source: str
    before: str
    after: str
    printed: dict[str, dict[str, Change]]
    plain: tuple[str, ...] = ()


class PublishedRows(_Keys):
    """One file: runs over the same classes, and the settings that all of them share.

    Attributes:
        base: the base of the settings that the rows leave out, by name or as the path of a YAML
            file from the current folder; None = the rows cannot be run.
        tolerance: {metric: largest difference of a mean} of a repeated run; empty = none is stated.
        tolerance_reason: the source of the tolerance, as a sentence.
    """

    about: str
    dataset: str
    tasks: tuple[str, ...] | str
    settings: dict[str, JsonValue]
    runs: tuple[PublishedRun, ...]
    changes: tuple[ClaimedChanges, ...] = ()
    base: Annotated[str, Field(min_length=1)] | None = None
    tolerance: dict[Literal["image_auroc", "pixel_auroc"], Annotated[float, Field(gt=0.0)]] = {}
    tolerance_reason: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes with published figures of their own; empty if only their number is known."""
        return self.tasks if isinstance(self.tasks, tuple) else ()

    def run(self, name: str) -> PublishedRun:
        """Return the run of that name."""
        return next(run for run in self.runs if run.name == name)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [run.name for run in self.runs]
        if not names:
            raise ValueError("runs: is empty; give at least one row")
        if len(set(names)) < len(names):
            raise ValueError("runs: a name is given twice; give each run its own")
        for run in self.runs:
            if run.against is not None and run.against not in names:
                raise ValueError(f"run {run.name}: against '{run.against}', but the runs are {', '.join(names)}")
            _check_settings(self.settings | run.settings, run.name)
            known = {path for other in self.runs for path in other.settings} | self.settings.keys()
            unknown = {*run.compares, *run.inferred} - known
            if unknown:
                raise ValueError(f"run {run.name}: no run has a setting {', '.join(sorted(unknown))}")
            if set(run.classes) - set(self.classes):
                raise ValueError(f"run {run.name}: its classes are not among the tasks")
        for claim in self.changes:
            if not {claim.before, claim.after} <= set(names) or set(claim.printed) - {*self.classes, MEAN}:
                raise ValueError(f"changes {claim.before} to {claim.after}: an unknown run or class")
        return self


def _check_settings(settings: Mapping[str, JsonValue], name: str) -> None:
    """Refuse a setting that is no knob, and a seed that is none."""
    from moleflow.settings.knobs import fields, short_names

    for path in settings:
        if path == "version":
            raise ValueError(f"run {name}: settings: no version here; give it beside `settings`, as `version`")
        if path not in fields() and path != PATCH_GRID:
            meant = short_names().get(path)
            hint = f". Did you mean '{meant}'?" if meant else hint_at(path, [*fields(), PATCH_GRID])
            raise ValueError(
                f"run {name}: settings: no knob '{path}'; allowed: the dotted names of `knobs`, {PATCH_GRID}{hint}"
            )
    seed = settings.get(SEED, NOT_RECORDED)
    for one in seed if isinstance(seed, list) else [] if seed == NOT_RECORDED else [seed]:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ValueError(
                f"run {name}: seed: given {yaml_text(seed)}, allowed: a whole number >= 0 | a list of them | {NOT_RECORDED}"
            )


def confound_marks(rows: PublishedRows, run: PublishedRun) -> list[str]:
    """Return the marks of the step to this run: † if it is confounded, or `(identical)`."""
    if run.against is None:
        return []
    before = rows.run(run.against)
    confounded = bool(published_confounds(before, run, run.compares))
    return ["†"] * confounded + ["(identical)"] * (step_outcome(before, run) is Outcome.IDENTICAL)


def step_notes(rows: PublishedRows, run: PublishedRun) -> list[str]:
    """Return the notes about the step to this run from the one that it builds on."""
    if run.against is None:
        return []
    before = rows.run(run.against)
    step = f"{before.name} -> {run.name}"
    lines = []
    confounds = published_confounds(before, run, run.compares)
    if confounds:
        each = "; ".join(f"`{c.path}`: {c.before} in `{before.name}`, {c.after} in `{run.name}`" for c in confounds)
        compared = code_list(run.compares)
        lines.append(
            f"† {step} is confounded. Compared: {compared}. Not compared, and different or not recorded: {each}."
        )
    if step_outcome(before, run) is Outcome.IDENTICAL:
        values = ", ".join(f"`{p}` {before.setting(p)} -> {run.setting(p)}" for p in run.compares)
        lines.append(
            f"{step}: identical: `{run.name}` equals `{before.name}` in every published digit ({values}). No digests are "
            "published that could confirm it."
        )
    return lines


def run_records(rows: PublishedRows, run: PublishedRun) -> list[tuple[object, ...]]:
    """Return a run as rows of a report's CSV: its figures as numbers, and as printed."""
    own = " ".join(["published", *confound_marks(rows, run)])
    n = None if run.settings.get(SEED) in (None, NOT_RECORDED) else 1
    records: list[tuple[object, ...]] = []
    for place, figure in run.figures().items():
        spread = figure.partition(" ± ")[2]
        sd = float(figure_value(spread)) if spread else None
        records.append((rows.dataset, run.label, *place, float(figure_value(figure)), sd, n, None, own, figure))
    return records


@dataclass(frozen=True)
class Published:
    """All published rows, and a digest of them."""

    files: tuple[PublishedRows, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content; its notation in the files does not count."""
        content = [rows.model_dump(mode="json") for rows in self.files]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_published(folder: Path = FOLDER) -> Published:
    """Read every YAML file of `folder`.

    Files with figures of single classes come first, those of the fewest classes before the others.

    Raises:
        InvalidInput: the folder holds no such file, or a file is damaged.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise InvalidInput(
            f"{folder}: no published rows (*.yaml) here; they belong to a checkout of the project, so run it from one"
        )
    files = [read_rows(path) for path in paths]
    return Published(tuple(sorted(files, key=lambda rows: (not rows.classes, len(rows.classes)))))


def read_rows(path: Path) -> PublishedRows:
    """Read a file of published rows; each run gets the settings that the file's runs share.

    Raises:
        InvalidInput: no such file, or it is damaged.
    """
    content = read_mapping(path)
    try:
        rows = PublishedRows.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_explain(error)}; results/published/README.md explains the keys") from None
    shared = [run.model_copy(update={"settings": rows.settings | run.settings}) for run in rows.runs]
    return rows.model_copy(update={"runs": tuple(shared)})


def _explain(error: ValidationError) -> str:
    """Return the first problem in one line."""
    problems = error.errors(include_url=False)
    # A misspelled key is the reason why the right one is missing.
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    if first["type"] == "value_error":  # One of the checks above, which name the place themselves.
        return str(first["ctx"]["error"])
    # The place also has words of pydantic's own, such as `[key]` and `tuple[str, ...]`.
    keys = [key for key in map(str, first["loc"]) if not re.search(r"[^\w.-]", key)]
    where = ".".join(keys)
    if first["type"] == "extra_forbidden":
        of: type[BaseModel] = PublishedRows
        for key in keys[:-1]:
            of = _MODELS.get(key, of)
        return f"unknown key '{where}', allowed: {' | '.join(of.model_fields)}{hint_at(keys[-1], of.model_fields)}"
    if first["type"] == "missing":
        return f"{where}: is missing"
    of_figures = keys[-1] in Figures.model_fields and keys[0] != "tolerance"
    text = _FIGURE if of_figures else _ALLOWED.get(first["type"], first["msg"].removeprefix("Input should be "))
    return f"{where}: given {yaml_text(first['input'])}, allowed: {text}"


_MODELS: Mapping[str, type[BaseModel]] = {
    "runs": PublishedRun,
    "classes": Figures,
    "means": Figures,
    "changes": ClaimedChanges,
}
"""The keys whose values are mappings with keys of their own."""
_ALLOWED = {
    "string_type": "text in quotes",
    "string_pattern_mismatch": "a name in one line",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "float_type": "a number",
}


def figure_value(figure: str) -> Decimal:
    """Return the number of a figure without its spread; a percentage becomes a share."""
    number = figure.split(" ± ")[0]
    return Decimal(number[:-1]) / 100 if number.endswith("%") else Decimal(number)


def published_change(before: str | None, after: str | None) -> float | None:
    """Return (b - a) / a of two printed figures; None if one is missing or a is 0."""
    if before is None or after is None or not figure_value(before):
        return None
    return float((figure_value(after) - figure_value(before)) / figure_value(before))


def change_follows(printed: str, before: str | None, after: str | None) -> bool:
    """Say whether a printed change follows from the figures printed with it."""
    return change_text(published_change(before, after)) == printed


@dataclass(frozen=True)
class Confound:
    """A setting that is not compared and yet differs or is not recorded, with both its values."""

    path: str
    before: str
    after: str


def published_confounds(before: PublishedRun, after: PublishedRun, compared: Sequence[str]) -> tuple[Confound, ...]:
    """List the settings outside `compared` that differ between two runs or are not recorded.

    The seed is not one of them: another seed is noise, and the verdict on one seed is undecided.
    """
    confounds = []
    for path in sorted({*before.settings, *after.settings} - {*compared, SEED}):
        a, b = (setting_text(run.settings.get(path, ABSENT)) for run in (before, after))
        if a != b or NOT_RECORDED in (a, b):
            confounds.append(Confound(path, before.setting(path), after.setting(path)))
    return tuple(confounds)


def _step_evidence(before: PublishedRun, after: PublishedRun) -> Evidence:
    """Return the evidence on a step: one difference of printed means, and equal digits."""
    pair = [run.figure(MEAN, "image_auroc") for run in (before, after)]
    known = [float(figure_value(figure)) for figure in pair if figure is not None]
    differences = (known[1] - known[0],) if len(known) == 2 else ()
    identical = bool(after.figures()) and before.figures() == after.figures()
    return Evidence(differences, (), 0.0, identical=identical)


def step_outcome(before: PublishedRun, after: PublishedRun) -> Outcome:
    """Return the verdict on a step between two published runs."""
    return decide(_step_evidence(before, after))[0]


def step_verdict(before: PublishedRun, after: PublishedRun) -> str:
    """Return the verdict on a step in words. Printed means decide nothing but identity."""
    outcome, evidence = step_outcome(before, after), _step_evidence(before, after)
    if outcome is Outcome.IDENTICAL:
        return f"{outcome.value} (every published digit)"
    return f"{outcome.value}: no values seed by seed" if evidence.differences else ABSENT
