"""What SLURM says of real jobs, in our words."""

from __future__ import annotations

import uuid

import pytest

from orchestrator.backends.slurm.queue import OUT_OF_MEMORY, UNHEARD, Queue, SlurmUnavailable, find_job, largest_array
from orchestrator.backends.slurm.submissions import Element, Submission

pytestmark = pytest.mark.slurm


def element(job: str, name: str) -> Element:
    """A job as a sweep of that name would have it on record."""
    sweep, uid = name.split("-")[1:]
    return Element(job, (), Submission(uid, sweep, ((),), 1, 1.0, job.partition("_")[0]))


def test_jobs_that_wait_run_have_ended_or_never_were_in_one_answer(cluster, tmp_path):
    name = "--job-name=moleflow-small-0123456789ab"
    array = cluster.submit(tmp_path, "sleep 30", "--array=0-1%1", name)
    done = cluster.submit(tmp_path, "false", name)
    assert cluster.end(done) == "FAILED"
    cluster.wait(lambda: "RUNNING" in cluster.ask("squeue", "-hj", array, "-o", "%T"))
    first, second, third, never = (
        element(job, "moleflow-small-0123456789ab") for job in (f"{array}_0", f"{array}_1", done, "999999999")
    )
    found = Queue().states([first, second, third, never])
    assert [found[one.id].phase for one in (first, second, third, never)] == ["running", "queued", "over", "over"]
    assert (found[done].word, found[never.id].word) == ("FAILED", UNHEARD)
    Queue().cancel([first, second], waiting_only=True)
    cluster.wait(lambda: Queue().states([second])[second.id].word == "CANCELLED")
    assert Queue().states([first])[first.id].phase == "running"
    stranger = element(first.id, "moleflow-small-ba9876543210")  # The same number on a cluster that was set up anew.
    assert Queue().states([stranger])[first.id].word == UNHEARD
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


def test_too_little_memory_is_told_by_a_step_alone(cluster, tmp_path):
    name = "moleflow-small-0123456789ab"
    job = cluster.submit(tmp_path, "python3 -c 'bytearray(300 << 20)'", "--mem=100", f"--job-name={name}")
    cluster.end(job)
    steps = cluster.accounted(job, 3)
    assert (Queue().states([element(job, name)])[job].word == OUT_OF_MEMORY) == ("OUT_OF_MEMORY" in steps)


def test_no_slurm_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmUnavailable, match="no SLURM login node"):
        Queue().states([element("1", "moleflow-small-0123456789ab")])
