"""How trials are packed into elements, and what an element is given."""

from __future__ import annotations

import pytest

from orchestrator.backends.slurm.job_array import array_shape, pack_trials
from orchestrator.backends.slurm.queue import _spread
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.sweep.file_schema import Resources


def test_one_trial_an_element_gets_what_one_trial_needs() -> None:
    form = array_shape(Resources(gpus=1, cpus=3, mem_gb=6, time_min=50), SiteProfile())
    assert (form.trials, form.beside, form.time_min, form.cpus, form.mem_gb, form.gpus) == (1, 1, 50, 3, 6, 1)


def test_trials_in_a_row_take_longer_and_trials_beside_each_other_take_more() -> None:
    needs = Resources(gpus=1, cpus=2, mem_gb=4, time_min=10)
    form = array_shape(needs, SiteProfile(trials_per_job=6, trials_per_gpu=3))
    assert (form.trials, form.beside, form.time_min, form.cpus, form.mem_gb, form.gpus) == (6, 3, 20, 6, 12, 1)


@pytest.mark.parametrize(("gpus", "beside", "whole"), [(0, 1, 0), (0.5, 2, 1), (0.34, 2, 1), (0.25, 4, 1), (2, 1, 2)])
def test_a_fraction_of_a_gpu_means_that_so_many_trials_share_one(gpus: float, beside: int, whole: int) -> None:
    form = array_shape(Resources(gpus=gpus), SiteProfile())
    assert (form.beside, form.gpus) == (beside, whole)


def test_packing_keeps_the_order_and_leaves_nothing_out() -> None:
    assert pack_trials(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("7", ["7"]), ("7_3", ["7_3"]), ("7_[2-4,6%3]", ["7_2", "7_3", "7_4", "7_6"]), ("7_[0]", ["7_0"])],
)
def test_ranges_of_an_array_are_spelled_out(written: str, meant: list[str]) -> None:
    assert _spread(written) == meant
