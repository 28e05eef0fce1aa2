"""Submissions on record: any driver finds the jobs of an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.slurm.submissions import Submission, array_tasks, job_folder, new_submission

TRIALS = [["0123456789ab", "0123456789ac"], ["0123456789ad"]]


def test_a_submission_has_array_tasks_once_slurm_has_accepted_it(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    added = jobs.add(new_submission("small", TRIALS, time_min=20, mem_gb=4))
    assert jobs.all() == [added]
    assert list(array_tasks(jobs.all())) == []
    jobs.set_job_id(added, "7")
    found = list(array_tasks(jobs.all()))
    assert [(task.id, list(task.trial_ids)) for task in found] == [("7_0", TRIALS[0]), ("7_1", TRIALS[1])]
    assert (found[0].submission.time_min, found[0].submission.mem_gb) == (20, 4)
    assert found[0].job == f"7_0@{added.uid}"
    assert added.name == f"moleflow-small-{added.uid}"


def test_a_single_task_is_no_array_to_slurm(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    jobs.set_job_id(jobs.add(new_submission("small", TRIALS[:1], 1, 1)), "9")
    assert [task.id for task in array_tasks(jobs.all())] == ["9"]


def test_submissions_come_in_their_order_and_a_removed_one_is_gone(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    made = [jobs.add(new_submission("small", TRIALS, n, 1)) for n in (1, 2, 3)]
    jobs.remove(made[1])
    assert [submission.time_min for submission in jobs.all()] == [1, 3]


@pytest.mark.parametrize("content", ["", "{", '{"uid": "x"}', "[]"])
def test_a_record_that_was_cut_off_is_no_submission(tmp_path: Path, content: str) -> None:
    jobs = job_folder(tmp_path)
    jobs.folder.mkdir()
    (jobs.folder / "0123456789ab.json").write_text(content)
    assert jobs.all() == []


def test_a_record_of_the_first_version_is_read(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    jobs.folder.mkdir()
    text = """{
 "uid": "0123456789ab",
 "sweep": "small",
 "elements": [["aaaaaaaaaaaa", "bbbbbbbbbbbb"], ["cccccccccccc"]],
 "time_min": 20,
 "mem_gb": 4.0,
 "job_id": "7",
 "submitted_at": 1764000000.5
}"""
    (jobs.folder / "0123456789ab.json").write_text(text)
    trial_ids = (("aaaaaaaaaaaa", "bbbbbbbbbbbb"), ("cccccccccccc",))
    assert jobs.all() == [Submission("0123456789ab", "small", trial_ids, 20, 4.0, "7", 1764000000.5)]
    assert [task.job for task in array_tasks(jobs.all())] == ["7_0@0123456789ab", "7_1@0123456789ab"]


def test_a_submission_is_whole_once_each_task_has_its_pickle(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    submission = jobs.set_job_id(jobs.add(new_submission("small", TRIALS, 1, 1)), "7")
    output = jobs.output(submission.uid)
    output.mkdir()
    (output / "7_0_submitted.pkl").touch()
    assert not jobs.has_all_pickles(submission)
    (output / "7_1_submitted.pkl").touch()
    assert jobs.has_all_pickles(submission)
