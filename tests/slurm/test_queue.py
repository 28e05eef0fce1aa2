"""What SLURM says of real jobs, in our words."""

from __future__ import annotations

import uuid

import pytest

from orchestrator.slurm.queue import OUT_OF_MEMORY, UNHEARD, Queue, Unreachable, find_job, largest_array

pytestmark = pytest.mark.slurm


def test_jobs_that_wait_run_have_ended_or_never_were_in_one_answer(cluster, tmp_path):
    array = cluster.submit(tmp_path, "sleep 30", "--array=0-1%1")
    done = cluster.submit(tmp_path, "false")
    assert cluster.end(done) == "FAILED"
    cluster.wait(lambda: "RUNNING" in cluster.ask("squeue", "-hj", array, "-o", "%T"))
    found = Queue().states([f"{array}_0", f"{array}_1", done, "999999999"])
    assert [state.phase for state in found.values()] == ["running", "queued", "over", "over"]
    assert (found[done].word, found["999999999"].word) == ("FAILED", UNHEARD)
    Queue().cancel([f"{array}_0", f"{array}_1"], waiting_only=True)
    cluster.wait(lambda: Queue().states([f"{array}_1"])[f"{array}_1"].word == "CANCELLED")
    assert Queue().states([f"{array}_0"])[f"{array}_0"].phase == "running"
    cluster.ask("scancel", array)


def test_a_job_is_found_by_its_name_and_the_site_tells_its_largest_array(cluster, tmp_path):
    name = f"moleflow-{uuid.uuid4().hex}"
    job = cluster.submit(tmp_path, "true", "--hold", f"--job-name={name}")
    assert find_job(name) == job
    assert find_job("moleflow-no-such-name") is None
    cluster.ask("scancel", job)
    assert cluster.ask("scontrol", "show", "config").find(f"= {largest_array() + 1}\n") > 0


def test_too_little_memory_is_told_by_a_step_alone(cluster, tmp_path):
    job = cluster.submit(tmp_path, "python3 -c 'bytearray(300 << 20)'", "--mem=100")
    cluster.end(job)
    steps = cluster.accounted(job, 3)
    assert (Queue().states([job])[job].word == OUT_OF_MEMORY) == ("OUT_OF_MEMORY" in steps)


def test_no_slurm_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unreachable, match="no SLURM login node"):
        Queue().states(["1"])
