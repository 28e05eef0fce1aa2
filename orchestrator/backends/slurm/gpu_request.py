"""The GPUs that a trial asks SLURM for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from moleflow.errors import InvalidInput
from orchestrator.backends.slurm.queue import has_gpus
from orchestrator.backends.slurm.site_profile import SiteProfile

FindGpus = Callable[[str | None], bool]


def gpus_of_trial(
    given: float | None,
    profile: SiteProfile,
    device: Literal["auto", "cpu", "cuda"],
    source: str,
    find: FindGpus = has_gpus,
) -> float:
    """The GPUs of one trial: as many as the sweep file says, else one where the site has GPUs.

    The site has GPUs if its profile has `gres`. Without that key SLURM is asked about the
    partition.

    Args:
        given: `resources.gpus` of the sweep; None if it says nothing.
        profile: the site's profile.
        device: where trials run. On `cpu` they ask for no GPU.
        source: the sweep file, for messages.
        find: whether a partition has GPUs; asks SLURM.

    Raises:
        InvalidInput: the sweep asks for none, and its trials would run on the CPUs of GPU nodes.
        SlurmUnavailable: SLURM does not answer.

    """
    if device == "cpu":
        return 0
    if given or profile.gres is None:
        return given or 0
    if device == "cuda" and given == 0:
        raise InvalidInput(
            f"{source}: resources.gpus: given 0 with --device cuda; give --set resources.gpus=1, or --device cpu"
        )
    by_profile = "gres" in profile.model_fields_set
    site_has = device == "cuda" or by_profile or find(profile.partition)
    if given == 0 and site_has:
        place = "the profile has gres" if by_profile else f"{partition_name(profile)} has GPUs"
        raise InvalidInput(
            f"{source}: resources.gpus: given 0, but {place}, and without a GPU its jobs would train on the CPU; "
            "give --set resources.gpus=1, or --device cpu if that is meant"
        )
    return float(site_has)


def gpu_model(profile: SiteProfile) -> str | None:
    """The GPU model that `gres` names, such as a100 in gpu:a100:{gpus}; None = any."""
    named = re.match(r"gpu:([^:{]+):", profile.gres or "")
    return named[1] if named else None


def partition_name(profile: SiteProfile) -> str:
    """The partition of a profile in words."""
    return f"partition {profile.partition}" if profile.partition else "the default partition"
