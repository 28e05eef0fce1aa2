"""The worker inside a SLURM job: runs the trials of one array element, and survives being told to go.

SLURM sends SIGUSR2 some time before the time limit and on preemption (where the site asks for that), SIGTERM when a job is cancelled,
preempted or requeued by others. Either way the trial at hand is checkpointed and its attempt written down as interrupted. After SIGUSR2
the job also puts itself back into the queue. After SIGTERM it waits to be killed: whoever sent the signal knows what shall become of the
job, and one that ended by itself in the meantime would be complete to SLURM, and not requeued.
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

from moleflow.cache.claim import JOB_VARIABLE
from moleflow.cache.eviction import pinned_within_budget
from moleflow.code_digest import code_digest
from orchestrator.backends.inline import InlineBackend
from orchestrator.backends.local import LocalBackend
from orchestrator.backends.slurm.submissions import job_name
from orchestrator.execution.backend import Backend, WorkerConfig
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
CHILDREN_STOP_S = 20.0  # of the 30 seconds that SLURM gives a job by default
GONE = "its node failed, or its job was put back into the queue without a warning"


def run_array_element(
    setup: WorkerConfig, uid: str, trials: Sequence[Trial], beside: int, needs: Resources, code: str
) -> None:
    """Run the trials of this element that it has not ended yet, `beside` at once. Called by submitit inside a job.

    Raises:
        RuntimeError: the code changed between submission and start, or no worker can start.

    """
    if code_digest() != code:
        raise RuntimeError("the project's code changed after the job was submitted; run the command again")
    job = job_name(element_id(), uid)
    setup = replace(setup, worker=f"slurm-{element_id()}", job=job)
    os.environ[JOB_VARIABLE] = job
    told = _EventRelay()
    told.listen()
    try:
        records = AttemptFolder(setup.folder / "attempts")
        own = [record for record in records.all() if record.content.get("job") == job]
        begun = [record for record in own if record.content["state"] == RUNNING]
        record_dead_attempts(records, ResultStore(setup.folder), begun, GONE, INTERRUPTED)
        over = {record.trial_id for record in own if record.content["state"] in ENDED}
        left = [trial for trial in trials if trial.id not in over]
        source = TrialSource(
            PlannedTrials(left, stage_tree(left)),
            needs,
            retries=0,
            cancelled=stop_requests.cancel_requests(setup.folder).holds,
            waits_for_others=False,
        )
        inline = beside == 1
        backend: Backend = InlineBackend(setup) if inline else LocalBackend(setup, beside, needs, CHILDREN_STOP_S)
        with pinned_within_budget(setup.cache, needs=[trial.config for trial in left]):
            backend.run(source, source.events)
        if source.tally.stopped_by is not None:
            raise RuntimeError(source.tally.stopped_by)
    except WorkerStopped:
        if not told.requeue:
            time.sleep(KILLED_WITHIN_S)
        # Where scontrol is missing (in some containers) the job ends here, and a driver submits its trials again.
        with contextlib.suppress(OSError):
            subprocess.run(["scontrol", "requeue", element_id()], check=False)


def element_id() -> str:
    """SLURM's name of the element that this process runs in."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


class _EventRelay:
    """Hears the first signal to go, whichever it is, and ends what runs with `Stop`; later ones are not heard."""

    def __init__(self) -> None:
        self.requeue = False

    def listen(self) -> None:
        signal.signal(signal.SIGUSR2, self._hear)
        signal.signal(signal.SIGTERM, self._hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.requeue = number == signal.SIGUSR2
        raise WorkerStopped
