"""The results folder at the start of a run."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from moleflow.errors import InvalidInput
from orchestrator.driver import results_folder
from orchestrator.driver.prepare import Options, writable
from orchestrator.driver.results_folder import folder_content


def record(state, job=None):
    return SimpleNamespace(state=state, content={"job": job} if job else {})


@pytest.mark.parametrize(("backend", "left_out"), [("local", 0), ("inline", 0), ("ray", 0), ("slurm", 1)])
def test_only_the_slurm_backend_keeps_the_dead_attempts_of_jobs(backend, left_out):
    """SLURM knows how a job ended; attempts outside of jobs are recorded on every backend."""
    dead, of_job = record("died"), record("died", job="17_0")
    others = [record("running"), record("finished"), record("failed", job="17_1")]
    expected = [dead, of_job][: 2 - left_out]
    assert results_folder._dead([dead, *others, of_job], Options(backend=backend)) == expected


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
    prepared = SimpleNamespace(sweep=sweep, trials=trials, inputs=inputs, labels={"a": "A"}, tabled=None)
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


@pytest.mark.parametrize(
    ("states", "dead", "arguments"),
    [
        (["finished", "failed"], [], {"grace_seconds": 0.0}),
        ([], [], {"grace_seconds": 0.0}),
        (["finished", "running"], [], {}),
        (["died"], ["died"], {"grace_seconds": 0.0}),
    ],
)
def test_young_unfinished_parts_are_removed_only_if_no_worker_runs(monkeypatch, tmp_path, states, dead, arguments):
    """While a worker of another driver runs, a young file may be its own, so it is left."""
    recovered = []

    def recover(**given):
        recovered.append(given)
        return SimpleNamespace(set_aside=())

    records = [SimpleNamespace(state=state, content={}, trial_id="a", attempt=1) for state in states]
    folders = SimpleNamespace(all=lambda: records)
    monkeypatch.setattr(results_folder, "write_plan", lambda prepared: None)
    monkeypatch.setattr(results_folder, "AttemptFolder", lambda folder: folders)
    monkeypatch.setattr(
        results_folder.dead_attempts, "record_dead_attempts", lambda attempts, store, found, error: found
    )
    store = SimpleNamespace(create=lambda: None, recover=recover)
    prepared = SimpleNamespace(store=store, folder=tmp_path, labels={"a": "gamma=0 seed=0"})
    console = Console(file=io.StringIO(), width=200, soft_wrap=True, highlight=False)
    results_folder.prepare_folder(prepared, Options(quiet=True), console)
    assert recovered == [arguments]
    assert [line.partition(":")[0] for line in console.file.getvalue().splitlines()] == ["died"] * len(dead)
