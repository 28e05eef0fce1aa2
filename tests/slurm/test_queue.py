"""The states that SLURM gives to real jobs."""

from __future__ import annotations

import uuid

import pytest

from orchestrator.backends.slurm.queue import OUT_OF_MEMORY, UNKNOWN, Queue, find_job, largest_array
from orchestrator.backends.slurm.submissions import ArrayTask, Submission

pytestmark = pytest.mark.slurm


def array_task(job: str, name: str) -> ArrayTask:
    """A job as a sweep of that name has it on record."""
    sweep, uid = name.split("-")[1:]
    return ArrayTask(job, (), Submission(uid, sweep, ((),), 1, 1.0, job.partition("_")[0]))


def test_one_answer_has_the_states_of_pending_running_ended_and_unknown_jobs(cluster, tmp_path):
    name = "--job-name=moleflow-small-0123456789ab"
    array = cluster.submit(tmp_path, "sleep 30", "--array=0-1%1", name)
    done = cluster.submit(tmp_path, "false", name)
    assert cluster.end(done) == "FAILED"
    cluster.wait(lambda: "RUNNING" in cluster.ask("squeue", "-hj", array, "-o", "%T"))
    first, second, third, never = (
        array_task(job, "moleflow-small-0123456789ab") for job in (f"{array}_0", f"{array}_1", done, "999999999")
    )
    found = Queue().states([first, second, third, never])
    assert [found[one.id].phase for one in (first, second, third, never)] == ["running", "queued", "over", "over"]
    assert (found[done].name, found[never.id].name) == ("FAILED", UNKNOWN)
    Queue().cancel([first, second], pending_only=True)
    cluster.wait(lambda: Queue().states([second])[second.id].name == "CANCELLED")
    assert Queue().states([first])[first.id].phase == "running"
    # The same job id on a cluster that was set up anew.
    stranger = array_task(first.id, "moleflow-small-ba9876543210")
    assert Queue().states([stranger])[first.id].name == UNKNOWN
    Queue().cancel([stranger])
    assert Queue().states([first])[first.id].phase == "running"
    cluster.ask("scancel", array)


def test_a_job_is_found_by_its_name_and_the_site_tells_its_largest_array(cluster, tmp_path):
    name = f"moleflow-{uuid.uuid4().hex}"
    job = cluster.submit(tmp_path, "true", "--hold", f"--job-name={name}")
    assert find_job(name) == job
    assert find_job("moleflow-no-such-name") is None
    cluster.ask("scancel", job)
    assert cluster.ask("scontrol", "show", "config").find(f"= {largest_array() + 1}\n") > 0


def test_only_a_step_says_that_the_memory_was_too_small(cluster, tmp_path):
    name = "moleflow-small-0123456789ab"
    job = cluster.submit(tmp_path, "python3 -c 'bytearray(300 << 20)'", "--mem=100", f"--job-name={name}")
    cluster.end(job)
    steps = cluster.accounted(job, 3)
    assert (Queue().states([array_task(job, name)])[job].name == OUT_OF_MEMORY) == ("OUT_OF_MEMORY" in steps)
