"""The keys of a sweep file, strictly typed; `orchestrator.sweep.sweep` gives them their meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import fields, short_names, version_names
from moleflow.settings.yaml_reader import quotes_hint, yaml_text
from moleflow.suggestions import hint_at

MOST_SEEDS = 100_000
Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_SEEDS = f"a list of whole numbers from 0 to 2^63 - 1, or how many (5 means 0, 1, 2, 3, 4; at most {MOST_SEEDS})"
# Inside SweepFile, `list` is a key of the file; this alias stands for the builtin there.
Entries = list[Any]
Settings = dict[str, Any]
_NO_EFFECT = "no_effect"
"""The type of an error whose message names the keys and what is allowed."""


class _Keys(BaseModel):
    """A mapping that refuses unknown keys. Descriptions say what is allowed, also in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Resources(_Keys):
    """The resources of one trial."""

    gpus: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="a number 0..1000: GPUs of one trial on SLURM or Ray; elsewhere --device decides; default: one where "
        "SLURM's profile or partition, or the Ray cluster, has GPUs",
    )
    cpus: int = Field(default=1, ge=1, le=100_000, description="a whole number 1..100000: CPU cores for one trial")
    mem_gb: float = Field(default=4, gt=0, le=1e6, description="a number > 0 and <= 1e6: memory for one trial in GB")
    time_min: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = Field(
        default=240,
        description="a whole number 1..1000000: time limit of one attempt in minutes; the next attempt continues from what is "
        "stored, at once; two in a row without an epoch fail the trial; auto: on SLURM what the slowest trial is expected "
        "to take, with a margin; elsewhere no limit",
    )
    stall_min: float = Field(
        default=60,
        ge=0,
        le=1e6,
        description="a number from 0 to 1e6: minutes without progress after which a trial has stalled: its process is "
        "ended and the attempt fails; 0 = never; keep it below time_min",
    )
    trials_per_gpu: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        default=1,
        description="a whole number 1..1000: trials that share one GPU; auto: on SLURM as many as its memory and the node's "
        "are expected to hold; elsewhere 1",
    )

    @model_validator(mode="after")
    def _check_stall_min(self) -> Self:
        # The default may exceed a short time_min: nobody asked for it.
        if "stall_min" in self.model_fields_set and self.time_min != "auto" and self.stall_min >= self.time_min:
            raise PydanticCustomError(
                _NO_EFFECT,
                "resources.stall_min: given {stall_min}, but resources.time_min = {time_min} ends an attempt before "
                "that, so it would never take effect; give less than {time_min}, or 0 for no limit",
                {"stall_min": f"{self.stall_min:g}", "time_min": self.time_min},
            )
        return self

    @property
    def limit_min(self) -> int:
        """The time limit of an attempt in minutes; 0 = none, for an `auto` that is not resolved."""
        return 0 if self.time_min == "auto" else self.time_min

    @property
    def sharing(self) -> int:
        """The number of trials that share a GPU; 1 for an `auto` that is not resolved."""
        return 1 if self.trials_per_gpu == "auto" else self.trials_per_gpu


class RandomKeys(_Keys):
    """Random variants, drawn with a seed."""

    count: int = Field(ge=1, le=1_000_000_000, description="a whole number 1..1000000000: how many variants to draw")
    seed: int = Field(default=0, ge=0, description="a whole number >= 0: seed of the draws")
    knobs: Settings = Field(description="{knob: {choice: [values]} or {uniform | loguniform | integer: [a, b]}}")


Sampler = Literal["random", "tpe", "gp", "cmaes", "nsga2", "qmc"]
Pruner = Literal["none", "median", "asha", "hyperband", "wilcoxon"]
SELECTION = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
COSTS = ("seconds", "parameters")


class SearchKeys(_Keys):
    """A search by Optuna in place of axes."""

    space: Settings = Field(
        min_length=1, description="{knob: {choice: [values]} or {uniform | loguniform | integer: [a, b]}}"
    )
    trials: int = Field(
        ge=1, le=1_000_000, description="a whole number 1..1000000: configurations to try, each with every seed"
    )
    hours: float | None = Field(
        default=None, gt=0, le=1e6, description="a number > 0 and <= 1e6: hours after which no new configuration starts"
    )
    sampler: Sampler = Field(default="tpe", description=" | ".join(get_args(Sampler)))
    pruner: Pruner = Field(
        default="none", description=" | ".join(get_args(Pruner)) + ": the rule that stops bad configurations early"
    )
    seed: int = Field(  # As numpy's RandomState takes it, which Optuna's samplers use.
        default=0, ge=0, le=2**32 - 1, description=f"a whole number 0..{2**32 - 1}: seed of the sampler"
    )
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        default={"image_auroc": "maximize"},
        min_length=1,
        description=f"{{metric: maximize | minimize}}, each of {', '.join((*SELECTION, *COSTS))}; of the validation split",
    )
    constraints: dict[str, float] = Field(
        default={},
        description=f"{{metric: bound}}: an upper bound for {' or '.join(COSTS)}, a lower bound for the other metrics",
    )
    parallel: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="a whole number 1..100000: most trials that run at once; default: as many as the backend runs",
    )
    start_from: list[str] = Field(
        default=[],
        description="[folder, ...]: results folders whose configurations are tried first, if the space has them; with ~ and $NAME",
    )
    published: bool = Field(default=False, description="true or false: true tries the notes' own variants first too")
    finalists: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="a whole number 0..10000: how many of the best configurations are tested at the end",
    )
    final_seeds: Seeds | None = Field(default=None, description=f"{_SEEDS}: seeds of these tests; default: the sweep's")


class EarlyStopping(_Keys):
    """The rule by which Ray Tune stops bad trials early."""

    rule: Literal["asha", "median"] = Field(description="asha | median: the scheduler of Ray Tune that decides")
    grace_tasks: int = Field(
        default=1, ge=1, le=10_000, description="a whole number 1..10000: tasks that every trial trains"
    )
    metric: str = Field(
        default="image_auroc", pattern="^(" + "|".join(SELECTION) + ")$", description=" | ".join(SELECTION)
    )


class ReportKeys(_Keys):
    """The settings of the report."""

    baseline: Settings = Field(
        default={}, description="{knob: value} of the variant that the others are compared with, such as {version: v3}"
    )


class WithoutData(_Keys):
    """The base and seeds of a run without a data root, and the tasks if they are an axis."""

    base: str = Field(default="demo", description="the name of a base, or the path of a .yaml file")
    seeds: Seeds | None = Field(default=None, description=f"{_SEEDS}; default: the first two of the sweep's")
    tasks: list[Any] | None = Field(
        default=None, description="a list of values: those of the axis data.tasks, in place of the ones under grid"
    )


class SweepFile(_Keys):
    """A sweep file."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
        description="a name of at most 100 letters, digits, _ . - (in quotes if it is a number): the sweep's name",
    )
    question: str = Field(default="", description="a text: the question that the sweep answers")
    version: str | None = Field(
        default=None, description="the name of a version; may be left out if version is an axis"
    )
    base: str | Settings = Field(
        default={},
        description="the name of a base, the path of a .yaml file, or {knob: value} with an optional `extends: base`",
    )
    grid: Settings = Field(default={}, description="{knob: [values]}: all combinations")
    zip: Settings = Field(default={}, description="{knob: [values]} of equal lengths: the n-th values together")
    list: Entries = Field(default=[], min_length=1, description="[{knob: value, ...}, ...]: variants written out")
    random: RandomKeys | None = Field(default=None, description="{count, seed, knobs}: seeded draws")
    search: SearchKeys | None = Field(
        default=None, description=f"{{{', '.join(SearchKeys.model_fields)}}}: a search by Optuna in place of axes"
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description=f"{{{', '.join(EarlyStopping.model_fields)}}}: Ray Tune stops bad trials early"
    )
    when: Settings = Field(
        default={},
        description="{axis: {knob: value or [values] or '> 0'}}: the axis varies only where this condition holds",
    )
    exclude: Entries = Field(
        default=[], description="[{knob: value or [values] or '> 0', ...}, ...]: variants to leave out"
    )
    seeds: Seeds = Field(default=[0], description=_SEEDS)
    yardstick: Literal["memory_bank"] | None = Field(
        default=None,
        description="memory_bank: one more trial per seed, nearest neighbours in the same features (knobs bank.*)",
    )
    keep: Literal["best", "all"] | None = Field(
        default=None,
        description="best | all: store the trained detectors of the best variant, or of every trial, with the results",
    )
    report: ReportKeys = Field(
        default=ReportKeys(), description="{baseline: {knob: value}}, such as {baseline: {version: v3}}"
    )
    resources: Resources = Field(default=Resources(), description=f"{{{', '.join(Resources.model_fields)}}}: per trial")
    retries: int = Field(
        default=1, ge=0, le=100, description="a whole number 0..100: further attempts at a failed trial"
    )
    data: str | None = Field(
        default=None,
        description="a path, absolute, with ~ or $NAME, or relative to the sweep file's folder: the data root",
    )
    without_data: WithoutData = Field(
        default=WithoutData(), description="{base, seeds, tasks}: used if no data root is given"
    )


_ENTRIES_ALLOWED = {
    "objectives": "maximize | minimize",
    "constraints": "a number, as in {seconds: 60} (at most) or {image_auroc: 0.9} (at least)",
}


def parse_sweep_file(document: Mapping[str, Any], source: str) -> SweepFile:
    """Check a document and return it as typed keys.

    Raises:
        InvalidInput: an unknown, missing or ill-typed key.

    """
    try:
        return SweepFile.model_validate(dict(document))
    except ValidationError as error:
        raise InvalidInput(f"{source}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """Return the first problem in one line."""
    problems = error.errors(include_url=False)
    # A misspelled key is the reason why the right one is missing.
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    if first["type"] == _NO_EFFECT:
        return first["msg"]
    model: type[BaseModel] = SweepFile
    path: list[str] = []
    allowed = ""
    for key in map(str, first["loc"]):
        if key not in model.model_fields:
            if path[-1:] and path[-1] in _ENTRIES_ALLOWED and first["type"] != "extra_forbidden":
                path, allowed = [*path, key], _ENTRIES_ALLOWED[path[-1]]
            break
        field = model.model_fields[key]
        path.append(key)
        allowed = field.description or ""
        model = next(iter(models_in(field.annotation)), BaseModel)
    where = ".".join(path)
    if first["type"] == "extra_forbidden":
        return _unknown(str(first["loc"][-1]), where, model)
    if first["type"] == "missing":
        return f"{where}: is missing; give {allowed}"
    words = re.findall(r"[\w.]+", str(first.get("ctx", {}).get("expected", "")))
    if where == "version":
        words = version_names()
        allowed = ", ".join(words)
    elif where == "early_stopping.metric":
        words = [*SELECTION]
    hint = hint_at(first["input"], words) or (quotes_hint(first["input"]) if first["type"] == "string_type" else "")
    return f"{where}: given {yaml_text(first['input'])}, allowed: {allowed}{hint}"


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the pydantic models in an annotation such as `RandomKeys | None`."""
    options = getattr(annotation, "__args__", (annotation,))
    return [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]


def _unknown(key: str, where: str, model: type[BaseModel]) -> str:
    if not where and key == "seed":
        return "unknown key 'seed'. Did you mean 'seeds'? It takes a number of seeds, or a list: seeds: [3]"
    if not where and (key in fields() or key in short_names()):
        return f"unknown key '{key}': it is a knob, so it belongs under base, or as an axis under grid"
    keys = list(model.model_fields)
    prefix = f"{where}." if where else ""
    return f"unknown key '{prefix}{key}'; allowed: {', '.join(keys)}{hint_at(key, keys)}"
