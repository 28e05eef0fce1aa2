"""The jobs of a sweep on SLURM, told before any is submitted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from moleflow.errors import counted
from orchestrator.backends.slurm.job_array import ArrayShape, array_shape
from orchestrator.driver.backend_choice import slurm_backend
from orchestrator.driver.driver import trial_source_of_plan
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.driver.slurm_needs import SlurmNeeds, memory_sentence, needs_on_slurm
from orchestrator.driver.trial_cost import GB
from orchestrator.host.durations import duration_text


@dataclass(frozen=True)
class JobsAhead:
    """The jobs that a run would submit, if no trial were in a job yet.

    Attributes:
        jobs: the number of array tasks; None for a search, whose trials are not known.
        arrays: the number of arrays.
        shape: the resources of a job.
        needs: the decided resources, the profile and the expected cost.

    """

    jobs: int | None
    arrays: int
    shape: ArrayShape
    needs: SlurmNeeds

    @property
    def gpu_hours(self) -> float | None:
        """GPU-hours of all trials, if trials on one GPU do not slow one another down."""
        cost = self.needs.cost
        return None if cost is None else cost.total_s / 3600 / self.shape.parallel * self.shape.gpus


def jobs_ahead(prepared: Prepared, options: Options) -> JobsAhead | None:
    """The jobs of a sweep, without asking more of SLURM than its limits; None without any.

    Raises:
        InvalidInput: as `needs_on_slurm`.
        OSError: as `needs_on_slurm`.

    """
    needs = needs_on_slurm(prepared, options, assume=True, with_cost=True)
    if needs.cost is None:
        return None
    decided = needs.prepared
    shape = array_shape(decided.sweep.resources, needs.profile)
    if decided.sweep.search is not None:
        return JobsAhead(None, 0, shape, needs)
    source = trial_source_of_plan(decided, options, decided.plan.of("to run"))
    arrays = slurm_backend(worker_config(decided, options), needs.profile).arrays(source)
    return JobsAhead(sum(len(array.tasks) for array in arrays), len(arrays), shape, needs)


def slurm_lines(ahead: JobsAhead | None) -> Iterator[str]:
    """The lines of `plan` about jobs."""
    if ahead is None:
        yield "jobs:     none: nothing is to run"
        return
    yield from ahead.needs.lines()
    yield f"jobs:     {_jobs(ahead)}"
    if ahead.shape.gpus:
        yield f"GPUs:     {_gpus(ahead)}"
    yield f"walltime: {_walltime(ahead)}"
    yield f"memory:   {_memory(ahead)}"


def _jobs(ahead: JobsAhead) -> str:
    shape, profile = ahead.shape, ahead.needs.profile
    if ahead.jobs is None:
        return "a search submits trials as it suggests them; the figures are those of one trial of its base"
    each = f"{counted(shape.trials, 'trial')} each" + (f", {shape.parallel} at once" if shape.parallel > 1 else "")
    most = f"; at most {profile.parallelism} jobs of an array at once" if profile.parallelism else ""
    return f"{counted(ahead.jobs, 'job')} in {counted(ahead.arrays, 'array')}: {each}{most}"


def _gpus(ahead: JobsAhead) -> str:
    cost, hours = ahead.needs.cost, ahead.gpu_hours
    text = f"{counted(ahead.shape.gpus, 'GPU')} a job"
    if cost is None or hours is None:
        return text
    about = "about" if ahead.shape.parallel == 1 else "at least"
    waits = "; a trial that waits for a stage of another one keeps its GPU meanwhile (stages: dependencies does not)"
    more = waits if ahead.needs.profile.stages == "claims" else ""
    return f"{text}; {about} {duration_text(3600 * hours)} of GPU time, {cost.source}{more}"


def _walltime(ahead: JobsAhead) -> str:
    cost, shape = ahead.needs.cost, ahead.shape
    text = f"limit {shape.time_min} min a job"
    if cost is None:
        return text
    turns = math.ceil(shape.trials / shape.parallel)
    limit = ahead.needs.prepared.sweep.resources.limit_min
    auto = cost.limit_min(shape.parallel)
    slowest = f"the slowest trial takes about {cost.slowest_s / 60:.1f} min, {cost.source}"
    advice = f"time_min: auto gives {auto}" if limit != auto else "time_min is what auto gives"
    short = "; that is more than time_min" if cost.slowest_s * shape.parallel / 60 > limit else ""
    in_turn = f" for {turns} trials one after another" if turns > 1 else ""
    return f"{text}{in_turn}; {slowest}{short}; {advice}"


def _memory(ahead: JobsAhead) -> str:
    cost, shape, profile = ahead.needs.cost, ahead.shape, ahead.needs.profile
    asked = "none asked for (mem: none)" if profile.mem == "none" else f"{shape.mem_gb:g} GB a job ({profile.mem})"
    if cost is None:
        return asked
    if shape.gpus:
        return f"{asked}; {memory_sentence(cost, profile.gpu_mem_gb)}"
    return f"{asked}; a trial's model and features take about {cost.device_bytes / GB:.2g} GB, besides torch's own"


def slurm_json(ahead: JobsAhead | None) -> dict[str, Any] | None:
    """The same facts as JSON; None without jobs."""
    if ahead is None:
        return None
    cost = ahead.needs.cost
    return {
        "jobs": ahead.jobs,
        "arrays": ahead.arrays,
        "job": asdict(ahead.shape),
        "gpu_hours": ahead.gpu_hours,
        "cost": asdict(cost) if cost else None,
        "notes": ahead.needs.notes,
        "assumed": ahead.needs.assumed,
    }
