"""Site profiles: YAML files with the rules of one SLURM site.

The resources of a trial are in the sweep file, under `resources`.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from moleflow.errors import InvalidInput
from moleflow.settings.yaml_reader import read_mapping, yaml_text
from moleflow.suggestions import hint_at

# The sbatch options that this tool sets, each with the key or setting that decides.
_TAKEN = {
    "account": "key 'account'",
    "array": "keys 'parallelism' and 'max_array_size'",
    "constraint": "key 'constraint'",
    "cpus-per-gpu": "the sweep file's resources.cpus",
    "cpus-per-task": "the sweep file's resources.cpus",
    "dependency": "the tool, where one array follows another",
    "error": "the results folder, which holds the logs",
    "gpus": "key 'gres' and the sweep file's resources.gpus",
    "gpus-per-node": "key 'gres' and the sweep file's resources.gpus",
    "gpus-per-task": "key 'gres' and the sweep file's resources.gpus",
    "gres": "key 'gres' and the sweep file's resources.gpus",
    "job-name": "the sweep's name",
    "mem": "key 'mem' and the sweep file's resources.mem_gb",
    "mem-per-cpu": "key 'mem' and the sweep file's resources.mem_gb",
    "mem-per-gpu": "key 'mem' and the sweep file's resources.mem_gb",
    "no-requeue": "the tool, which needs interrupted jobs requeued",
    "nodes": "the tool: one node for each array task",
    "ntasks": "the tool: one process for each array task",
    "ntasks-per-node": "the tool: one process for each array task",
    "open-mode": "the tool, which keeps the logs of earlier starts",
    "output": "the results folder, which holds the logs",
    "partition": "key 'partition'",
    "qos": "key 'qos'",
    "requeue": "the tool, which needs interrupted jobs requeued",
    "signal": "key 'signal_s'",
    "time": "the sweep file's resources.time_min",
    "wrap": "the tool: it writes the script",
}


def _free(name: str) -> str:
    # sbatch accepts a prefix of an option's name, such as --tim for --time.
    taken = next((option for option in _TAKEN if option.startswith(name)), None)
    if taken:
        raise ValueError(f"--{taken} is set by {_TAKEN[taken]}; leave it out here")
    return name


def _template(text: str) -> str:
    rest = text.replace("{gpus}", "", 1)
    if rest == text or "{" in rest or "}" in rest:
        raise ValueError("it must contain {gpus} once and no other braces")
    return text


def _path_with_variables(path: str) -> str:
    """A path as one word of the shell, which expands only the `$NAME` in it, and `~/`."""
    word = re.sub(r'(["`\\]|\$(?![A-Za-z_{]))', r"\\\1", path)
    return f'"$HOME{word[1:]}"' if word.startswith("~/") else f'"{word}"'


Line = Annotated[str, Field(min_length=1, pattern=r"^[^\r\n]*$")]
Option = Annotated[str, Field(pattern=r"^[a-z][a-z-]*$"), AfterValidator(_free)]


class SiteProfile(BaseModel):
    """The rules of a SLURM site.

    Error messages and the reference show the descriptions of the keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    partition: Line | None = Field(default=None, description="a text: the partition, or several with commas between")
    account: Line | None = Field(
        default=None, description="a text (in quotes if it is a number): the account that is charged"
    )
    qos: Line | None = Field(default=None, description="a text: the quality of service")
    constraint: Line | None = Field(default=None, description="a text: the features that a node must have")
    gres: Annotated[Line, AfterValidator(_template)] | None = Field(
        default="gpu:{gpus}",
        description="a text with {gpus} in it, such as 'gpu:a100:{gpus}': the request for GPUs, of which a trial then gets one "
        "unless the sweep file says otherwise; null = no request; without the key: 'gpu:{gpus}' if the partition has GPUs",
    )
    setup: list[str] = Field(default=[], description="[shell lines]: run in the job before the worker starts")
    container: Line | None = Field(
        default=None,
        description="a text: the command that starts the worker, such as `apptainer exec --nv IMAGE`",
    )
    python: Line | None = Field(
        default=None,
        description="the path of the interpreter on the compute nodes, with $VARIABLES of the job; null = the one that runs "
        "this command",
    )
    mem: Literal["per_node", "per_gpu", "per_cpu", "none"] = Field(
        default="per_node",
        description="per_node | per_gpu | per_cpu: the option of sbatch that asks for a job's memory (--mem, --mem-per-gpu, "
        "--mem-per-cpu); none: no request, and the site's own default counts",
    )
    max_array_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="a whole number >= 1: array tasks of one array at most; null = ask `scontrol show config`",
    )
    parallelism: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="a whole number >= 1: array tasks of one array that run at once; null = as many as SLURM allows",
    )
    trials_per_job: int = Field(
        default=1,
        ge=1,
        description="a whole number >= 1: trials that one array task runs; more than one saves short trials the wait in the queue",
    )
    trials_per_gpu: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        default=None,
        description="a whole number >= 1: trials that share a GPU; auto: as many as gpu_mem_gb and the node's memory are "
        "expected to hold; null = the sweep file's resources.trials_per_gpu",
    )
    gpu_mem_gb: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        default=None, description="a number > 0: memory of one GPU in GB, which trials_per_gpu: auto divides"
    )
    signal_s: int = Field(
        default=90,
        ge=1,
        le=65535,
        description="a whole number 1..65535: seconds before its time limit at which a job is warned",
    )
    stages: Literal["claims", "dependencies"] = Field(
        default="claims",
        description="claims: a trial waits in its job for a stage that another one is training; dependencies: it waits "
        "in the queue, in an array that starts after the other trial's array has ended (afterany)",
    )
    node_cache: Line | None = Field(
        default=None,
        description="a path on the nodes' own disks, with $VARIABLES of the job: features are copied there and read from there",
    )
    accounting: bool | None = Field(
        default=None, description="true or false: whether sacct can be asked; null = find out"
    )
    extra: dict[Option, Line | int | float | Literal[True]] = Field(
        default={},
        description="{sbatch option: value}, named as in `sbatch --help`, without --; true for an option without a value",
    )

    @property
    def start_python(self) -> str:
        """The shell words that start Python in a job."""
        # A path that was found here is literal. In one of the profile, the job expands variables.
        python = shlex.quote(sys.executable) if self.python is None else _path_with_variables(self.python)
        return f"{self.container} {python}" if self.container else python


def load_profile(path: Path | None) -> SiteProfile:
    """The profile in a YAML file; None gives the defaults.

    Raises:
        InvalidInput: no such file, not YAML, an unknown key, or a value that is not allowed.

    """
    if path is None:
        return SiteProfile()
    try:
        return SiteProfile.model_validate(read_mapping(path))
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_explain(error)}") from None


def profile_reference() -> str:
    """The keys of a profile as a Markdown table."""
    rows = ["| key | what it holds | default |", "|---|---|---|"]
    for key, field in SiteProfile.model_fields.items():
        description = str(field.description).replace("|", r"\|")
        rows.append(f"| `{key}` | {description} | `{json.dumps(field.default)}` |")
    return "\n".join(rows)


def _explain(error: ValidationError) -> str:
    """The first problem in one line."""
    first = error.errors(include_url=False)[0]
    key, *inside = map(str, first["loc"])
    fields = SiteProfile.model_fields
    if key not in fields:
        return f"unknown key '{key}'; allowed: {', '.join(fields)}{hint_at(key, fields)}"
    where = f"{key}.{inside[0]}" if key == "extra" and inside and inside[-1] != "[key]" else key
    if first["type"] == "value_error":
        return f"{where}: given {yaml_text(first['input'])}, but {first['ctx']['error']}"
    return f"{where}: given {yaml_text(first['input'])}, allowed: {fields[key].description}"
