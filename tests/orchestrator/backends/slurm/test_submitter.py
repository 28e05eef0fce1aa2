"""Which arrays are made of items, and which jobs they wait for; no SLURM is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.backends.slurm import queue
from orchestrator.backends.slurm.backend import SlurmBackend
from orchestrator.backends.slurm.queue import QueueState
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import Submission, job_folder, new_submission
from orchestrator.backends.slurm.submitter import Array, Submitter
from orchestrator.execution.backend import SourceSignal, WorkerConfig, WorkItem
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial


def item(name: str, *after: str) -> WorkItem:
    return WorkItem((Trial(name, TrialConfig(), {}, Inputs({}, "", "")),), after, Resources())


def profile(stages: str = "dependencies", **more: Any) -> SiteProfile:
    return SiteProfile.model_validate({"stages": stages, "max_array_size": 100, **more})


def setup_of(folder: Path) -> WorkerConfig:
    return WorkerConfig("small", folder, folder, folder, "embedded", "slurm", "slurm-1", "cpu", 1, False, {})


def submitter(folder: Path, **more: Any) -> Submitter:
    return Submitter(setup_of(folder), profile(**more), job_folder(folder))


def told(arrays: Sequence[Array]) -> list[tuple[int, list[str], tuple[str, ...]]]:
    return [(a.depth, [name for e in a.elements for i in e for name in i.trial_ids], a.ahead) for a in arrays]


ITEMS = [item("b", "a"), item("c", "b"), item("d"), item("e", "d"), item("f", "gone")]


def test_who_follows_a_trial_of_an_earlier_job_waits_for_that_job_and_nobody_else_does(tmp_path: Path) -> None:
    arrays = submitter(tmp_path).arrays(ITEMS, {"a": "7", "other": "8"})
    assert told(arrays) == [(0, ["b"], ("7",)), (0, ["d", "f"], ()), (1, ["c", "e"], ())]
    assert told(submitter(tmp_path).arrays(ITEMS)) == [(0, ["b", "d", "f"], ()), (1, ["c", "e"], ())]
    claims = submitter(tmp_path, stages="claims").arrays(ITEMS, {"a": "7"})
    assert told(claims) == [(0, ["b", "d", "f", "c", "e"], ())]


Waits = list[tuple[list[str], list[str]]]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """The trials of each array that is submitted, and the jobs that it waits for; SLURM's numbers are 100, 101, ..."""
    found: Waits = []

    def submit(self: Submitter, array: Array, after: Sequence[str]) -> Submission:
        ids = [[name for i in element for name in i.trial_ids] for element in array.elements]
        found.append(([name for element in ids for name in element], list(after)))
        return self.jobs.confirm(new_submission("small", ids, 1, 1), str(99 + len(found)))

    monkeypatch.setattr(Submitter, "_submit", submit)
    return found


def test_jobs_wait_for_those_of_their_leaders_whether_these_are_submitted_now_or_were_before(
    tmp_path: Path, waits: Waits
) -> None:
    submitter(tmp_path).submit(ITEMS, lambda _: None, {"a": "7"})
    assert waits == [(["b"], ["7"]), (["d", "f"], []), (["c", "e"], ["100", "101"])]
    waits.clear()
    submitter(tmp_path, parallelism=1).submit(ITEMS[:3], lambda _: None, {"a": "7"})
    assert waits == [(["b"], ["7"]), (["d"], ["100"]), (["c"], ["100", "101"])]


class Given:
    """A source that has some items and then nothing more."""

    def __init__(self, items: Sequence[WorkItem]) -> None:
        self._left = list(items)

    def next(self) -> WorkItem | SourceSignal:
        return self._left.pop(0) if self._left else SourceSignal.DONE


@pytest.mark.parametrize(("word", "jobs"), [("RUNNING", ["7"]), ("PENDING", ["7"]), ("COMPLETED", []), ("UNHEARD", [])])
def test_a_second_driver_lets_followers_wait_for_the_leader_that_is_in_a_job_already(
    tmp_path: Path, waits: Waits, monkeypatch: pytest.MonkeyPatch, word: str, jobs: list[str]
) -> None:
    record = job_folder(tmp_path)
    record.confirm(record.announce(new_submission("small", [["aaaaaaaaaaaa"]], 1, 1)), "7")
    monkeypatch.setattr(queue.Queue, "states", lambda self, elements: {e.id: QueueState(word) for e in elements})
    leader, follower, other = item("aaaaaaaaaaaa"), item("bbbbbbbbbbbb", "aaaaaaaaaaaa"), item("cccccccccccc")
    (tmp_path / "parts").mkdir()
    SlurmBackend(setup_of(tmp_path), profile()).submit(Given([leader, follower, other]))
    if jobs:
        assert waits == [(["bbbbbbbbbbbb"], ["7"]), (["cccccccccccc"], [])]
    else:  # It is submitted again, and leads from there.
        assert waits == [(["aaaaaaaaaaaa", "cccccccccccc"], []), (["bbbbbbbbbbbb"], ["100"])]
