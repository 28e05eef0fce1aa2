"""ACC, FM and BWT of matrices worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.metrics.continual import continual_table, mean_over_classes

NAN = float("nan")
Matrix = list[list[float]]


def _summary(r: Matrix) -> list[float]:
    """ACC, FM and BWT of one matrix."""
    return continual_table(np.array([r], dtype=float))[0].tolist()


def test_three_tasks_by_hand() -> None:
    """Task 0 was best after task 1, task 1 right after its training."""
    r = [[0.90, 0.0, 0.0], [0.95, 0.80, 0.0], [0.70, 0.75, 0.60]]
    acc = (0.70 + 0.75 + 0.60) / 3
    fm = ((0.95 - 0.70) + (0.80 - 0.75)) / 2
    bwt = ((0.70 - 0.90) + (0.75 - 0.80)) / 2
    assert _summary(r) == pytest.approx([acc, fm, bwt])


def test_the_best_value_comes_from_before_the_last_row() -> None:
    """A task that is best at the very end is gained, not forgotten: FM is negative."""
    assert _summary([[0.5, NAN], [0.8, 0.9]]) == pytest.approx([0.85, -0.3, 0.3])


def test_entries_above_the_diagonal_are_not_read() -> None:
    r = [[0.5, NAN, NAN], [0.6, 0.7, NAN], [0.4, 0.6, 0.8]]
    full = [[0.5, 0.99, 0.99], [0.6, 0.7, 5.0], [0.4, 0.6, 0.8]]
    assert _summary(r) == _summary(full) == pytest.approx([0.6, 0.15, -0.1])


def test_one_task_has_nothing_to_forget() -> None:
    assert _summary([[0.8]]) == pytest.approx([0.8, NAN, NAN], nan_ok=True)


def test_an_undefined_entry_makes_what_needs_it_undefined() -> None:
    without_masks = [[0.9, NAN, NAN], [0.9, NAN, NAN], [0.8, NAN, 0.7]]
    assert all(map(math.isnan, _summary(without_masks)))
    # The last task enters ACC only.
    assert _summary([[0.9, NAN], [0.8, NAN]]) == pytest.approx([NAN, 0.1, -0.1], nan_ok=True)
    # Task 0's best value is unknown, its first one is known.
    between = [[0.9, NAN, NAN], [NAN, 0.5, NAN], [0.8, 0.5, 0.7]]
    assert _summary(between) == pytest.approx([2 / 3, NAN, -0.05], nan_ok=True)


def test_matrices_are_summarised_independently() -> None:
    first, second = [[0.5, NAN], [0.8, 0.9]], [[0.7, NAN], [0.7, 0.8]]
    assert continual_table(np.array([first, second])).tolist() == [_summary(first), _summary(second)]


unit = st.floats(0.0, 1.0)
matrices = st.integers(2, 5).flatmap(lambda n: st.lists(st.lists(unit, min_size=n, max_size=n), min_size=n, max_size=n))


@settings(deadline=None)
@given(matrices)
def test_forgetting_is_at_least_the_loss_since_learning(r: Matrix) -> None:
    """The best value is at least the first one, so FM >= -BWT; every summary keeps its range."""
    acc, fm, bwt = _summary(r)
    assert fm >= -bwt - 1e-12
    assert 0.0 <= acc <= 1.0
    assert -1.0 <= fm <= 1.0
    assert -1.0 <= bwt <= 1.0


def test_classes_of_joint_tasks_by_hand() -> None:
    """Classes a and b are task 0, c is task 1; d and e are the last task."""
    task_of = np.array([0, 0, 1, 2, 2])
    r = np.array(
        [[[0.9, 0.7, NAN, NAN, NAN], [0.8, 0.8, 0.6, NAN, NAN], [0.7, 0.6, 0.7, 0.5, 1.0]]],
    )
    acc = (0.7 + 0.6 + 0.7 + 0.5 + 1.0) / 5
    fm = ((0.9 - 0.7) + (0.8 - 0.6) + (0.6 - 0.7)) / 3
    bwt = ((0.7 - 0.9) + (0.6 - 0.7) + (0.7 - 0.6)) / 3
    assert continual_table(r, task_of)[0].tolist() == pytest.approx([acc, fm, bwt])

    over_tasks = mean_over_classes(r, task_of)
    assert over_tasks[0, 2].tolist() == pytest.approx([0.65, 0.7, 0.75])
    acc, fm, bwt = (0.65 + 0.7 + 0.75) / 3, ((0.8 - 0.65) + (0.6 - 0.7)) / 2, ((0.65 - 0.8) + (0.7 - 0.6)) / 2
    assert continual_table(over_tasks)[0].tolist() == pytest.approx([acc, fm, bwt])


def test_tasks_of_one_class_each_are_their_classes() -> None:
    r = np.array([[[0.9, NAN], [0.8, 0.7]]])
    one_each = np.array([0, 1])
    assert np.array_equal(mean_over_classes(r, one_each), r, equal_nan=True)
    assert continual_table(r, one_each).tolist() == continual_table(r).tolist()
