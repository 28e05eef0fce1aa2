"""The resources of a trial on SLURM: what the sweep file leaves open is decided for the site."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from rich.console import Console

from moleflow.errors import counted
from orchestrator.backends.slurm.gpu_request import gpus_of_trial, partition_name
from orchestrator.backends.slurm.queue import SlurmUnavailable, has_gpus, largest_array
from orchestrator.backends.slurm.site_profile import SiteProfile, load_profile
from orchestrator.driver.prepare import Options, Prepared

ASSUMED_ARRAY = 1000
"""Array tasks of one array on a site that does not answer: SLURM's own default."""


@dataclass
class SlurmNeeds:
    """A sweep whose resources are decided, and the profile of its site.

    Attributes:
        prepared: the sweep.
        profile: the site's profile.
        notes: sentences for the user, such as cores that nothing uses.
        assumed: what SLURM could not be asked, and what was assumed instead.

    """

    prepared: Prepared
    profile: SiteProfile
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The notes and assumptions as lines of a plan."""
        yield from (f"note:     {note}" for note in self.notes)
        yield from (f"assumed:  {one}" for one in self.assumed)


def decide_on_slurm(prepared: Prepared, options: Options, console: Console) -> Prepared:
    """Return the sweep with decided resources, if it runs on SLURM; print the notes.

    Raises:
        InvalidInput: as `needs_on_slurm`.
        SlurmUnavailable: as `needs_on_slurm`.

    """
    starts = prepared.sweep.search is not None or bool(prepared.plan.of("to run"))
    if options.backend != "slurm" or not starts:
        return prepared
    needs = needs_on_slurm(prepared, options)
    for line in needs.lines():
        console.print(line)
    return needs.prepared


def needs_on_slurm(prepared: Prepared, options: Options, assume: bool = False) -> SlurmNeeds:
    """Decide the GPUs of a trial.

    Args:
        prepared: the sweep.
        options: the command's options.
        assume: where SLURM does not answer, assume the answer instead of failing. The profile then
            has the size of the largest array, too.

    Raises:
        InvalidInput: a mistake in the profile, or the sweep asks for no GPU on a site with GPUs.
        SlurmUnavailable: SLURM does not answer.

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
    found.prepared = replace(prepared, sweep=replace(prepared.sweep, resources=resources))
    return found


def _array_size(assumed: list[str]) -> int:
    try:
        return largest_array()
    except SlurmUnavailable as error:
        assumed.append(f"an array has at most {ASSUMED_ARRAY:,} tasks (max_array_size), since {error}")
        return ASSUMED_ARRAY
