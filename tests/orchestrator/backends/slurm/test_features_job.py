"""The job that computes features: what it writes, and how the command follows it; no cluster."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput, MoleflowError
from moleflow.owner import JOB_VARIABLE
from orchestrator.backends.slurm import features_job
from orchestrator.backends.slurm.queue import Queue, QueueState, SlurmUnavailable
from orchestrator.backends.slurm.submissions import ArrayTask
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.features import FeatureProgress, FeatureSummary
from orchestrator.sweep.file_schema import Resources

NEEDS = Resources(time_min=20, mem_gb=3.5)


@pytest.fixture
def job(setup_in: WorkerConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run the job with a given end of its work; returns what it has written."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(JOB_VARIABLE, "")

    def run(error: Exception | None = None, code: str = "") -> dict[str, Any]:
        def compute(_setup: WorkerConfig, _configs: object, show: Callable[[FeatureProgress], None]) -> FeatureSummary:
            show(FeatureProgress(0, 2, 5, 10))
            seen.update(json.loads((setup_in.folder / "state.json").read_text()))
            if error:
                raise error
            return FeatureSummary(2, 20, 15, "cpu")

        seen: dict[str, Any] = {}
        monkeypatch.setattr(features_job, "compute_features", compute)
        fails = pytest.raises(type(error) if error else MoleflowError) if error or code else nullcontext()
        with fails:
            features_job.run_features_job(setup_in.folder, setup_in, [], code or code_digest())
        if not code:
            progress = {"setting": 0, "settings": 2, "done": 5, "wanted": 10}
            assert seen == {"state": "running", "reached": progress}
        written: dict[str, Any] = json.loads((setup_in.folder / "state.json").read_text())
        return written

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_job_writes_its_progress_and_its_summary(job: Callable[..., dict[str, Any]]) -> None:
    made = {"settings": 2, "images": 20, "computed": 15, "device": "cpu"}
    assert job() == {"state": "done", "made": made}


@pytest.mark.parametrize(
    ("error", "text", "invalid"),
    [
        (InvalidInput("no such\n layer"), "no such layer", True),
        (MoleflowError("no network"), "no network", False),
        (ValueError("no"), "ValueError: no", False),
    ],
)
def test_a_job_writes_its_error_and_whether_the_user_made_it(
    error: Exception, text: str, invalid: bool, job: Callable[..., dict[str, Any]]
) -> None:
    assert job(error) == {"state": "failed", "error": text, "invalid": invalid}


def test_a_job_submitted_by_other_code_computes_nothing(job: Callable[..., dict[str, Any]]) -> None:
    written = job(code="other")
    assert (written["state"], written["invalid"]) == ("failed", False)
    assert written["error"] == "the project's code changed after the job was submitted; run the same command again"


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Follow job 7 while SLURM gives it some states, one at each question."""
    for name in ("LOOK_EVERY_S", "ASK_EVERY_S", "ASK_AT_LEAST_EVERY_S"):
        monkeypatch.setattr(features_job, name, 0.0)
    monkeypatch.setattr(features_job, "SEEN_AFTER_S", 0.02)

    def run(*states: str) -> dict[str, Any]:
        left = list(states)

        def answer(_: Queue, tasks: Sequence[ArrayTask]) -> dict[str, QueueState]:
            state = left.pop(0) if len(left) > 1 else left[0]
            if state == "no answer":
                raise SlurmUnavailable("squeue: down")
            if state == "done":
                (tmp_path / "state.json").write_text('{"state": "done", "made": {}}')
            return {"7": QueueState("RUNNING" if state == "done" else state)}

        monkeypatch.setattr(Queue, "states", answer)
        return features_job._follow(tmp_path, "7", Queue(), NEEDS, lambda _: None)

    return run


def test_the_command_waits_until_the_job_has_written_its_end(follow: Callable[..., dict[str, Any]]) -> None:
    # SLURM shows a requeued job as ended for a moment, and may not answer for a while.
    assert follow("PENDING", "TIMEOUT", "PENDING", "no answer", "TIMEOUT", "RUNNING", "done")["state"] == "done"


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("TIMEOUT", "resources.time_min is 20; run the same command again, and it continues from there"),
        ("OUT_OF_MEMORY", "raise resources.mem_gb, which is 3.5"),
        ("COMPLETED", "7_0_log.out"),
    ],
)
def test_a_job_that_ended_without_writing_its_end_is_an_error_that_names_the_remedy(
    state: str, remedy: str, follow: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(MoleflowError, match=f"^SLURM job 7 ended as {state} before it was done") as raised:
        follow(state)
    assert str(raised.value).endswith(remedy)
