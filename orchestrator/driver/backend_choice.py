"""The backend that --backend names."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from moleflow.errors import InvalidInput
from orchestrator.driver.prepare import Options
from orchestrator.execution.backend import Backend, WorkerConfig
from orchestrator.host.command_line import install_command
from orchestrator.sweep.sweep import Sweep

if TYPE_CHECKING:
    from orchestrator.backends.slurm.backend import SlurmBackend
    from orchestrator.backends.slurm.site_profile import SiteProfile


def choose_backend(setup: WorkerConfig, sweep: Sweep, options: Options) -> Backend:
    """Make the backend that runs the sweep's trials. Only its own packages are imported.

    Raises:
        InvalidInput: Ray is not installed, or the SLURM profile is not valid.

    """
    if options.backend == "inline":
        from orchestrator.backends.inline import InlineBackend

        return InlineBackend(setup)
    if options.backend == "slurm":
        from orchestrator.backends.slurm.site_profile import load_profile

        return slurm_backend(setup, load_profile(options.profile))
    if options.backend == "ray":
        return _ray_backend(setup, sweep, options)
    from orchestrator.backends.local import LocalBackend

    return LocalBackend(setup, options.workers, sweep.resources)


def _ray_backend(setup: WorkerConfig, sweep: Sweep, options: Options) -> Backend:
    try:
        from orchestrator.backends.ray.backend import RayBackend
    except ModuleNotFoundError as error:
        raise InvalidInput(f"--backend ray: {error.name} is not installed; run {install_command('ray')}") from None
    return RayBackend(
        setup,
        sweep.resources,
        options.workers,
        options.address,
        options.dashboard,
        (lambda _: None) if options.quiet else partial(print, flush=True),
        early_stopping=sweep.early_stopping,
        wait_for_nodes=options.wait_for_nodes,
    )


def slurm_backend(setup: WorkerConfig, profile: SiteProfile) -> SlurmBackend:
    """Make the backend for a site."""
    from orchestrator.backends.slurm.backend import SlurmBackend

    return SlurmBackend(setup, profile, lambda text: print(text, file=sys.stderr, flush=True))
