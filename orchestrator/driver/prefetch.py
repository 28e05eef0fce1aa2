"""`moleflow-sweep prefetch`: weights and features of a whole sweep, made before any trial starts, here or in one SLURM job."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rich.console import Console

from moleflow.environment import open_environment
from moleflow.features.prefetch import distinct_feature_settings
from orchestrator.driver.preflight import check_slurm, remember_backbone
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.features import FeatureProgress, FeatureSummary, compute_features
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.plan import listing
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import counted

SAY_EVERY_S = 30.0


def run_prefetch(sweep: Sweep, options: Options, console: Console) -> int:
    """Make what is missing for any trial of the sweep; the exit code.

    Raises:
        InvalidInput: any mistake in the sweep, the images, the model, the weights or the site's profile.
        MoleflowError: the job failed, or SLURM did not take it.
        OSError: the cache cannot be written.

    """
    on_slurm = options.backend == "slurm"
    if on_slurm:
        check_slurm(options)
    # Whether the compute nodes have a GPU is not to be seen here.
    prepared = prepare(sweep, replace(options, device="auto") if on_slurm else options)
    setup, configs = (
        worker_config(prepared, options),
        distinct_feature_settings(trial.config for trial in prepared.sample),
    )
    console.print("\n".join(listing.plan_header(sweep, prepared.plan, prepared.inputs, prepared.folder)))
    try:
        with _View(console) as view:
            if on_slurm:
                from orchestrator.backends.slurm.features_job import compute_features_in_job
                from orchestrator.backends.slurm.site_profile import load_profile

                profile = load_profile(options.profile)
                made = compute_features_in_job(setup, configs, sweep.resources, profile, console, view.show)
            else:
                _warn_of_gpus(setup, sweep.resources, console)
                made = compute_features(setup, configs, view.show)
    except KeyboardInterrupt:
        console.print("interrupted: what was stored is kept; the same command goes on from there")
        return INTERRUPTED
    for config in configs:
        remember_backbone(config, setup.cache)
    console.print(_summary(made, setup.cache))
    return 0


def _warn_of_gpus(setup: WorkerConfig, needs: Resources, console: Console) -> None:
    if needs.gpus and setup.device == "auto" and open_environment("auto", setup.threads).device_kind == "cpu":
        console.print(
            "note:     features are computed for the CPU here, and trials on a GPU need their own: --backend slurm makes those in a job"
        )


def _summary(made: FeatureSummary, cache: Path) -> str:
    settings = f"{made.settings} feature setting{'s' if made.settings != 1 else ''}"
    computed = f"{made.computed} computed now" if made.computed else "nothing was computed"
    return (
        f"everything is there: {settings} on {made.device}, {counted(made.images, 'image')}, {computed}; cache: {cache}"
    )


class _View:
    """Shows how far it is: one line that changes on a terminal, elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._status = console, console.status("starting")
        self._last, self._said = "", -math.inf

    def __enter__(self) -> _View:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._status.stop()

    def show(self, at: FeatureProgress) -> None:
        text = f"setting {at.setting + 1} of {at.settings}: {at.done} of {at.wanted} images"
        self._status.update(text)
        now = time.monotonic()
        due = at.done == at.wanted or now - self._said >= SAY_EVERY_S
        if due and not self._console.is_terminal and text != self._last:
            self._console.print(f"features: {text}")
            self._last, self._said = text, now
