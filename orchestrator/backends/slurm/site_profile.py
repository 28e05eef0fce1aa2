"""Site profiles: how one SLURM site wants its jobs, in a YAML file. What a trial needs stays in the sweep file's `resources`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.yaml_reader import read_mapping, yaml_text

# sbatch options that this tool sets, and what sets them.
_TAKEN = {
    "account": "key 'account'",
    "array": "keys 'parallelism' and 'max_array_size'",
    "constraint": "key 'constraint'",
    "cpus-per-gpu": "the sweep file's resources.cpus",
    "cpus-per-task": "the sweep file's resources.cpus",
    "dependency": "the tool, where one array follows another",
    "error": "the results folder, where logs lie",
    "gpus": "key 'gres' and the sweep file's resources.gpus",
    "gpus-per-node": "key 'gres' and the sweep file's resources.gpus",
    "gpus-per-task": "key 'gres' and the sweep file's resources.gpus",
    "gres": "key 'gres' and the sweep file's resources.gpus",
    "job-name": "the sweep's name",
    "mem": "the sweep file's resources.mem_gb",
    "mem-per-cpu": "the sweep file's resources.mem_gb",
    "mem-per-gpu": "the sweep file's resources.mem_gb",
    "no-requeue": "the tool, which needs interrupted jobs requeued",
    "nodes": "the tool: one node an array element",
    "ntasks": "the tool: one task an array element",
    "ntasks-per-node": "the tool: one task an array element",
    "open-mode": "the tool, which keeps the logs of earlier starts",
    "output": "the results folder, where logs lie",
    "partition": "key 'partition'",
    "qos": "key 'qos'",
    "requeue": "the tool, which needs interrupted jobs requeued",
    "signal": "key 'signal_s'",
    "time": "the sweep file's resources.time_min",
    "wrap": "the tool: it writes the script",
}


def _free(name: str) -> str:
    # sbatch takes the beginning of an option's name for the whole.
    taken = next((option for option in _TAKEN if option.startswith(name)), None)
    if taken:
        raise ValueError(f"--{taken} is set by {_TAKEN[taken]}; leave it out here")
    return name


def _template(text: str) -> str:
    rest = text.replace("{gpus}", "", 1)
    if rest == text or "{" in rest or "}" in rest:
        raise ValueError("{gpus} must stand in it once, and no other braces")
    return text


Line = Annotated[str, Field(min_length=1, pattern=r"^[^\r\n]*$")]
Option = Annotated[str, Field(pattern=r"^[a-z][a-z-]*$"), AfterValidator(_free)]


class SiteProfile(BaseModel):
    """A SLURM site. Descriptions say what is allowed, also in error messages and in the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    partition: Line | None = Field(default=None, description="a text: the partition, or several with commas between")
    account: Line | None = Field(default=None, description="a text (in quotes if it is a number): who is charged")
    qos: Line | None = Field(default=None, description="a text: the quality of service")
    constraint: Line | None = Field(default=None, description="a text: the features that a node must have")
    gres: Annotated[Line, AfterValidator(_template)] | None = Field(
        default="gpu:{gpus}",
        description="a text with {gpus} in it, such as 'gpu:a100:{gpus}': how GPUs are asked for; null = not at all",
    )
    setup: list[str] = Field(default=[], description="[shell lines]: run in the job before the worker starts")
    container: Line | None = Field(
        default=None,
        description="a text: the command that the worker is started with, such as `apptainer exec --nv IMAGE`",
    )
    python: Line = Field(
        default_factory=lambda: sys.executable,
        description="a text: the interpreter on the compute nodes; left out = the one that runs this command",
    )
    max_array_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="a whole number >= 1: elements of one array at most; null = ask `scontrol show config`",
    )
    parallelism: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="a whole number >= 1: elements of an array that run at once; null = as many as SLURM lets",
    )
    trials_per_job: int = Field(
        default=1,
        ge=1,
        description="a whole number >= 1: trials that one array element runs; more than one spares short trials the queue",
    )
    trials_per_gpu: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="a whole number >= 1: trials that share a GPU; null = the sweep file's resources.trials_per_gpu",
    )
    signal_s: int = Field(
        default=90,
        ge=1,
        le=65535,
        description="a whole number 1..65535: seconds before its time limit that a worker is told",
    )
    stages: Literal["claims", "dependencies"] = Field(
        default="claims",
        description="claims: a trial takes the stages that are there and trains what is missing, and one that needs what another is "
        "training waits in its job; dependencies: it waits in the queue, in an array that starts after its leaders' (afterany)",
    )
    node_cache: Line | None = Field(
        default=None,
        description="a path on the nodes' own disks, with $VARIABLES of the job if need be: features are copied there first",
    )
    accounting: bool | None = Field(default=None, description="true or false: whether sacct answers; null = find out")
    extra: dict[Option, Line | int | float | Literal[True]] = Field(
        default={},
        description="{sbatch option: value}, named as in `sbatch --help` but without --; true for an option that takes no value",
    )


def load_profile(path: Path | None) -> SiteProfile:
    """The profile in a YAML file; without one, that of a site without anything special.

    Raises:
        InvalidInput: no such file, not YAML, or an unknown or ill-typed key: what was given, what is allowed.

    """
    if path is None:
        return SiteProfile()
    try:
        return SiteProfile.model_validate(read_mapping(path))
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_explain(error)}") from None


def profile_reference() -> str:
    """Every key in a Markdown table."""
    rows = ["| key | what it holds | default |", "|---|---|---|"]
    for key, field in SiteProfile.model_fields.items():
        default = f"`{json.dumps(field.default)}`" if field.default_factory is None else "this command's"
        description = str(field.description).replace("|", r"\|")
        rows.append(f"| `{key}` | {description} | {default} |")
    return "\n".join(rows)


def _explain(error: ValidationError) -> str:
    """The first problem in one line."""
    first = error.errors(include_url=False)[0]
    key, *inside = map(str, first["loc"])
    fields = SiteProfile.model_fields
    if key not in fields:
        return f"unknown key '{key}'; allowed: {', '.join(fields)}{did_you_mean(key, fields)}"
    where = f"{key}.{inside[0]}" if key == "extra" and inside and inside[-1] != "[key]" else key
    if first["type"] == "value_error":
        return f"{where}: given {yaml_text(first['input'])}, but {first['ctx']['error']}"
    return f"{where}: given {yaml_text(first['input'])}, allowed: {fields[key].description}"
