"""The command prefetch: weights and features of a sweep, here or in a SLURM job."""

from __future__ import annotations

import math
import time
from pathlib import Path

from rich.console import Console
from rich.status import Status

from moleflow.environment import open_environment
from moleflow.errors import counted
from moleflow.features.prefetch import distinct_feature_settings
from orchestrator.driver.preflight import check_slurm, remember_backbone
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.driver.slurm_needs import decide_on_slurm
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.features import FeatureProgress, FeatureSummary, compute_features
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.host.command_line import command_to_repeat
from orchestrator.plan import listing
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import Sweep

PRINT_EVERY_S = 30.0


def run_prefetch(sweep: Sweep, options: Options, console: Console) -> int:
    """Compute the missing features of all trials of a sweep; return the exit code.

    Raises:
        InvalidInput: any mistake in the sweep, the images, the model, the weights or the profile.
        MoleflowError: the job failed, or SLURM did not accept it.
        OSError: the cache cannot be written.

    """
    on_slurm = options.backend == "slurm"
    if on_slurm:
        check_slurm(options)
    prepared = decide_on_slurm(prepare(sweep, options), options, console, finished=True)
    needs = prepared.sweep.resources
    setup = worker_config(prepared, options)
    configs = distinct_feature_settings(trial.config for trial in prepared.sample)
    console.print("\n".join(listing.plan_header(sweep, prepared.plan, prepared.inputs, prepared.folder)))
    try:
        with console.status("starting") as status:
            view = _ProgressLine(console, status)
            if on_slurm:
                from orchestrator.backends.slurm.features_job import compute_features_in_job
                from orchestrator.backends.slurm.site_profile import load_profile

                profile = load_profile(options.profile)
                summary = compute_features_in_job(setup, configs, needs, profile, console, view.show)
            else:
                _warn_of_gpus(setup, needs, console)
                summary = compute_features(setup, configs, view.show)
    except KeyboardInterrupt:
        console.print(f"interrupted: stored features are kept; to continue, run: {command_to_repeat()}")
        return INTERRUPTED
    for config in configs:
        remember_backbone(config, setup.cache)
    console.print(_summary_line(summary, setup.cache))
    return 0


def _warn_of_gpus(setup: WorkerConfig, needs: Resources, console: Console) -> None:
    """Print a note if trials will run on GPUs: the keys of features contain the device kind."""
    if needs.gpus and setup.device == "auto" and open_environment("auto", setup.threads).device_kind == "cpu":
        console.print(
            "note:     features are computed for the CPU here, and trials on a GPU need their own: "
            "--backend slurm computes those in a job"
        )


def _summary_line(summary: FeatureSummary, cache: Path) -> str:
    settings = f"{counted(summary.settings, 'feature setting')} on {summary.device}"
    computed = f"{summary.computed} computed now" if summary.computed else "nothing was computed"
    return f"all features are stored: {settings}, {counted(summary.images, 'image')}, {computed}; cache: {cache}"


class _ProgressLine:
    """Shows progress: one changing line on a terminal, elsewhere a line every 30 seconds."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console, self._status = console, status
        self._last, self._printed_at = "", -math.inf

    def show(self, progress: FeatureProgress) -> None:
        """Show the progress of one feature setting."""
        images = f"{progress.done} of {progress.wanted} images"
        text = f"setting {progress.setting + 1} of {progress.settings}: {images}"
        self._status.update(text)
        now = time.monotonic()
        due = progress.done == progress.wanted or now - self._printed_at >= PRINT_EVERY_S
        if due and not self._console.is_terminal and text != self._last:
            self._console.print(f"features: {text}")
            self._last, self._printed_at = text, now
