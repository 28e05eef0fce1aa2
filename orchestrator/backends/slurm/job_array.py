"""Job arrays: the packing of trials into array tasks, and the sbatch script."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moleflow.errors import InvalidInput
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.host.environment_variables import thread_variables
from orchestrator.host.printable_text import printable
from orchestrator.sweep.file_schema import Resources

if TYPE_CHECKING:
    from submitit import SlurmExecutor

T = TypeVar("T")


@dataclass(frozen=True)
class ArrayShape:
    """The resources of one array task.

    Attributes:
        trials: the trials that it runs, at most.
        parallel: the trials that it runs at once, on one GPU if it has one.
        time_min: its time limit in minutes.
        cpus, mem_gb, gpus: for all trials that run at once; mem_gb is 0 if none is asked for.

    """

    trials: int
    parallel: int
    time_min: int
    cpus: int
    mem_gb: float
    gpus: int


def array_shape(needs: Resources, profile: SiteProfile) -> ArrayShape:
    """The array task for trials that need `needs`.

    With `gpus: 0.5` two trials share a GPU, with 0.25 four. `needs` has no `auto`, and no None
    where trials run on GPUs.
    """
    gpus = needs.gpus or 0
    share = math.floor(1 / gpus) if 0 < gpus < 1 else 1
    parallel = profile.trials_per_gpu if isinstance(profile.trials_per_gpu, int) else max(needs.sharing, share)
    trials = max(profile.trials_per_job, parallel)
    return ArrayShape(
        trials=trials,
        parallel=parallel,
        time_min=needs.limit_min * math.ceil(trials / parallel),
        cpus=needs.cpus * parallel,
        mem_gb=0.0 if profile.mem == "none" else needs.mem_gb * parallel,
        gpus=math.ceil(gpus),
    )


def batched(items: Sequence[T], size: int) -> list[list[T]]:
    """The items in order, in lists of at most `size`."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def submitit_executor(
    folder: Path, name: str, shape: ArrayShape, profile: SiteProfile, threads: int, after: Sequence[str] = ()
) -> SlurmExecutor:
    """A submitit executor for arrays of one shape.

    Args:
        folder: the folder for scripts and output.
        name: the job's name in SLURM.
        shape: the resources of an array task.
        profile: the site's profile.
        threads: CPU threads of a trial.
        after: job ids; the array starts after those jobs have ended, even by failing.

    Raises:
        InvalidInput: the folder's path or the name has several lines.
        RuntimeError: this is no SLURM login node.

    """
    from submitit import SlurmExecutor

    _refuse_lines(folder, name)
    executor = SlurmExecutor(folder, python=profile.start_python)
    executor.update_parameters(**_parameters(name, shape, profile, threads, after))
    return executor


def sbatch_script(
    folder: Path,
    name: str,
    shape: ArrayShape,
    profile: SiteProfile,
    threads: int,
    after: Sequence[str] = (),
    tasks: int = 1,
) -> str:
    """The text of the sbatch script for an array of `tasks` tasks; needs no SLURM.

    The other arguments and errors are those of `submitit_executor`, which submits this script.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    _refuse_lines(folder, name)
    # submitit keeps paths absolute, and starts the worker with the folder as its only argument.
    command = f"{profile.start_python} -u -m submitit.core._submit {shlex.quote(str(folder.absolute()))}"
    parameters = _parameters(name, shape, profile, threads, after)
    if tasks > 1:
        parameters["map_count"] = tasks
    return str(_make_sbatch_string(command=command, folder=folder.absolute(), **parameters))


def _refuse_lines(folder: Path, name: str) -> None:
    for text in (str(folder), name):
        # The second line of an option, even of a quoted one, would be a command of the script.
        if printable(text) != text or "\n" in text:
            raise InvalidInput(
                f"{text!r}: given for an sbatch script, allowed: names without line breaks and control characters; "
                "give another folder with --out"
            )


def _parameters(
    name: str, shape: ArrayShape, profile: SiteProfile, threads: int, after: Sequence[str]
) -> dict[str, Any]:
    """The parameters of submitit for arrays of one shape."""
    options: dict[str, Any] = {
        "job_name": name,
        "time": shape.time_min,
        "cpus_per_task": shape.cpus,
        **_memory(shape, profile),
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gres": profile.gres.format(gpus=shape.gpus) if profile.gres and shape.gpus else None,
        "setup": [*(f"export {name}={value}" for name, value in thread_variables(threads).items()), *profile.setup],
        "signal_delay_s": min(profile.signal_s, 60 * shape.time_min // 3),
        "array_parallelism": profile.parallelism or 1_000_000,
        "stderr_to_stdout": True,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        # Since 22.05 SLURM no longer passes the cores of a job on to its steps.
        "srun_args": [f"--cpus-per-task={shape.cpus}"],
        "additional_parameters": {"requeue": True} | dict(profile.extra),
    }
    given = {option: value for option, value in options.items() if value is not None}
    # submitit's own default is a wckey, which sites without that name refuse.
    return given | {"wckey": None}


def _memory(shape: ArrayShape, profile: SiteProfile) -> dict[str, str]:
    """The request for memory, in the form that the site's `mem` names.

    Raises:
        InvalidInput: `mem: per_gpu`, and the job asks for no GPU.

    """
    mebibytes = shape.mem_gb * 1024
    if profile.mem == "per_cpu":
        return {"mem_per_cpu": f"{math.ceil(mebibytes / shape.cpus)}M"}
    if profile.mem == "per_gpu":
        if not shape.gpus:
            raise InvalidInput(
                "mem: given per_gpu in the profile, but these jobs ask for no GPU; take per_node or per_cpu, or give "
                "--set resources.gpus=1"
            )
        return {"mem_per_gpu": f"{math.ceil(mebibytes / shape.gpus)}M"}
    return {"mem": f"{math.ceil(mebibytes)}M"} if profile.mem == "per_node" else {}
