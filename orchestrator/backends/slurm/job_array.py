"""What is submitted: how trials are packed into array elements, and each array's sbatch script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.host.environment_variables import thread_variables
from orchestrator.sweep.file_schema import Resources

if TYPE_CHECKING:
    from submitit import SlurmExecutor

T = TypeVar("T")


@dataclass(frozen=True)
class ArrayShape:
    """What one element of an array is given.

    Attributes:
        trials: how many it runs, at most.
        beside: how many of them at once, on the same GPU where there is one.
        time_min, cpus, mem_gb, gpus: for all of them together.

    """

    trials: int
    beside: int
    time_min: int
    cpus: int
    mem_gb: float
    gpus: int


def array_shape(needs: Resources, profile: SiteProfile) -> ArrayShape:
    """The element for trials that need `needs`; a fraction of a GPU means that so many trials share one."""
    share = math.floor(1 / needs.gpus) if 0 < needs.gpus < 1 else 1
    beside = profile.trials_per_gpu or max(needs.trials_per_gpu, share)
    trials = max(profile.trials_per_job, beside)
    return ArrayShape(
        trials=trials,
        beside=beside,
        time_min=needs.time_min * math.ceil(trials / beside),
        cpus=needs.cpus * beside,
        mem_gb=needs.mem_gb * beside,
        gpus=math.ceil(needs.gpus),
    )


def pack_trials(items: Sequence[T], size: int) -> list[list[T]]:
    """The items in order, `size` together."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def submitit_executor(
    folder: Path, name: str, form: ArrayShape, profile: SiteProfile, threads: int, after: Sequence[str] = ()
) -> SlurmExecutor:
    """A submitit executor that submits arrays of such elements.

    Args:
        folder: where scripts and output go.
        name: the job's name in SLURM.
        form: what an element is given.
        profile: the site's.
        threads: CPU threads of a trial.
        after: job numbers; the array waits until those jobs have ended, however they ended.

    """
    from submitit import SlurmExecutor

    made = SlurmExecutor(folder, python=" ".join(part for part in (profile.container, profile.python) if part) or None)
    options: dict[str, Any] = {
        "job_name": name,
        "time": form.time_min,
        "cpus_per_task": form.cpus,
        "mem": f"{math.ceil(form.mem_gb * 1024)}M",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gres": profile.gres.format(gpus=form.gpus) if profile.gres and form.gpus else None,
        "setup": [*(f"export {name}={value}" for name, value in thread_variables(threads).items()), *profile.setup],
        "signal_delay_s": min(profile.signal_s, 60 * form.time_min // 3),
        "array_parallelism": profile.parallelism or 1_000_000,
        "stderr_to_stdout": True,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        # A step gets the cores of its job only when it is told so; since 22.05 SLURM no longer passes them on.
        "srun_args": [f"--cpus-per-task={form.cpus}"],
        "additional_parameters": {"requeue": True} | dict(profile.extra),
    }
    made.update_parameters(**{option: value for option, value in options.items() if value is not None})
    return made


def sbatch_script(made: SlurmExecutor, elements: int) -> str:
    """The text of the sbatch script, as it would be submitted."""
    from submitit.slurm.slurm import _make_sbatch_string

    parameters: dict[str, Any] = dict(made.parameters)
    if elements > 1:
        parameters["map_count"] = elements
    return str(_make_sbatch_string(command=made._submitit_command_str, folder=made.folder, **parameters))
