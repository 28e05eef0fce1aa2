"""The results folder at the start of a run."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from moleflow.errors import InvalidInput
from moleflow.owner import owner_code
from orchestrator.driver import results_folder
from orchestrator.driver.prepare import Options, writable
from orchestrator.driver.results_folder import folder_content
from orchestrator.records.attempts import AttemptFolder
from orchestrator.results.store import ResultStore


def record(state, job=None):
    return SimpleNamespace(state=state, has_died=state == "died", content={"job": job} if job else {})


def console():
    return Console(file=io.StringIO(), width=200, soft_wrap=True, highlight=False)


@pytest.mark.parametrize(("backend", "left_out"), [("local", 0), ("inline", 0), ("ray", 0), ("slurm", 1)])
def test_only_the_slurm_backend_keeps_the_dead_attempts_of_jobs(backend, left_out):
    """SLURM knows how a job ended; attempts outside of jobs are recorded on every backend."""
    dead, of_job = record("died"), record("died", job="17_0")
    others = [record("running"), record("finished"), record("failed", job="17_1")]
    expected = [dead, of_job][: 2 - left_out]
    assert results_folder._dead([dead, *others, of_job], Options(backend=backend), console()) == expected


@pytest.mark.parametrize(
    ("question", "note", "title"),
    [
        ("", "", "small"),
        ("Does it help?", "", "small: Does it help?"),
        ("", "on demo", "small (on demo)"),
        ("Does it help?", "on demo", "small: Does it help? (on demo)"),
    ],
)
def test_the_title_joins_name_question_and_note(question, note, title):
    """sweep.json holds the title that status and reports show."""
    sweep = SimpleNamespace(name="small", question=question, note=note, baseline={"loss.focal_gamma": 0})
    trials = [SimpleNamespace(id="b"), SimpleNamespace(id="a")]
    inputs = SimpleNamespace(dataset=SimpleNamespace(name="images"))
    prepared = SimpleNamespace(sweep=sweep, trials=trials, inputs=inputs, labels={"a": "A"}, names={}, tabled=None)
    content = folder_content(prepared)
    assert (content.title, content.trial_ids, content.dataset) == (title, ("b", "a"), "images")


def test_a_full_disk_is_a_failure_that_names_the_option():
    """No user's mistake: the exit code is 1, and the error stays an OSError."""
    with (
        pytest.raises(OSError, match="free some, or give another folder with --out") as caught,
        writable("here", "--out"),
    ):
        raise OSError(28, "No space left on device", "here/parts")
    assert (caught.value.errno, caught.value.filename) == (28, "here/parts")


def test_a_folder_that_cannot_be_written_is_the_users_mistake():
    """The message names the file, or the folder if the error names none."""
    with (
        pytest.raises(InvalidInput, match=r"^here/parts: cannot be written \(Permission denied\)"),
        writable("here", "--out"),
    ):
        raise PermissionError(13, "Permission denied", "here/parts")
    with pytest.raises(InvalidInput, match=r"^here: cannot be written .* with --out$"), writable("here", "--out"):
        raise OSError(30, "Read-only file system")


def test_silent_attempts_of_other_hosts_are_watched_before_they_count_as_dead(monkeypatch):
    """A clock that runs ahead makes every attempt on another host look dead."""
    slept = []
    monkeypatch.setattr(results_folder.time, "sleep", slept.append)
    alive = SimpleNamespace(state="died", has_died=False, content={"host": "node7"})
    dead = record("died")
    said = console()
    assert results_folder._dead([alive, dead], Options(), said) == [dead]
    assert slept == [15.0]
    assert said.file.getvalue() == "waiting:  15 s for a sign of life of 1 attempts on node7\n"
    assert results_folder._dead([dead], Options(), said) == [dead]
    assert slept == [15.0]


def test_a_start_names_the_dead_and_removes_what_they_left(monkeypatch, tmp_path, dead_pid):
    records = AttemptFolder(tmp_path / "attempts")
    begun = records.begin("0123456789ab")
    begun.stop()
    content = json.loads(begun.record.path.read_text()) | {"started": 1.0}  # Another process of this pid.
    begun.record.path.write_text(json.dumps(content))
    left = [tmp_path / f".sweep.json.{owner_code(dead_pid)}-0123456789ab.tmp"]
    left.append(records.folder / f".x.json.{owner_code(dead_pid)}-0123456789ab.tmp")
    for path in left:
        path.write_text("half")
    monkeypatch.setattr(results_folder, "write_plan", lambda prepared: None)
    prepared = SimpleNamespace(store=ResultStore(tmp_path), folder=tmp_path, labels={"0123456789ab": "gamma=0 seed=0"})
    said = console()
    results_folder.prepare_folder(prepared, Options(quiet=True), said)
    assert said.file.getvalue().startswith("died:     gamma=0 seed=0, attempt 1: its process is gone")
    assert not any(path.exists() for path in left)
    assert records.of_trial("0123456789ab")[0].stored_state == "failed"
