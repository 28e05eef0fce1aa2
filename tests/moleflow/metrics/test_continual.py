"""ACC, FM and BWT against matrices worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.metrics.continual import Continual, continual

Matrix = list[list[float | None]]
NAN = float("nan")


def test_three_tasks_by_hand() -> None:
    r: Matrix = [
        [0.90, 0.0, 0.0],
        [0.95, 0.80, 0.0],
        [0.70, 0.75, 0.60],
    ]
    found = continual(r)
    assert found.acc == pytest.approx((0.70 + 0.75 + 0.60) / 3)
    assert found.fm == pytest.approx(((0.95 - 0.70) + (0.80 - 0.75)) / 2)  # task 0 was best after task 1
    assert found.bwt == pytest.approx(((0.70 - 0.90) + (0.75 - 0.80)) / 2)


def test_the_best_is_looked_for_before_the_last_row_only() -> None:
    """A task that is best at the very end is not forgotten but gained: FM is negative, and not 0."""
    found = continual([[0.5, NAN], [0.8, 0.9]])
    assert found.fm == pytest.approx(-0.3)
    assert found.bwt == pytest.approx(0.3)


def test_what_a_task_scored_before_it_was_learned_is_not_read() -> None:
    lower: Matrix = [[0.5, NAN, None], [0.6, 0.7, None], [0.4, 0.6, 0.8]]
    full: Matrix = [[0.5, 0.99, 0.99], [0.6, 0.7, float("inf")], [0.4, 0.6, 0.8]]
    ragged: Matrix = [[0.5], [0.6, 0.7], [0.4, 0.6, 0.8]]
    assert continual(lower) == continual(full) == continual(ragged) == continual(np.array(full, dtype=float))
    assert continual(ragged).fm == pytest.approx(((0.6 - 0.4) + (0.7 - 0.6)) / 2)


def test_frozen_tasks_are_not_forgotten() -> None:
    found = continual([[0.7], [0.7, 0.8], [0.7, 0.8, 0.9]])
    assert found.acc == pytest.approx(0.8)
    assert (found.fm, found.bwt) == (0.0, 0.0)


def test_one_task_has_nothing_to_forget() -> None:
    assert continual([[0.8]]) == Continual(acc=0.8, fm=None, bwt=None)


@pytest.mark.parametrize("undefined", [None, NAN])
def test_an_undefined_entry_makes_what_needs_it_undefined(undefined: float | None) -> None:
    without_masks: Matrix = [[0.9], [0.9, undefined], [0.8, undefined, 0.7]]
    assert continual(without_masks) == Continual(acc=None, fm=None, bwt=None)
    last_alone = continual([[0.9], [0.8, undefined]])  # the last task enters ACC only
    assert last_alone.acc is None
    assert last_alone.fm == pytest.approx(0.1)
    assert last_alone.bwt == pytest.approx(-0.1)
    between = continual([[0.9], [undefined, 0.5], [0.8, 0.5, 0.7]])  # task 0's best is not known, its first value is
    assert between.acc == pytest.approx(2 / 3)
    assert between.fm is None
    assert between.bwt == pytest.approx(-0.05)
    assert continual([[undefined]]) == Continual(acc=None, fm=None, bwt=None)


@pytest.mark.parametrize(
    ("r", "message"),
    [
        ([], "no rows"),
        ([[0.5], [0.5]], "row 1 of R has 1 entries"),
        ([[0.5], [float("inf"), 0.5]], "infinite"),
    ],
)
def test_refuses(r: Matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        continual(r)


unit = st.floats(0.0, 1.0)
matrices = st.integers(2, 5).flatmap(lambda n: st.lists(st.lists(unit, min_size=n, max_size=n), min_size=n, max_size=n))


@settings(deadline=None)
@given(matrices)
def test_forgetting_is_at_least_the_loss_since_learning(r: Matrix) -> None:
    """The best value is no lower than the first one, so FM >= -BWT; and every summary keeps its range."""
    found = continual(r)
    assert found.acc is not None and found.fm is not None and found.bwt is not None
    assert found.fm >= -found.bwt - 1e-12
    assert 0.0 <= found.acc <= 1.0
    assert -1.0 <= found.fm <= 1.0
    assert -1.0 <= found.bwt <= 1.0
