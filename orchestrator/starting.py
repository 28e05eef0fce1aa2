"""What a start can know to fail before its folder is opened: the site's profile, the cluster, the budget, the backbones."""

from __future__ import annotations

import importlib.util
import shutil

from moleflow.budget import budget_of
from moleflow.errors import InvalidInput
from orchestrator.backbones import check_backbones
from orchestrator.prepared import Options, Prepared
from orchestrator.slurm.queue import COMMANDS


def check_start(prepared: Prepared, options: Options) -> None:
    """Refuse a run that its backend could not begin.

    Raises:
        InvalidInput: no SLURM or Ray here, a profile with a mistake, an address that cannot be joined, no size as a budget, or a
            backbone that cannot be built.

    """
    budget_of(prepared.cache)
    begins = prepared.sweep.search is not None or bool(prepared.plan.of("to run"))
    if options.backend == "slurm":
        check_slurm(options, begins)
    if options.backend == "ray" and begins:
        _check_ray(options)
    check_backbones(prepared, options)


def check_rehearsal(prepared: Prepared, options: Options) -> None:
    """Refuse a dry run that no trial could pass.

    Raises:
        InvalidInput: a backbone that cannot be built, or no size as a budget.

    """
    budget_of(prepared.cache)
    check_backbones(prepared, options, fresh=True)


def check_slurm(options: Options, submits: bool = True) -> None:
    """See that the profile is right and that this is a login node, if anything is to be submitted.

    Raises:
        InvalidInput: one of them is not so.

    """
    from orchestrator.profile import load_profile

    load_profile(options.profile)
    missing = next((name for name in COMMANDS if shutil.which(name) is None), None)
    if submits and missing:
        raise InvalidInput(
            f"--backend: given slurm, but {missing} is not found here; type the command on a SLURM login node, "
            "or take --backend local"
        )


def _check_ray(options: Options) -> None:
    if importlib.util.find_spec("ray") is None:
        raise InvalidInput("--backend ray: ray is not installed; install the extra: pip install 'moleflow-sweep[ray]'")
    if options.address:
        from orchestrator.ray_tune.cluster import check_address

        check_address(options.address)
