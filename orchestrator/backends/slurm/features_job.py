"""The features of a sweep, computed in one SLURM job that the command waits for.

The job writes its progress into a small file next to its script,
`<cache>/prefetch/<name>/state.json`. The command reads it and asks SLURM for the job's state.
Stored features stay stored, even if the job or the command dies.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from moleflow.code_digest import code_digest
from moleflow.environment import open_environment
from moleflow.errors import InvalidInput, MoleflowError
from moleflow.features.prefetch import build_backbones
from moleflow.owner import JOB_VARIABLE
from moleflow.settings.config import TrialConfig
from orchestrator.backends.slurm.job_array import ArrayShape, submitit_executor
from orchestrator.backends.slurm.queue import Queue, QueueState, SlurmUnavailable, find_job
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import ArrayTask, Submission
from orchestrator.backends.slurm.submitter import rejections
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.features import (
    FeatureProgress,
    FeatureSummary,
    Show,
    compute_features,
    feature_cache_of,
    feature_sets_of,
    summarize_features,
)
from orchestrator.records.attempts import write_json
from orchestrator.sweep.file_schema import Resources

LOOK_EVERY_S, ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 1.0, 3.0, 15.0
SEEN_AFTER_S = 60.0  # A network filesystem may show the writes of another machine this late.
END_WITHIN_S = 15.0


def compute_features_in_job(
    setup: WorkerConfig,
    configs: Sequence[TrialConfig],
    needs: Resources,
    profile: SiteProfile,
    console: Console,
    show: Show,
) -> FeatureSummary:
    """Load the weights here and compute the features in a job with the resources of one trial.

    The weights may have to be downloaded, and compute nodes often have no network.

    Args:
        setup: the cache, the images and the device.
        configs: the trials' configurations.
        needs: the resources of a trial.
        profile: the site's profile.
        console: prints the job id and the path of the job's log.
        show: called with the progress.

    Raises:
        InvalidInput: any mistake in the images, the model or the weights.
        MoleflowError: the job failed, or SLURM rejected it.
        OSError: the cache cannot be written.

    """
    cache, local = feature_cache_of(setup), open_environment("cpu", setup.threads)
    gpu = setup.device == "cuda" or (setup.device == "auto" and bool(needs.gpus))
    on_node = replace(local, device_kind="cuda", processor="") if gpu else local
    sets = feature_sets_of(setup, configs, cache, on_node)
    # Keys contain the GPU model, which only the job knows, so it has to look for missing features.
    incomplete = sets if gpu else [one for one in sets if cache.missing(one.config, on_node, one.samples)]
    if not incomplete:
        return summarize_features(sets, 0, on_node)
    build_backbones(incomplete, local)
    folder = setup.cache / "prefetch" / uuid.uuid4().hex[:12]
    queue = Queue(profile.accounting)
    try:
        job = _submit(folder, setup, configs, needs, profile)
        console.print(f"submitted: SLURM job {job}; its log: {_log(folder, job)}")
        state = _follow(folder, job, queue, needs, show)
        _wait_for_end(folder, job)
    except KeyboardInterrupt:
        _cancel(folder, queue, needs)
        raise
    if state["state"] == "failed" and not state["invalid"]:
        raise MoleflowError(f"SLURM job {job}: {state['error']}; its log: {_log(folder, job)}")
    shutil.rmtree(folder, ignore_errors=True)
    if state["state"] == "failed":
        raise InvalidInput(state["error"])
    return FeatureSummary(**state["made"])


def _submit(
    folder: Path, setup: WorkerConfig, configs: Sequence[TrialConfig], needs: Resources, profile: SiteProfile
) -> str:
    shape = ArrayShape(1, 1, needs.limit_min, needs.cpus, needs.mem_gb, math.ceil(needs.gpus or 0))
    with rejections(lambda: shutil.rmtree(folder, ignore_errors=True)):
        submitter = submitit_executor(folder, _name(folder), shape, profile, setup.threads)
        return str(submitter.submit(run_features_job, folder, setup, configs, code_digest()).job_id)


def _follow(folder: Path, job: str, queue: Queue, needs: Resources, show: Show) -> dict[str, Any]:
    """Wait until the job has written that it is done or failed; returns what it wrote."""
    pause, due, over_since = ASK_EVERY_S, time.monotonic() + ASK_EVERY_S, 0.0
    while True:
        written = _read_state(folder)
        if written.get("state") in ("done", "failed"):
            return written
        if "reached" in written:
            show(FeatureProgress(**written["reached"]))
        if time.monotonic() >= due:
            pause = min(1.5 * pause, ASK_AT_LEAST_EVERY_S)
            due = time.monotonic() + pause
            with contextlib.suppress(SlurmUnavailable):  # The controller may be down for a while.
                state = queue.states([_array_task(folder, job, needs)])[job]
                if state.phase != "over":
                    over_since = 0.0
                elif not over_since:
                    over_since = time.monotonic()  # A requeued job looks ended for a moment.
                elif state.name != "COMPLETED" or time.monotonic() - over_since > SEEN_AFTER_S:
                    raise MoleflowError(_ended(job, state, needs, folder))
        time.sleep(LOOK_EVERY_S)


def _wait_for_end(folder: Path, job: str) -> None:
    """Wait for the last file of submitit, which does not expect its folder to vanish."""
    end = time.monotonic() + END_WITHIN_S
    while time.monotonic() < end and not (folder / f"{job}_0_result.pkl").exists():
        time.sleep(LOOK_EVERY_S / 10)


def _ended(job: str, state: QueueState, needs: Resources, folder: Path) -> str:
    remedy = {
        "TIMEOUT": f"resources.time_min is {needs.limit_min}; run the same command again, and it continues from there",
        "OUT_OF_MEMORY": f"raise resources.mem_gb, which is {needs.mem_gb:g}",
    }.get(state.name, f"see its log: {_log(folder, job)}")
    return f"SLURM job {job} ended as {state.name} before it was done; stored features are kept; {remedy}"


def _cancel(folder: Path, queue: Queue, needs: Resources) -> None:
    """Cancel the job, if SLURM has received it, and wait for its end."""
    end = time.monotonic() + END_WITHIN_S
    with contextlib.suppress(SlurmUnavailable):
        job = find_job(_name(folder))
        if job is not None:
            task = _array_task(folder, job, needs)
            queue.cancel([task])
            while time.monotonic() < end and queue.states([task])[job].phase != "over":
                time.sleep(LOOK_EVERY_S)
    shutil.rmtree(folder, ignore_errors=True)


def _array_task(folder: Path, job: str, needs: Resources) -> ArrayTask:
    return ArrayTask(job, (), Submission(folder.name, "prefetch", ((),), needs.limit_min, needs.mem_gb, job))


def _name(folder: Path) -> str:
    return Submission(folder.name, "prefetch", (), 0, 0.0).name


def _log(folder: Path, job: str) -> Path:
    return folder / f"{job}_0_log.out"


def _write_state(folder: Path, state: str, **facts: object) -> None:
    write_json(folder / "state.json", {"state": state, **facts})


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        written: dict[str, Any] = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return written


def run_features_job(folder: Path, setup: WorkerConfig, configs: Sequence[TrialConfig], code: str) -> None:
    """Compute missing features in a job; submitit calls it. The progress is written to `folder`.

    Raises:
        MoleflowError: the code changed between submission and start, or as `compute_features`.

    """
    from orchestrator.execution.signals import stop_on_signal

    stop_on_signal()
    # SLURM warns before the time limit. Features are stored as they are computed: nothing to do.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.environ[JOB_VARIABLE] = os.environ["SLURM_JOB_ID"]
    written_at = 0.0

    def show(reached: FeatureProgress) -> None:
        nonlocal written_at
        if time.monotonic() - written_at >= LOOK_EVERY_S or reached.done == reached.wanted:
            written_at = time.monotonic()
            with contextlib.suppress(OSError):
                _write_state(folder, "running", reached=asdict(reached))

    try:
        if code_digest() != code:
            raise MoleflowError("the project's code changed after the job was submitted; run the same command again")
        made = compute_features(setup, configs, show)
    except Exception as error:
        line = str(error) if isinstance(error, MoleflowError) else f"{type(error).__name__}: {error}"
        _write_state(folder, "failed", error=" ".join(line.split()), invalid=isinstance(error, InvalidInput))
        raise
    _write_state(folder, "done", made=asdict(made))
