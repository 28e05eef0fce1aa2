"""Arrays on record: any driver knows them, whenever the one that submitted them died."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.slurm.submissions import elements, job_folder, new_submission

TRIALS = [["0123456789ab", "0123456789ac"], ["0123456789ad"]]


def test_an_announced_array_is_on_record_and_has_elements_once_slurm_has_taken_it(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    announced = jobs.announce(new_submission("small", TRIALS, time_min=20, mem_gb=4))
    assert jobs.all() == [announced]
    assert list(elements(jobs.all())) == []
    jobs.confirm(announced, "7")
    found = list(elements(jobs.all()))
    assert [(element.id, list(element.trial_ids)) for element in found] == [("7_0", TRIALS[0]), ("7_1", TRIALS[1])]
    assert (found[0].submission.time_min, found[0].submission.mem_gb) == (20, 4)
    assert found[0].job == f"7_0@{announced.uid}"
    assert announced.name == f"moleflow-small-{announced.uid}"


def test_one_element_alone_is_no_array_to_slurm(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    jobs.confirm(jobs.announce(new_submission("small", TRIALS[:1], 1, 1)), "9")
    assert [element.id for element in elements(jobs.all())] == ["9"]


def test_arrays_come_in_the_order_of_submission_and_a_withdrawn_one_is_gone(tmp_path: Path) -> None:
    jobs = job_folder(tmp_path)
    made = [jobs.announce(new_submission("small", TRIALS, n, 1)) for n in (1, 2, 3)]
    jobs.withdraw(made[1])
    assert [submission.time_min for submission in jobs.all()] == [1, 3]


@pytest.mark.parametrize("content", ["", "{", '{"uid": "x"}', "[]"])
def test_a_record_that_was_cut_off_is_no_array(tmp_path: Path, content: str) -> None:
    jobs = job_folder(tmp_path)
    jobs.folder.mkdir()
    (jobs.folder / "0123456789ab.json").write_text(content)
    assert jobs.all() == []
