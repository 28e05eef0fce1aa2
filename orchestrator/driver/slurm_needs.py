"""The resources of a trial on SLURM: what the sweep file leaves open is decided for the site."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from rich.console import Console

from moleflow.errors import InvalidInput, counted
from orchestrator.backends.slurm.gpu_request import gpu_model, gpus_of_trial, partition_name
from orchestrator.backends.slurm.job_array import array_shape
from orchestrator.backends.slurm.queue import SlurmUnavailable, has_gpus, largest_array, memory_per_gpu
from orchestrator.backends.slurm.site_profile import SiteProfile, load_profile
from orchestrator.driver.prepare import Options, Prepared
from orchestrator.driver.trial_cost import (
    CUDA_BYTES,
    FILLED,
    GB,
    MARGIN,
    MOST_ON_A_GPU,
    START_MIN,
    TrialCost,
    trial_cost,
)
from orchestrator.sweep.file_schema import Resources

ASSUMED_ARRAY = 1000
"""Array tasks of one array on a site that does not answer: SLURM's own default."""


@dataclass
class SlurmNeeds:
    """A sweep whose resources are decided, and the profile of its site.

    Attributes:
        prepared: the sweep.
        profile: the site's profile.
        cost: the expected cost of its trials; None if it was not needed.
        notes: sentences for the user, such as cores that nothing uses.
        assumed: what SLURM could not be asked, and what was assumed instead.

    """

    prepared: Prepared
    profile: SiteProfile
    cost: TrialCost | None = None
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The notes and assumptions as lines of a plan."""
        yield from (f"note:     {note}" for note in self.notes)
        yield from (f"assumed:  {one}" for one in self.assumed)


def decide_on_slurm(prepared: Prepared, options: Options, console: Console, finished: bool = False) -> Prepared:
    """Return the sweep with decided resources, if it runs on SLURM; print the notes.

    A sweep without trials to run stays as it is and needs no SLURM, unless `finished` is true.

    Raises:
        InvalidInput: as `needs_on_slurm`.
        SlurmUnavailable: as `needs_on_slurm`.

    """
    starts = finished or prepared.sweep.search is not None or bool(prepared.plan.of("to run"))
    if options.backend != "slurm" or not starts:
        return prepared
    needs = needs_on_slurm(prepared, options)
    for line in needs.lines():
        console.print(line)
    return needs.prepared


def needs_on_slurm(prepared: Prepared, options: Options, assume: bool = False, with_cost: bool = False) -> SlurmNeeds:
    """Decide the GPUs of a trial, and every `auto`.

    Args:
        prepared: the sweep.
        options: the command's options.
        assume: where SLURM does not answer, assume the answer instead of failing. The profile then
            has the size of the largest array, too.
        with_cost: find the expected cost of the trials in any case; else only an `auto` needs it.

    Raises:
        InvalidInput: a mistake in the profile, the sweep asks for no GPU on a site with GPUs, or
            an `auto` that lacks the memory of a GPU.
        SlurmUnavailable: SLURM does not answer.
        OSError: results cannot be read, or the cache cannot be written.

    """
    found = SlurmNeeds(prepared, load_profile(options.profile))
    needs = prepared.sweep.resources

    def find(partition: str | None) -> bool:
        try:
            return has_gpus(partition)
        except SlurmUnavailable:
            if not assume and shutil.which("sinfo"):
                raise
            found.assumed.append(f"{partition_name(found.profile)} has no GPUs; if it has, give gres in the profile")
            return False

    gpus = gpus_of_trial(needs.gpus, found.profile, options.device, prepared.sweep.source, find)
    if needs.cpus > options.threads:
        idle = needs.cpus - options.threads
        found.notes.append(
            f"resources.cpus is {needs.cpus}, and a trial computes on {counted(options.threads, 'thread')} (--threads): "
            f"{counted(idle, 'core')} of each trial will be idle"
        )
    if assume and found.profile.max_array_size is None:
        found.profile = found.profile.model_copy(update={"max_array_size": _array_size(found.assumed)})
    resources = needs.model_copy(update={"gpus": gpus})
    sharing_auto = (found.profile.trials_per_gpu or needs.trials_per_gpu) == "auto"
    if with_cost or sharing_auto or needs.time_min == "auto":
        found.cost = trial_cost(prepared, options, "cuda" if gpus else "cpu")
    if sharing_auto:
        resources = resources.model_copy(update={"trials_per_gpu": _sharing(found, gpus, needs.mem_gb, assume)})
    if needs.time_min == "auto":
        resources = resources.model_copy(update={"time_min": _time_limit(found, resources)})
    found.prepared = replace(prepared, sweep=replace(prepared.sweep, resources=resources))
    return found


def _sharing(found: SlurmNeeds, gpus: float, mem_gb: float, assume: bool) -> int:
    """The trials of one GPU for `trials_per_gpu: auto`; they share no more than one GPU.

    The memory of the GPU limits them, and the memory that a node has for each of its GPUs.
    """
    memory = found.profile.gpu_mem_gb
    if found.cost is None or not 0 < gpus <= 1:
        return 1
    if memory is None:
        raise InvalidInput(
            "trials_per_gpu: given auto, which needs the memory of one GPU; give gpu_mem_gb in the profile, or a number"
        )
    limits = {"the GPU's memory": found.cost.fitting(memory), f"the maximum of {MOST_ON_A_GPU}": MOST_ON_A_GPU}
    sentence = memory_sentence(found.cost, memory)
    node_gb = _node_memory(found, assume)
    if node_gb is not None:
        fitting = limits["the node's memory"] = int(node_gb // mem_gb)
        held = f"{counted(fitting, 'trial')} of {mem_gb:g} GB (resources.mem_gb)"
        sentence += f"; a node's main memory, {node_gb:.1f} GB for each GPU, holds {held}"
    limit = min(limits, key=lambda name: limits[name])
    sharing = max(1, limits[limit])
    found.notes.append(f"trials_per_gpu: auto is {sharing}, limited by {limit}: {sentence}")
    return sharing


def _node_memory(found: SlurmNeeds, assume: bool) -> float | None:
    """The main memory that a node has for each GPU, GB; None, with an assumption, if not known."""
    try:
        memory = memory_per_gpu(found.profile.partition, gpu_model(found.profile))
    except SlurmUnavailable:
        if not assume and shutil.which("sinfo"):
            raise
        memory = None
    if memory is None:
        found.assumed.append("the main memory of a node is enough for trials_per_gpu: auto; sinfo does not tell it")
    return memory


def memory_sentence(cost: TrialCost, gpu_mem_gb: float | None) -> str:
    """The GPU memory of a trial, and how many trials fit a GPU, in words."""
    each = (cost.device_bytes + CUDA_BYTES) / GB
    sentence = f"a trial takes about {each:.1f} GB of a GPU, {CUDA_BYTES / GB:g} of them for CUDA"
    if gpu_mem_gb is None:
        return f"{sentence}; gpu_mem_gb in the profile tells how many fit"
    return f"{sentence}; {cost.fitting(gpu_mem_gb)} fit {FILLED:.0%} of {gpu_mem_gb:g} GB, at most {MOST_ON_A_GPU} are taken"


def _time_limit(found: SlurmNeeds, resources: Resources) -> int:
    """The time limit of a trial in minutes for `time_min: auto`."""
    if found.cost is None:
        return Resources().limit_min
    sharing = array_shape(resources.model_copy(update={"time_min": 1}), found.profile).parallel
    minutes = found.cost.limit_min(sharing)
    shared = f" x {sharing} that share a GPU" if sharing > 1 else ""
    found.notes.append(
        f"time_min: auto is {minutes}: {MARGIN:g} x {found.cost.slowest_s / 60:.1f} min of the slowest trial{shared}, and "
        f"{START_MIN} min; {found.cost.source}"
    )
    return minutes


def _array_size(assumed: list[str]) -> int:
    try:
        return largest_array()
    except SlurmUnavailable as error:
        assumed.append(f"an array has at most {ASSUMED_ARRAY:,} tasks (max_array_size), since {error}")
        return ASSUMED_ARRAY
