"""The worker in a SLURM job: runs the trials of one array task, and stops them at a signal.

SLURM sends SIGUSR2 some time before the time limit, and on preemption if the site configures that.
It sends SIGTERM when a job is cancelled, preempted or requeued by others. Both make the running
trial keep its last epoch and record its attempt as interrupted.

After SIGUSR2 the job also requeues itself. After SIGTERM it waits to be killed: if it ended by
itself, SLURM would take it for completed and would not requeue it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

from moleflow.cache.eviction import pinned_within_budget
from moleflow.code_digest import code_digest
from moleflow.owner import JOB_VARIABLE
from orchestrator.backends.inline import InlineBackend
from orchestrator.backends.local import LocalBackend
from orchestrator.backends.slurm.submissions import job_name
from orchestrator.execution.backend import Backend, WorkerConfig
from orchestrator.execution.gpu_errors import GpuBroken
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.signals import WorkerStopped
from orchestrator.execution.trial_source import TrialSource
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.records import stop_requests
from orchestrator.records.attempts import ENDED, INTERRUPTED, RUNNING, AttemptFolder
from orchestrator.records.dead_attempts import record_dead_attempts
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial

KILLED_WITHIN_S = 600.0
CHILDREN_STOP_S = 20.0  # Of the 30 seconds that SLURM gives a job by default.
EARLIER_START_DIED = "its node failed, or its job was requeued without a warning"


def run_array_task(
    setup: WorkerConfig, uid: str, trials: Sequence[Trial], parallel: int, needs: Resources, code: str
) -> None:
    """Run the trials of this array task that it has not ended yet. submitit calls it in the job.

    Args:
        setup: what workers need.
        uid: the name of the submission's record.
        trials: the trials of the array task.
        parallel: the trials that run at once.
        needs: what a trial needs.
        code: the code digest at submission.

    Raises:
        RuntimeError: the code changed between submission and start, or no worker can start.

    """
    if code_digest() != code:
        raise RuntimeError("the project's code changed after the job was submitted; run the same command again")
    job = job_name(array_task_id(), uid)
    setup = replace(setup, worker=f"slurm-{array_task_id()}", job=job)
    os.environ[JOB_VARIABLE] = job
    received = _listen()
    try:
        records = AttemptFolder(setup.folder / "attempts")
        of_job = [record for record in records.all() if record.content.get("job") == job]
        # A job runs once at a time. An attempt that an earlier start left as running has died;
        # there is no need to wait for its heartbeat.
        running = [record for record in of_job if record.content["state"] == RUNNING]
        record_dead_attempts(records, ResultStore(setup.folder), running, EARLIER_START_DIED, INTERRUPTED, certain=True)
        ended = {record.trial_id for record in of_job if record.content["state"] in ENDED}
        left = [trial for trial in trials if trial.id not in ended]
        source = TrialSource(
            PlannedTrials(left, stage_tree(left)),
            needs,
            retries=0,
            cancelled=stop_requests.cancel_requests(setup.folder).is_set,
            waits_for_others=False,
        )
        alone = parallel == 1
        backend: Backend = InlineBackend(setup) if alone else LocalBackend(setup, parallel, needs, CHILDREN_STOP_S)
        with pinned_within_budget(setup.cache, needs=[trial.config for trial in left]):
            backend.run(source, source.events)
        if source.tally.stopped_by is not None:
            raise RuntimeError(source.tally.stopped_by)
    except WorkerStopped as stopped:
        if received != [signal.SIGUSR2] and not isinstance(stopped, GpuBroken):
            time.sleep(KILLED_WITHIN_S)
        # Without scontrol (in some containers) the job ends, and a driver submits the trials again.
        with contextlib.suppress(OSError):
            subprocess.run(["scontrol", "requeue", array_task_id()], check=False)


def array_task_id() -> str:
    """SLURM's id of the array task that this process runs in, such as `7_0`."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _listen() -> list[int]:
    """Raise WorkerStopped at the first SIGUSR2 or SIGTERM, which is in the list from then on."""
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # A second signal must not interrupt the flush of results that the first one starts.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        received.append(number)
        raise WorkerStopped

    signal.signal(signal.SIGUSR2, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return received
