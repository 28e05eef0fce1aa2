"""The state of a trial without a stored result: the precedence of its sources."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.records.attempts import CANCELLED, DIED, FAILED, FINISHED, INTERRUPTED, PRUNED, RUNNING
from orchestrator.records.trial_state import SILENT_S, JobState, LatestAttempt, NoJobs, trial_state_of

ATTEMPT = LatestAttempt(2, RUNNING, here=True, host="n1", worker="slurm-7_0", job="7_0", silence_s=1.0)
QUEUED, BEGUN = JobState("queued", "7_0", "Priority"), JobState("running", "7_0")
UNREACHABLE = JobState("unknown", "7_0", "SLURM does not answer")


def ended(state: str, job: str | None = "6_0", error_kind: str | None = None) -> LatestAttempt:
    return replace(ATTEMPT, state=state, job=job, error_kind=error_kind)


@pytest.mark.parametrize(
    ("latest", "state"),
    [
        (None, "waiting"),
        (ATTEMPT, "running"),
        (ended(FAILED), "failed"),
        (ended(DIED), "failed"),
        (ended(INTERRUPTED), "interrupted"),
        (ended(PRUNED), "pruned"),
    ],
)
def test_without_a_scheduler_the_latest_attempt_counts(latest: LatestAttempt | None, state: str) -> None:
    assert trial_state_of(latest, NoJobs().state_of("0123456789ab"), cancelled=False) == (state, None)


def test_a_worker_on_another_host_is_unknown_after_three_heartbeats() -> None:
    there = replace(ATTEMPT, here=False, silence_s=SILENT_S)
    assert trial_state_of(there, None, cancelled=False) == ("running", None)
    silent = replace(there, silence_s=SILENT_S + 5)
    assert trial_state_of(silent, None, cancelled=False) == ("unknown", "no sign of life from n1 for 20 s")
    assert trial_state_of(replace(silent, here=True), None, cancelled=False) == ("running", None)


@pytest.mark.parametrize("latest", [None, ended(INTERRUPTED), ended(DIED), ended(FAILED), ended(INTERRUPTED, "7_0")])
def test_a_job_counts_more_than_how_an_earlier_attempt_ended(latest: LatestAttempt | None) -> None:
    assert trial_state_of(latest, QUEUED, cancelled=False) == ("queued", "Priority")
    assert trial_state_of(latest, UNREACHABLE, cancelled=False) == ("unknown", "SLURM does not answer")
    assert trial_state_of(latest, BEGUN, cancelled=False) == ("queued", "job 7_0 runs and has not begun this trial yet")


def test_a_live_worker_counts_more_than_a_job() -> None:
    for job in (QUEUED, BEGUN, UNREACHABLE):
        assert trial_state_of(ATTEMPT, job, cancelled=False) == ("running", None)


def test_a_job_that_runs_while_its_worker_is_silent_is_unknown() -> None:
    reason = "job 7_0 runs, but there is no sign of life from n1 for 1 s"
    assert trial_state_of(ended(DIED, "7_0"), BEGUN, cancelled=False) == ("unknown", reason)


@pytest.mark.parametrize(
    ("latest", "state"),
    [
        (ended(FAILED, "7_0"), "failed"),
        (ended(INTERRUPTED, "7_0", CANCELLED), "waiting"),
        (ended(FINISHED, "7_0"), "waiting"),
    ],
)
def test_a_job_does_not_run_a_trial_again_that_ended_in_it(latest: LatestAttempt, state: str) -> None:
    assert trial_state_of(latest, BEGUN, cancelled=False)[0] == state


def test_a_cancelled_trial_runs_until_its_worker_stops() -> None:
    assert trial_state_of(None, None, cancelled=True) == ("cancelled", None)
    assert trial_state_of(ended(INTERRUPTED, error_kind=CANCELLED), None, cancelled=True) == ("cancelled", None)
    assert trial_state_of(ATTEMPT, None, cancelled=True) == ("running", "cancelled: it stops at its next epoch")
    assert trial_state_of(None, QUEUED, cancelled=True) == ("queued", "Priority")
    assert trial_state_of(ended(FAILED), None, cancelled=True) == ("failed", None)
    again = trial_state_of(ended(INTERRUPTED, error_kind=CANCELLED), None, cancelled=False)
    assert again == ("waiting", "cancelled before, and wanted again")


def test_a_finished_record_without_a_part_waits() -> None:
    state, reason = trial_state_of(ended(FINISHED), None, cancelled=False)
    assert state == "waiting"
    assert reason is not None
    assert "no whole part holds its results" in reason
