"""Sweeps on the development cluster: the fate of jobs, nodes and drivers changes no digit."""

from __future__ import annotations

import getpass
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.backends.slurm.submissions import job_folder
from orchestrator.records.attempts import (
    CANCELLED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    NO_PROGRESS,
    AttemptFolder,
    AttemptRecord,
)
from orchestrator.results.store import ResultStore

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("jobs")]

SLURM = ("sweep.yaml", "--backend", "slurm", "--quiet")
LONG = {"grid": None, "seeds": 1, "report": None, "resources": {"time_min": 3}}


def records(folder: Path) -> list[AttemptRecord]:
    return AttemptFolder(folder / "attempts").all()


def ends(folder: Path) -> list[tuple[str, str | None]]:
    return [(record.state, record.content.get("error_kind")) for record in records(folder)]


@pytest.fixture
def jobs(cluster) -> Iterator[Callable[[], list[str]]]:
    """This user's array tasks in the queue, as `7_0 RUNNING`; they are cancelled at the end."""
    yield lambda: cluster.ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    cluster.ask("scancel", f"--user={getpass.getuser()}")
    assert cluster.script("up").returncode == 0


@pytest.fixture
def results(place: Path) -> Path:
    return place / "results/small"


@pytest.fixture
def longer(edit: Callable[..., Path], place: Path, features: None) -> Callable[..., None]:
    """One trial that trains for a while: many epochs of the small base."""

    def write(epochs: int = 150, **changes: Any) -> None:
        edit(**(LONG | changes))
        base = yaml.safe_load((place / "base.yaml").read_text())
        base["training"] |= {"epochs": epochs, "batch_size": 2}
        base["flow"]["blocks"] = 4
        (place / "base.yaml").write_text(yaml.safe_dump(base))

    return write


@pytest.fixture
def undisturbed(command: Callable[..., Any], digits: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The digits of the sweep in `place`, run inline with a cache of its own."""

    def run(place: Path) -> Any:
        assert command("sweep.yaml", "--backend", "inline", "--quiet", "--out", "alone", "--cache", "cache2").code == 0
        return digits(place / "alone")

    return run


@pytest.fixture
def begun(results: Path, wait_until: Callable[[Callable[[], Any]], Any]) -> Callable[[], str]:
    """Wait until a worker has trained some epochs, and name its job."""

    def wait() -> str:
        def some_epochs() -> str | None:
            for path in (results / "events").glob("slurm-*.jsonl"):
                if path.read_text().count('"epoch"') >= 3:
                    return path.stem.removeprefix("slurm-")
            return None

        return str(wait_until(some_epochs))

    return wait


def test_tables_equal_those_of_inline_with_arrays_split_and_trials_packed(
    place, edit, command, results, digits, undisturbed
) -> None:
    edit(seeds=5)
    (place / "site.yaml").write_text("max_array_size: 2\ntrials_per_job: 3\nparallelism: 2\n")
    assert command(*SLURM, "--profile", "site.yaml").code == 0
    arrays = job_folder(results).all()
    assert [[len(element) for element in array.elements] for array in arrays] == [[3, 3], [3, 1]]
    assert digits(results) == undisturbed(place)
    assert len(list((results / "events").glob("slurm-*"))) == 4
    assert ends(results) == [(FINISHED, None)] * 10


def test_jobs_that_depend_on_each_other_train_each_stage_once_and_wait_in_the_queue(
    place, edit, command, results, digits, undisturbed
) -> None:
    edit(grid={"image_score": ["max", "top_k", "quantile"]}, report=None)
    (place / "site.yaml").write_text("stages: dependencies\n")
    assert command(*SLURM, "--profile", "site.yaml").code == 0
    leading, following = job_folder(results).all()
    assert (len(leading.elements), len(following.elements)) == (2, 4)
    leaders = {trial_id for element in leading.elements for trial_id in element}
    store = ResultStore(results)
    stages = store.read("curves", ["trial_id", "task", "reused"]).to_pylist()
    assert {row["trial_id"] for row in stages if not row["reused"]} == leaders
    assert {row["trial_id"] for row in stages if row["reused"]}.isdisjoint(leaders)
    times = store.read("attempts", ["trial_id", "started_at", "ended_at"]).to_pylist()
    ended = max(row["ended_at"] for row in times if row["trial_id"] in leaders)
    assert all(row["started_at"] > ended for row in times if row["trial_id"] not in leaders)
    assert digits(results) == undisturbed(place)


def test_after_a_cancelled_leader_the_other_trials_run(
    place, longer, start, results, begun, cluster, digits, undisturbed
) -> None:
    longer(epochs=60, grid={"image_score": ["max", "top_k", "quantile"]})
    (place / "site.yaml").write_text("stages: dependencies\n")
    driver = start(*SLURM, "--profile", "site.yaml")
    job = begun()
    cluster.ask("scancel", job)
    assert driver.end(200).code == 1
    assert sorted(ends(results)) == [(FINISHED, None)] * 2 + [(INTERRUPTED, "Stop")]
    assert start(*SLURM).end(100).code == 0
    assert digits(results) == undisturbed(place)


def test_a_job_submits_jobs_that_inherit_nothing_of_it(place, edit, command, results, features, monkeypatch) -> None:
    """With these variables of an outer job, it fails in sbatch, in srun or in submitit."""
    edit(grid=None, seeds=1, report=None)
    outer = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3", "SLURM_MEM_PER_CPU": "2048", "SLURM_NTASKS": "8"}
    for name, value in (outer | {"SLURM_JOB_ID": "77", "SBATCH_PARTITION": "nowhere"}).items():
        monkeypatch.setenv(name, value)
    assert command(*SLURM).code == 0
    assert ends(results) == [(FINISHED, None)]


def test_parallel_trials_in_one_job(place, command, results, features, digits, undisturbed) -> None:
    (place / "site.yaml").write_text("trials_per_gpu: 2\n")
    assert command(*SLURM, "--profile", "site.yaml").code == 0
    assert [len(array.elements) for array in job_folder(results).all()] == [2]
    assert len({record.content["pid"] for record in records(results)}) == 4
    assert digits(results) == undisturbed(place)


def test_a_diverged_trial_is_named_and_not_retried(place, edit, command, results, features) -> None:
    bad = {"learning_rate": 1e30, "optimizer": "adamw", "gradient_clip": None}
    edit(grid=None, seeds=1, report=None, list=[{"focal_gamma": 0}, bad])
    ended = command(*SLURM)
    assert ended.code == 1
    assert "Diverged" in ended.out
    assert sorted(ends(results)) == [(FAILED, "Diverged"), (FINISHED, None)]


def test_after_the_death_of_a_driver_another_one_follows_its_jobs(
    place, longer, start, command, results, begun, jobs, digits, undisturbed
) -> None:
    longer()
    driver = start(*SLURM)
    begun()
    driver.signal(signal.SIGKILL)
    assert len(jobs()) == 1
    assert command(*SLURM).code == 0
    assert len(job_folder(results).all()) == 1
    assert ends(results) == [(FINISHED, None)]
    assert digits(results) == undisturbed(place)


def test_detached_jobs_finish_without_a_driver_and_are_not_submitted_again(
    place, edit, command, results, jobs, wait_until
) -> None:
    edit(grid=None, seeds=2, report=None)
    assert "submitted: 2 trials" in command(*SLURM, "--detach").out
    assert "not submitted: 2 trials" in command(*SLURM, "--detach").out
    wait_until(lambda: not jobs())
    assert ends(results) == [(FINISHED, None)] * 2
    assert command(*SLURM).code == 0
    assert len(job_folder(results).all()) == 1


def test_the_scripts_are_shown_and_nothing_is_written(place, command) -> None:
    (place / "site.yaml").write_text("account: lab\nsetup: [module load cuda]\nextra: {nice: 100}\nmax_array_size: 3\n")
    before = sorted(place.rglob("results*"))
    shown = command(*SLURM, "--profile", "site.yaml", "--print-sbatch").out
    options = ("--account=lab", "--array=0-2", "--gres=gpu:1", "--nice=100", "--requeue", "--time=240")
    for line in (*options, "module load cuda"):
        assert line in shown
    refused = command(*SLURM, "--set", "resources.gpus=0")
    assert refused.code == 2
    assert "the default partition has GPUs" in refused.err
    assert shown.count("#!/bin/bash") == 2
    assert sorted(place.rglob("results*")) == before


@pytest.mark.parametrize("sent", ["USR2", "TERM and a requeue"])
def test_a_warned_job_is_requeued_and_resumes_at_its_epoch(
    sent, place, longer, start, results, begun, cluster, digits, undisturbed
) -> None:
    longer()
    driver = start(*SLURM)
    job = begun()
    if sent == "USR2":
        cluster.ask("scancel", "--signal=USR2", job)
    else:
        cluster.ask("scontrol", "requeue", job)
    assert driver.end(150).code == 0
    assert ends(results) == [(INTERRUPTED, "Stop"), (FINISHED, None)]
    lines = [json.loads(line) for line in (results / f"events/slurm-{job}.jsonl").read_text().splitlines()]
    again = [line["epoch"] for line in lines if line["kind"] == "epoch" and line["attempt"] == 2 and line["task"] == 0]
    assert not again or again[0] > 1  # Task 0 was over, or went on where it was.
    assert digits(results) == undisturbed(place)


def test_a_single_task_of_an_array_is_requeued(place, longer, start, results, cluster, wait_until) -> None:
    longer(epochs=60, seeds=3)
    driver = start(*SLURM)
    (array,) = wait_until(lambda: [one for one in job_folder(results).all() if one.job_id])
    last = f"{array.job_id}_2"  # Its own number is the array's: what is asked of that number is asked of all.
    log = results / f"events/slurm-{last}.jsonl"
    wait_until(lambda: log.exists() and '"epoch"' in log.read_text())
    cluster.ask("scancel", "--signal=USR2", last)
    assert driver.end(150).code == 0
    assert sorted(ends(results)) == [(FINISHED, None)] * 3 + [(INTERRUPTED, "Stop")]


def test_cancelled_trials_of_a_packed_job_have_not_failed(place, longer, start, command, results, begun) -> None:
    longer(seeds=4)
    (place / "site.yaml").write_text("trials_per_job: 4\n")
    driver = start(*SLURM, "--profile", "site.yaml")
    begun()
    assert command("cancel", results).code == 0
    ended = driver.end(150)
    assert ended.code == 1
    assert "failed" not in ended.out
    assert (INTERRUPTED, CANCELLED) in ends(results)
    assert FAILED not in {state for state, _ in ends(results)}


def test_a_node_that_dies_costs_no_retry(place, longer, start, results, begun, cluster, digits, undisturbed) -> None:
    longer(retries=0)
    driver = start(*SLURM)
    job = begun()
    node = cluster.ask("squeue", "--noheader", f"--job={job}", "--format=%N").strip()
    cluster.script("kill-node", node.removeprefix("n"))
    cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    assert driver.end(150).code == 0
    cluster.script("start-node", node.removeprefix("n"))
    assert ends(results) == [(INTERRUPTED, "Stop"), (FINISHED, None)]
    assert digits(results) == undisturbed(place)


def test_a_preempted_job_costs_no_retry(
    place, longer, start, results, begun, cluster, tmp_path, digits, undisturbed
) -> None:
    longer(retries=0)
    (place / "site.yaml").write_text("partition: low\n")
    driver = start(*SLURM, "--profile", "site.yaml")
    node = cluster.ask("squeue", "--noheader", f"--job={begun()}", "--format=%N").strip()
    cluster.submit(tmp_path, "sleep 1", "--partition=high", "--exclusive", f"--nodelist={node}")
    assert driver.end(150).code == 0
    assert ends(results) == [(INTERRUPTED, "Stop"), (FINISHED, None)]
    assert digits(results) == undisturbed(place)


def test_too_little_memory_is_a_failure_that_names_it(place, edit, command, results, cluster, features) -> None:
    edit(grid=None, seeds=1, report=None, resources={"mem_gb": 0.1})
    ended = command(*SLURM)
    if "task/cgroup" in cluster.ask("scontrol", "show", "config"):
        assert ended.code == 1
        assert "ran out of memory; raise resources.mem_gb (the job had 0.1 GB)" in ended.out
        assert job_folder(results).all()[1:] == []  # The same memory would be too little again.
    else:  # Nothing limits the memory of jobs on this machine, so nothing can run out of it.
        assert ended.code == 0


def test_a_killed_worker_costs_an_attempt_and_is_retried(place, longer, start, results, begun) -> None:
    longer()
    driver = start(*SLURM)
    begun()
    (record,) = records(results)
    os.kill(record.content["pid"], signal.SIGKILL)
    assert driver.end(150).code == 0
    assert ends(results) == [(FAILED, "WorkerDied"), (FINISHED, None)]


def test_a_job_that_scancel_ends_waits_for_the_next_run(
    place, longer, start, command, results, begun, cluster, jobs, digits, undisturbed
) -> None:
    longer()
    driver = start(*SLURM)
    cluster.ask("scancel", begun())
    assert driver.end(150).code == 1
    assert jobs() == []
    assert command(*SLURM).code == 0
    assert digits(results) == undisturbed(place)


def test_a_trial_without_progress_in_two_jobs_fails_and_names_the_time_limit(
    place, edit, features, start, results, wait_until, hangs_at
) -> None:
    """The first claim on a stage hangs, so that no machine is fast enough to end an epoch."""
    edit(**LONG)
    variables = hangs_at(place / "cache/stages/claims")
    setup = [f"export {name}={value}" for name, value in variables.items()]
    (place / "site.yaml").write_text(yaml.safe_dump({"setup": setup}))
    driver = start(*SLURM, "--profile", "site.yaml")
    for attempt in (1, 2):

        def hangs(attempt: int = attempt) -> bool:
            written = "".join(path.read_text() for path in (results / "events").glob("*"))
            return written.count('"features"') >= attempt

        wait_until(hangs)
        os.kill(records(results)[-1].content["pid"], signal.SIGUSR2)
        wait_until(lambda attempt=attempt: len([r for r in records(results) if r.state != "running"]) >= attempt)
    ended = driver.end(150)
    assert ended.code == 1
    assert ends(results) == [(INTERRUPTED, "Stop"), (FAILED, NO_PROGRESS)]
    assert "resources.time_min is 3" in ended.out


def test_status_cancel_and_logs_work_as_on_every_backend(
    place, longer, command, results, begun, jobs, wait_until
) -> None:
    longer(epochs=400, seeds=3)
    (place / "site.yaml").write_text("parallelism: 1\n")
    command(*SLURM, "--profile", "site.yaml", "--detach")
    job = begun()
    shown = json.loads(command("status", results, "--json").out)
    assert {state: count for state, count in shown["counts"].items() if count} == {"running": 1, "queued": 2}
    (running,) = [trial for trial in shown["trials"] if trial["state"] == "running"]
    assert running["job"].startswith(f"{job}@")
    assert "epoch" in command("logs", results, running["trial_id"]).out
    ended = command("cancel", results)
    assert ended.code == 0
    assert "withdrawn from the queue: 2" in ended.out
    wait_until(lambda: not jobs())
    assert ends(results) == [(INTERRUPTED, CANCELLED)]
    assert json.loads(command("status", results, "--json").out)["counts"]["cancelled"] == 3


def test_a_rejected_job_is_one_line_and_leaves_nothing(place, command, results) -> None:
    (place / "site.yaml").write_text("partition: nowhere\n")
    ended = command(*SLURM, "--profile", "site.yaml")
    assert ended.code == 1
    assert "nowhere" in ended.err or "invalid partition" in ended.err
    assert "Traceback" not in ended.err
    assert not [path for path in (results / "slurm").rglob("*") if path.is_file()]


def test_a_trial_that_hangs_fails_as_stalled_and_the_others_of_its_job_run_in_another(
    place, edit, features, small_run, command, results, jobs, wait_until, hangs_at
) -> None:
    """The claim on one trial's first stage is a file-system call that hangs."""
    edit(retries=0, report=None, resources={"time_min": 3, "stall_min": 0.2})
    stage = next(
        path.parent
        for path in (small_run / "cache/stages").glob("*/*/stage.json")
        if (facts := json.loads(path.read_text())["facts"])["config"]["seed"] == 0
        and facts["task"] == facts["config"]["data"]["tasks"][0]
    )
    variables = hangs_at(place / "cache/stages/claims" / stage.name)
    setup = [f"export {name}={value}" for name, value in variables.items()]
    (place / "site.yaml").write_text(yaml.safe_dump({"trials_per_job": 4, "setup": setup}))
    ended = command(*SLURM, "--profile", "site.yaml")
    assert ended.code == 1
    assert "no progress for 0.2 min (resources.stall_min)" in ended.out + ended.err
    assert sorted(ends(results), key=str) == [("failed", "Stalled")] + [(FINISHED, None)] * 3
    wait_until(lambda: jobs() == [])
