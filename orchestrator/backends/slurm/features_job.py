"""Features of a sweep, computed in one SLURM job that the command waits for.

The job tells how far it is in a small file beside its script, `<cache>/prefetch/<name>/state.json`; the command reads that and SLURM's word
on the job. Whatever becomes of either, features that were stored stay stored.
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

from moleflow.cache.claim import JOB_VARIABLE
from moleflow.code_digest import code_digest
from moleflow.environment import open_environment
from moleflow.errors import InvalidInput, MoleflowError
from moleflow.features.prefetch import build_backbones
from moleflow.settings.config import TrialConfig
from orchestrator.backends.slurm.job_array import ArrayShape, submitit_executor
from orchestrator.backends.slurm.queue import Queue, QueueState, SlurmUnavailable, find_job
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import Element, Submission
from orchestrator.backends.slurm.submitter import refusals
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.features import (
    FeatureProgress,
    FeatureSummary,
    Show,
    compute_features,
    feature_cache_of,
    feature_sets_of,
)
from orchestrator.records.attempts import write_json
from orchestrator.sweep.file_schema import Resources

LOOK_EVERY_S, ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 1.0, 3.0, 15.0
SEEN_AFTER_S = 60.0  # What another machine wrote may be this late on a network filesystem.
GONE_AFTER_S = 15.0


def compute_features_in_job(
    setup: WorkerConfig,
    configs: Sequence[TrialConfig],
    needs: Resources,
    profile: SiteProfile,
    console: Console,
    show: Show,
) -> FeatureSummary:
    """Fetch the weights here, where there may be a network, and have one job with a trial's resources do the rest.

    Raises:
        InvalidInput: any mistake in the images, the model or the weights.
        MoleflowError: the job failed, or SLURM did not take it.
        OSError: the cache cannot be written.

    """
    cache, here = feature_cache_of(setup), open_environment("cpu", setup.threads)
    gpu = setup.device == "cuda" or (setup.device == "auto" and needs.gpus > 0)
    there = replace(here, device_kind="cuda", processor="") if gpu else here
    sets = feature_sets_of(setup, configs, cache, there)
    # Which GPU the nodes have, and with it what is there already, only a job can tell.
    incomplete = sets if gpu else [one for one in sets if cache.missing(one.config, there, one.samples)]
    if not incomplete:
        return FeatureSummary(len(sets), sum(len(one.samples) for one in sets), 0, there.device_kind)
    build_backbones(incomplete, here)
    place = setup.cache / "prefetch" / uuid.uuid4().hex[:12]
    queue = Queue(profile.accounting)
    try:
        job = _submit(place, setup, configs, needs, profile)
        console.print(f"submitted: SLURM job {job}; its log: {_log(place, job)}")
        told = _follow(place, job, queue, needs, show)
        _wait_for_end(place, job)
    except KeyboardInterrupt:
        _cancel(place, queue, needs)
        raise
    if told["state"] == "failed" and not told["invalid"]:
        raise MoleflowError(f"SLURM job {job}: {told['error']}; its log: {_log(place, job)}")
    shutil.rmtree(place, ignore_errors=True)
    if told["state"] == "failed":
        raise InvalidInput(told["error"])
    return FeatureSummary(**told["made"])


def _submit(
    place: Path, setup: WorkerConfig, configs: Sequence[TrialConfig], needs: Resources, profile: SiteProfile
) -> str:
    form = ArrayShape(1, 1, needs.time_min, needs.cpus, needs.mem_gb, math.ceil(needs.gpus))
    with refusals(lambda: shutil.rmtree(place, ignore_errors=True)):
        submitter = submitit_executor(place, _name(place), form, profile, setup.threads)
        return str(submitter.submit(run_features_job, place, setup, configs, code_digest()).job_id)


def _follow(place: Path, job: str, queue: Queue, needs: Resources, show: Show) -> dict[str, Any]:
    """What the job told last, as soon as it has done its work or failed.

    Raises:
        MoleflowError: SLURM says that it is over, and it has told neither.

    """
    pause, due, over_since = ASK_EVERY_S, time.monotonic() + ASK_EVERY_S, 0.0
    while True:
        told = _told(place)
        if told.get("state") in ("done", "failed"):
            return told
        if "reached" in told:
            show(FeatureProgress(**told["reached"]))
        if time.monotonic() >= due:
            pause = min(1.5 * pause, ASK_AT_LEAST_EVERY_S)
            due = time.monotonic() + pause
            with contextlib.suppress(SlurmUnavailable):  # The controller may be down for a while.
                state = queue.states([_element(place, job, needs)])[job]
                if state.phase != "over":
                    over_since = 0.0
                elif not over_since:
                    over_since = time.monotonic()  # A requeued job looks so for a moment.
                elif state.word != "COMPLETED" or time.monotonic() - over_since > SEEN_AFTER_S:
                    raise MoleflowError(_ended(job, state, needs, place))
        time.sleep(LOOK_EVERY_S)


def _wait_for_end(place: Path, job: str) -> None:
    """Leave submitit the time to write its last file: it does not expect its folder to vanish."""
    end = time.monotonic() + GONE_AFTER_S
    while time.monotonic() < end and not (place / f"{job}_0_result.pkl").exists():
        time.sleep(LOOK_EVERY_S / 10)


def _ended(job: str, state: QueueState, needs: Resources, place: Path) -> str:
    remedy = {
        "TIMEOUT": f"resources.time_min is {needs.time_min}; give the command again, and it goes on from there",
        "OUT_OF_MEMORY": f"raise resources.mem_gb, which is {needs.mem_gb:g}",
    }.get(state.word, f"see its log: {_log(place, job)}")
    return f"SLURM job {job} ended as {state.word} before it was done; what it stored is kept; {remedy}"


def _cancel(place: Path, queue: Queue, needs: Resources) -> None:
    """Take the job back, if SLURM has it by now, and see it go."""
    end = time.monotonic() + GONE_AFTER_S
    with contextlib.suppress(SlurmUnavailable):
        job = find_job(_name(place))
        if job is not None:
            element = _element(place, job, needs)
            queue.cancel([element])
            while time.monotonic() < end and queue.states([element])[job].phase != "over":
                time.sleep(LOOK_EVERY_S)
    shutil.rmtree(place, ignore_errors=True)


def _element(place: Path, job: str, needs: Resources) -> Element:
    return Element(job, (), Submission(place.name, "prefetch", ((),), needs.time_min, needs.mem_gb, job))


def _name(place: Path) -> str:
    return Submission(place.name, "prefetch", (), 0, 0.0).name


def _log(place: Path, job: str) -> Path:
    return place / f"{job}_0_log.out"


def _tell(place: Path, state: str, **facts: object) -> None:
    write_json(place / "state.json", {"state": state, **facts})


def _told(place: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((place / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return told


def run_features_job(place: Path, setup: WorkerConfig, configs: Sequence[TrialConfig], code: str) -> None:
    """Make what is missing inside a job, as submitit calls it; told to `place`.

    Raises:
        MoleflowError: the code changed between submission and start, or as `make`.

    """
    from orchestrator.execution.signals import stop_on_signal

    stop_on_signal()
    # The warning before the time limit: all that is worth keeping is stored already.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.environ[JOB_VARIABLE] = os.environ["SLURM_JOB_ID"]
    said = 0.0

    def show(reached: FeatureProgress) -> None:
        nonlocal said
        if time.monotonic() - said >= LOOK_EVERY_S or reached.done == reached.wanted:
            said = time.monotonic()
            with contextlib.suppress(OSError):
                _tell(place, "running", reached=asdict(reached))

    try:
        if code_digest() != code:
            raise MoleflowError("the project's code changed after the job was submitted; give the command again")
        made = compute_features(setup, configs, show)
    except Exception as error:
        theirs = isinstance(error, MoleflowError)
        line = str(error) if theirs else f"{type(error).__name__}: {error}"
        _tell(place, "failed", error=" ".join(line.split()), invalid=isinstance(error, InvalidInput))
        raise
    _tell(place, "done", made=asdict(made))
