"""The arrays that are made of items, the jobs they wait for, and drivers that die meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.slurm.queue import Queue
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import Submission, job_folder, new_submission
from orchestrator.backends.slurm.submitter import Array, SubmissionRejected, Submitter, rejections
from orchestrator.execution.backend import WorkerConfig, WorkItem

Make = Callable[..., WorkItem]
Waits = list[tuple[list[str], list[str]]]


@pytest.fixture
def items(item: Make) -> list[WorkItem]:
    return [item("b", "a"), item("c", "b"), item("d"), item("e", "d"), item("f", "gone")]


@pytest.fixture
def submitter(setup_in: WorkerConfig) -> Callable[..., Submitter]:
    """A submitter whose profile has dependencies; keyword arguments are keys of the profile."""

    def make(**keys: Any) -> Submitter:
        profile = {"stages": "dependencies", "max_array_size": 100, "python": "python", **keys}
        return Submitter(setup_in, SiteProfile.model_validate(profile), job_folder(setup_in.folder))

    return make


def summary(arrays: Sequence[Array]) -> list[tuple[int, list[str], tuple[str, ...]]]:
    """Depth, trials and earlier jobs of each array."""
    return [(a.depth, [i.trial.id for task in a.tasks for i in task], a.after) for a in arrays]


def test_a_trial_that_follows_one_of_an_earlier_job_waits_for_that_job(
    submitter: Callable[..., Submitter], items: list[WorkItem]
) -> None:
    arrays = submitter().arrays(items, {"a": "7", "other": "8"})
    assert summary(arrays) == [(0, ["b"], ("7",)), (0, ["d", "f"], ()), (1, ["c", "e"], ())]
    assert summary(submitter().arrays(items)) == [(0, ["b", "d", "f"], ()), (1, ["c", "e"], ())]
    claims = submitter(stages="claims").arrays(items, {"a": "7"})
    assert summary(claims) == [(0, ["b", "d", "f", "c", "e"], ())]


def test_arrays_are_packed_and_split_as_the_site_requires(submitter: Callable[..., Submitter], item: Make) -> None:
    arrays = submitter(stages="claims", trials_per_job=2, max_array_size=2).arrays([item(name) for name in "abcdefg"])
    sizes = [[len(task) for task in array.tasks] for array in arrays]
    assert sizes == [[2, 2], [2, 1]]


def test_the_site_is_asked_for_its_largest_array_only_if_the_profile_has_none(
    submitter: Callable[..., Submitter], item: Make, programs: Callable[..., Path]
) -> None:
    folder = programs(scontrol="echo 'MaxArraySize = 4'")
    five = [item(name) for name in "abcde"]
    assert [len(array.tasks) for array in submitter(max_array_size=4).arrays(five)] == [4, 1]
    assert not (folder / "scontrol.log").exists()
    assert [len(array.tasks) for array in submitter(max_array_size=None).arrays(five)] == [3, 2]
    assert submitter(max_array_size=None).arrays([]) == []


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """The trials of each submitted array and the jobs it waits for; job ids are 100, 101, ..."""
    found: Waits = []

    def submit(self: Submitter, array: Array, after: Sequence[str]) -> Submission:
        ids = [[i.trial.id for i in task] for task in array.tasks]
        found.append(([name for task in ids for name in task], list(after)))
        return self.jobs.set_job_id(new_submission("small", ids, 1, 1), str(99 + len(found)))

    monkeypatch.setattr(Submitter, "_submit", submit)
    return found


def test_arrays_wait_for_those_of_their_leaders_of_now_and_of_before(
    submitter: Callable[..., Submitter], items: list[WorkItem], waits: Waits
) -> None:
    submitted: list[Submission] = []
    made = submitter().submit(items, submitted.append, {"a": "7"})
    assert waits == [(["b"], ["7"]), (["d", "f"], []), (["c", "e"], ["100", "101"])]
    assert made == submitted
    waits.clear()
    submitter(parallelism=1).submit(items[:3], submitted.append, {"a": "7"})
    assert waits == [(["b"], ["7"]), (["d"], ["100"]), (["c"], ["100", "101"])]


def test_an_error_of_submitit_is_a_rejection_with_a_hint_at_limits_and_a_full_disk_is_none() -> None:
    undone: list[str] = []

    def fail(error: Exception) -> None:
        with rejections(lambda: undone.append("undone"), "; try fewer"):
            raise error

    with pytest.raises(
        SubmissionRejected, match=r"^SLURM took no job: QOSMaxSubmitJobPerUserLimit; reached; try fewer$"
    ):
        fail(RuntimeError("QOSMaxSubmitJobPerUserLimit\n reached"))
    with pytest.raises(SubmissionRejected, match=r"^SLURM took no job: no such partition$"):
        fail(ValueError("no such partition"))
    with pytest.raises(OSError, match="full"):
        fail(OSError(28, "full"))
    assert len(undone) == 3


def sbatch(job_id: str) -> str:
    return f"echo 'Submitted batch job {job_id}'"


def test_an_array_is_recorded_before_sbatch_is_called(
    submitter: Callable[..., Submitter], item: Make, programs: Callable[..., Path], setup_in: WorkerConfig
) -> None:
    records = setup_in.folder / "slurm"
    seen = setup_in.folder / "seen"
    programs(srun="", sbatch=f"/bin/cat {records}/*.json > {seen}\n{sbatch('7')}")
    (made,) = submitter().submit([item("a" * 12), item("b" * 12)], lambda _: None)
    assert (made.job_id, made.elements) == ("7", (("a" * 12,), ("b" * 12,)))
    assert '"job_id": null' in seen.read_text()
    assert job_folder(setup_in.folder).all() == [made]
    assert job_folder(setup_in.folder).has_all_pickles(made)


@pytest.mark.parametrize("found", [True, False])
def test_a_rejected_array_leaves_no_record_and_one_whose_answer_was_lost_is_cancelled(
    found: bool, submitter: Callable[..., Submitter], item: Make, programs: Callable[..., Path], setup_in: WorkerConfig
) -> None:
    folder = programs(srun="", sbatch="echo 'no answer' >&2; exit 1", squeue="echo 7" if found else "", scancel="")
    with pytest.raises(SubmissionRejected, match=r"SLURM took no job: .*no answer"):
        submitter().submit([item("a" * 12)], lambda _: None)
    assert job_folder(setup_in.folder).all() == []
    assert (folder / "scancel.log").exists() == found


@pytest.mark.parametrize("pickles", [True, False])
def test_an_array_whose_driver_died_in_sbatch_is_taken_over_if_it_is_whole(
    pickles: bool, submitter: Callable[..., Submitter], programs: Callable[..., Path]
) -> None:
    folder = programs(squeue="echo 7", scancel="")
    jobs = submitter().jobs
    added = jobs.add(new_submission("small", [["a" * 12]], 1, 1))
    if pickles:
        jobs.output(added.uid).mkdir()
        (jobs.output(added.uid) / "7_submitted.pkl").touch()
    submitter().recover(Queue())
    assert [submission.job_id for submission in jobs.all()] == (["7"] if pickles else [])
    assert (folder / "scancel.log").exists() != pickles


def test_an_array_that_slurm_never_received_is_removed(
    submitter: Callable[..., Submitter], programs: Callable[..., Path]
) -> None:
    programs(squeue="")
    jobs = submitter().jobs
    jobs.add(new_submission("small", [["a" * 12]], 1, 1))
    submitter().recover(Queue())
    assert jobs.all() == []


@pytest.mark.parametrize("in_a_job", [True, False])
def test_a_job_that_a_job_submits_inherits_nothing_of_it_but_the_cluster(
    in_a_job: bool,
    submitter: Callable[..., Submitter],
    item: Make,
    programs: Callable[..., Path],
    setup_in: WorkerConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = setup_in.folder / "seen"
    programs(srun="", sbatch=f"/usr/bin/env > {seen}\n{sbatch('7')}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    around = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "lab"}
    job = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_MEM_PER_CPU": "2048", "SUBMITIT_EXECUTOR": "slurm"}
    for name, value in (around | (job if in_a_job else {})).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    submitter().submit([item("a" * 12)], lambda _: None)
    given = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    prefixes = ("SLURM_", "SBATCH_", "SUBMITIT_")
    passed_on = {name: value for name, value in given.items() if name.startswith(prefixes)}
    assert passed_on == ({"SLURM_CONF": "/etc/slurm.conf"} if in_a_job else around)
    assert dict(os.environ) == before


def test_an_error_of_sbatch_is_said_once(
    submitter: Callable[..., Submitter], item: Make, programs: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    programs(srun="", sbatch="echo 'sbatch: error: no' >&2; exit 1", squeue="")
    with pytest.raises(SubmissionRejected, match=r"^SLURM took no job: no$"):
        submitter().submit([item("a" * 12)], lambda _: None)
    assert capfd.readouterr() == ("", "")


def test_a_rejection_says_which_arrays_slurm_has_and_which_it_lacks(
    submitter: Callable[..., Submitter], item: Make, programs: Callable[..., Path], setup_in: WorkerConfig
) -> None:
    """The second of three arrays is refused."""
    count = setup_in.folder / "count"
    refuse = "echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2; exit 1"
    programs(srun="", squeue="", sbatch=f"[ -e {count} ] && {{ {refuse}; }}; : > {count}\n{sbatch('7')}")
    seen: list[Submission] = []
    with pytest.raises(SubmissionRejected) as raised:
        submitter(stages="claims", max_array_size=2).submit([item(f"{n:012x}") for n in range(5)], seen.append)
    assert str(raised.value) == (
        "SLURM took no job: Batch job submission failed: Job violates accounting/QOS policy; "
        "submitted before that, and going on: 2 trials as SLURM job 7; not submitted: 3 trials in 2 arrays"
    )
    assert [one.job_id for one in seen] == ["7"]
    assert job_folder(setup_in.folder).all() == seen
