"""The states of trials in the folders of real runs: running, killed, silent, read-only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from moleflow.errors import InvalidInput
from moleflow.owner import owner_code
from orchestrator.monitor.status import StatusReader
from orchestrator.records.attempts import AttemptFolder
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import Event
from orchestrator.records.stop_requests import cancel_requests
from orchestrator.records.trial_state import NO_PART, JobState

SHORT_AND_LONG = {"grid": None, "list": [{"epochs": 2}, {"epochs": 100000}], "seeds": 1, "report": None}


def look(place, **jobs):
    """The status of the small sweep, and its trials by label."""
    status = StatusReader(place / "results/small", **jobs).look()
    return status, {trial.label: trial for trial in status.trials}


def begun(place):
    return (place / "results/small/sweep.json").exists()


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def records(place):
    return AttemptFolder(place / "results/small/attempts")


class Cluster:
    """A scheduler that has one trial."""

    def __init__(self, trial_id, state):
        self.trial_id, self.state = trial_id, state

    def state_of(self, trial_id):
        return self.state if trial_id == self.trial_id else None

    def cancel(self, trial_ids):
        return len(trial_ids)


@pytest.fixture
def planned(finished):
    """The folder of a sweep whose trials have not begun."""
    for name in ("parts", "attempts", "events", "tables"):
        shutil.rmtree(finished / "results/small" / name)
    return finished


@pytest.fixture
def ids(planned):
    return [trial.trial_id for trial in look(planned)[0].trials]


def test_the_parts_alone_tell_that_a_sweep_has_finished(finished):
    shutil.rmtree(finished / "results/small/events")
    for path in (finished / "results/small/attempts").iterdir():
        path.write_text("not read")
    status, trials = look(finished)
    assert (status.name, status.dataset, status.is_active) == ("small", "images", False)
    assert {state: n for state, n in status.counts.items() if n} == {"finished": 4}
    assert list(trials) == [f"focal_gamma={gamma} seed={seed}" for gamma in (0, 2) for seed in (0, 1)]
    assert {trial.attempt for trial in trials.values()} == {1}
    assert status.elapsed_s >= 0


def test_the_elapsed_time_of_a_finished_sweep_is_constant(finished):
    first = look(finished)[0]
    assert first.started_at < first.last_at < time.time()
    assert look(finished)[0] == first


@pytest.mark.process
def test_a_sweep_that_is_running_in_another_process(place, features, edit, start, wait_until):
    edit(**SHORT_AND_LONG)
    running = start("sweep.yaml", "--workers", "1")
    wait_until(lambda: begun(place) and look(place)[0].counts["finished"])
    wait_until(lambda: (told := look(place)[1]["epochs=100000 seed=0"].progress) and told.kind == "epoch")
    status, trials = look(place)
    assert (status.is_active, status.counts["running"], status.counts["finished"]) == (True, 1, 1)
    long = trials["epochs=100000 seed=0"]
    assert (long.state, long.attempt, long.host, long.job) == ("running", 1, socket.gethostname(), None)
    assert long.worker == f"local-{owner_code(running.process.pid)}-0"
    assert long.progress.facts["task_name"] == "bolt"
    assert long.progress.facts["epochs"] == 100000
    assert (long.reason, long.error) == (None, None)
    assert trials["epochs=2 seed=0"].state == "finished"
    before = status.elapsed_s
    assert look(place)[0].elapsed_s > before

    cancel_requests(place / "results/small").add([long.trial_id])
    running.end()
    assert look(place)[1][long.label].state == "cancelled"


@pytest.mark.process
def test_after_kill_9_of_everything(place, features, edit, start, wait_until):
    edit(**SHORT_AND_LONG)
    running = start("sweep.yaml", "--workers", "1")
    wait_until(lambda: begun(place) and look(place)[1]["epochs=100000 seed=0"].state == "running")
    running.signal(signal.SIGKILL)
    running.end()
    wait_until(lambda: not running.members())
    before = tree(place / "results")
    status, trials = look(place)
    dead = trials["epochs=100000 seed=0"]
    assert (dead.state, dead.attempt, dead.error, dead.progress) == ("failed", 1, UNSEEN, None)
    assert (status.is_active, status.counts["finished"]) == (False, 1)
    assert tree(place / "results") == before


@pytest.mark.process
def test_a_host_that_falls_silent_and_comes_back(place, features, edit, start, wait_until):
    edit(grid=None, seeds=1, report=None, base={"extends": "base.yaml", "epochs": 100000})
    own = next(
        words for words in (("unshare", "-u"), ("unshare", "-ru")) if not subprocess.run([*words, "true"]).returncode
    )
    there = start("sweep.yaml", "--backend", "inline", prefix=(*own, "sh", "-c", 'hostname afar && exec "$@"', "sh"))
    (record,) = wait_until(lambda: [record for record in records(place).all() if record.content])
    assert record.content["host"] == "afar"

    def status():
        return look(place)[0].trials[0]

    def age(seconds):
        os.utime(record.path, (time.time() - seconds, time.time() - seconds))

    assert (status().state, status().host) == ("running", "afar")
    there.signal(signal.SIGSTOP)
    age(20)
    assert status().state == "unknown"
    assert status().reason.startswith("no sign of life from afar for 2")
    assert look(place)[0].is_active
    age(70)
    assert (status().state, status().error) == ("failed", UNSEEN)
    there.signal(signal.SIGCONT)
    wait_until(lambda: status().state == "running")


READ_ONLY = (
    'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ! touch "$1/x" 2>/dev/null && shift && exec "$@"'
)


def test_a_folder_that_cannot_be_written(finished, start, command):
    for path in sorted((finished / "results/small/parts/attempts").glob("2*"))[1:]:
        path.unlink()
    own = next(
        words for words in (("unshare", "-m"), ("unshare", "-rm")) if not subprocess.run([*words, "true"]).returncode
    )
    words = ("status", "results/small", "--json")
    before = tree(finished / "results")
    there = start(*words, prefix=(*own, "sh", "-c", READ_ONLY, "sh", str(finished / "results"))).end()
    assert (there.code, there.err) == (0, "")
    assert there.out == command(*words).out
    assert tree(finished / "results") == before


def test_a_damaged_part_is_named_and_its_trials_are_not_finished(finished):
    part = max((finished / "results/small/parts/scores").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    status, trials = look(finished)
    assert [damage.path.name for damage in status.damaged] == [part.name]
    lost = [trial for trial in trials.values() if trial.state != "finished"]
    assert lost
    assert {(trial.state, trial.reason) for trial in lost} == {("waiting", NO_PART)}


def test_a_sweep_without_results_waits(planned):
    status, _ = look(planned)
    assert (status.counts["waiting"], status.started_at, status.elapsed_s, status.damaged) == (4, None, 0.0, ())


def test_the_latest_error_is_shown_while_a_trial_is_retried(place, finished):
    shutil.rmtree(finished / "results/small/parts")
    trial_id = look(finished)[0].trials[0].trial_id
    for path in (finished / "results/small/attempts").iterdir():
        path.unlink()
    first = records(place).begin(trial_id, job="7_0")
    first.end("failed", error="no luck", error_kind="RuntimeError")
    (status, trials) = look(place)
    assert [(trial.state, trial.error) for trial in status.trials][:2] == [("failed", "no luck"), ("waiting", None)]
    second = records(place).begin(trial_id)
    trial = look(place)[0].trials[0]
    assert (trial.state, trial.attempt, trial.error) == ("running", 2, "no luck")
    second.end("interrupted", error="stopped from outside", error_kind="Stop")
    trial = look(place)[0].trials[0]
    assert (trial.state, trial.error) == ("interrupted", "stopped from outside")
    assert {trial.state for trial in trials.values()} == {"failed", "waiting"}


def test_the_elapsed_time_begins_with_the_earliest_attempt(planned, ids):
    for trial_id, started_at in zip(ids, (2000.0, 1000.0, 3000.0), strict=False):
        records(planned).begin(trial_id, started_at=started_at).stop()
    assert look(planned)[0].started_at == 1000.0


def test_a_request_to_cancel_all_cancels_every_trial(planned):
    cancel_requests(planned / "results/small").add(None)
    assert look(planned)[0].counts["cancelled"] == 4


def test_a_trial_on_another_host_that_is_silent_is_unknown(planned, ids):
    attempt = records(planned).begin(ids[0], host="afar")
    attempt.stop()
    os.utime(attempt.record.path, (time.time() - 20, time.time() - 20))
    trial = look(planned)[0].trials[0]
    assert trial.state == "unknown"
    assert trial.reason.startswith("no sign of life from afar for 2")


def test_a_retry_shows_its_own_progress_and_the_latest_error(planned, ids):
    def log_epoch(attempt):
        log = EventLog(event_logs(planned / "results/small") / "w-0.jsonl")
        facts = {"task": 0, "tasks": 1, "task_name": "leather", "loss": 1.5}
        log(Event("epoch", ids[0], {"attempt": attempt, "epoch": attempt, "epochs": 9, **facts}))

    for error in ("first", "second"):
        records(planned).begin(ids[0], row={"worker": "w-0"}).end("failed", error=error)
    log_epoch(2)
    records(planned).begin(ids[0], row={"worker": "w-0"}).stop()
    trial = look(planned)[0].trials[0]
    assert (trial.state, trial.attempt, trial.progress, trial.error) == ("running", 3, None, "second")
    log_epoch(3)
    assert look(planned)[0].trials[0].progress.facts["epoch"] == 3


def test_a_part_that_is_stored_while_the_attempts_are_read_counts(finished, monkeypatch):
    parts, aside = finished / "results/small/parts", finished / "aside"
    parts.rename(aside)
    read = AttemptFolder.of_trials

    def store_and_read(folder, trial_ids):
        aside.rename(parts)
        return read(folder, trial_ids)

    monkeypatch.setattr(AttemptFolder, "of_trials", store_and_read)
    assert look(finished)[0].counts["finished"] == 4


def test_a_worker_that_ends_after_its_record_is_read_has_its_own_error(planned, ids, dead_pid, monkeypatch):
    attempt = records(planned).begin(ids[0], pid=dead_pid)
    read = AttemptFolder.of_trials

    def read_and_end(folder, trial_ids):
        found = read(folder, trial_ids)
        attempt.end("failed", error="no luck")
        return found

    monkeypatch.setattr(AttemptFolder, "of_trials", read_and_end)
    trial = look(planned)[0].trials[0]
    assert (trial.state, trial.error) == ("failed", "no luck")


def test_a_scheduler_is_asked_about_what_is_not_finished(finished):
    parts = sorted((finished / "results/small/parts/attempts").glob("2*.parquet"))
    parts[-1].unlink()
    shutil.rmtree(finished / "results/small/attempts")
    left = [trial for trial in look(finished)[0].trials if trial.state == "waiting"]
    jobs = Cluster(left[0].trial_id, JobState("queued", "7_0", "Resources"))
    queued = next(trial for trial in look(finished, jobs=jobs)[0].trials if trial.trial_id == left[0].trial_id)
    assert (queued.state, queued.job, queued.reason) == ("queued", "7_0", "Resources")
    done = next(trial for trial in look(finished)[0].trials if trial.state == "finished")
    status, _ = look(finished, jobs=Cluster(done.trial_id, JobState("queued", "7_0")))
    assert status.counts["queued"] == 0


def test_a_trial_that_is_queued_again_has_the_job_that_is_in_the_queue(planned, ids):
    attempt = records(planned).begin(ids[0], job="7_0")
    queue = Cluster(ids[0], JobState("queued", "9_0"))
    assert (look(planned, jobs=queue)[0].trials[0].state, look(planned, jobs=queue)[0].trials[0].job) == (
        "running",
        "7_0",
    )
    attempt.end("interrupted")
    trial = look(planned, jobs=queue)[0].trials[0]
    assert (trial.state, trial.attempt, trial.job) == ("queued", 1, "9_0")
    assert look(planned)[0].trials[0].job == "7_0"


def test_a_folder_without_a_sweep(place):
    with pytest.raises(InvalidInput, match="no such folder"):
        StatusReader(place / "results").look()
