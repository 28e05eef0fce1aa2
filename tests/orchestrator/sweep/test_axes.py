import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow.errors import InvalidInput
from orchestrator.sweep import axes, conditions

KNOBS: dict[str, Any] = {
    "focal_gamma": {"uniform": [0, 3]},
    "learning_rate": {"loguniform": [1e-5, 1e-2]},
    "rank": {"integer": [2, 5]},
    "focal_form": {"choice": ["joint", "relative"]},
}

FIRST = {
    "loss.focal_gamma": 1.78408,
    "training.learning_rate": 5.17831e-05,
    "lora.rank": 4,
    "loss.focal_form": "relative",
}
SECOND = {
    "loss.focal_gamma": 2.72508,
    "training.learning_rate": 0.000110446,
    "lora.rank": 5,
    "loss.focal_form": "relative",
}


def draw(count: int, seed: int, knobs: dict[str, Any]) -> list[dict[str, Any]]:
    part = axes.random_axis(count, seed, knobs, "s")
    assert len(part) == count
    return [dict(row) for row in part]


def test_draws_stay_in_their_bounds_and_take_all_values() -> None:
    rows = draw(500, 1, KNOBS)
    assert all(0 <= row["loss.focal_gamma"] <= 3 for row in rows)
    assert all(1e-5 <= row["training.learning_rate"] <= 1e-2 for row in rows)
    assert Counter(row["lora.rank"] for row in rows).keys() == {2, 3, 4, 5}
    assert Counter(row["loss.focal_form"] for row in rows).keys() == {"joint", "relative"}
    # Uniform in the logarithm: each of the three decades gets about a third.
    decades = Counter(math.floor(math.log10(row["training.learning_rate"])) for row in rows)
    assert all(110 < decades[decade] < 220 for decade in (-5, -4, -3)), decades
    part = axes.random_axis(1, 0, KNOBS, "s")
    assert part.values("lora.rank") is None, "a range"
    assert part.values("loss.focal_form") == ["joint", "relative"]


class Fixed(random.Random):
    """A generator whose next number is given."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize(
    ("kind", "bounds", "fraction", "value"),
    [
        ("choice", ("a", "b", "c"), 0.33, "a"), ("choice", ("a", "b", "c"), 0.34, "b"), ("choice", ("a", "b", "c"), 0.99, "c"),
        ("integer", (2, 5), 0.0, 2), ("integer", (2, 5), 0.74, 4), ("integer", (2, 5), 0.75, 5), ("integer", (2, 5), 0.99, 5),
        ("uniform", (1.0, 3.0), 0.25, 1.5), ("uniform", (0.0, 1.0), 0.123456789, 0.123457),
        ("uniform", (0.0, 0.12345678), 0.9999999, 0.12345678), ("uniform", (0.12345612, 1.0), 0.0, 0.12345612),
        ("loguniform", (1e-4, 1e-2), 0.5, 1e-3), ("loguniform", (1e-4, 1e-2), 0.0, 1e-4),
    ],
)  # fmt: skip
def test_one_draw(kind: Any, bounds: tuple[Any, ...], fraction: float, value: object) -> None:
    assert axes.Distribution(kind, bounds).draw(Fixed(fraction)) == value


@pytest.mark.parametrize(
    ("kind", "bounds", "value", "expected"),
    [
        ("integer", (2, 5), 2, True), ("integer", (2, 5), 5, True), ("integer", (2, 5), 6, False), ("integer", (2, 5), 1, False),
        ("uniform", (0.0, 1.0), 0, True), ("uniform", (0.0, 1.0), True, False), ("uniform", (0.0, 1.0), "0.5", False),
        ("loguniform", (1e-4, 1e-2), 0.02, False), ("choice", ("a", None), None, True), ("choice", ("a", None), "b", False),
    ],
)  # fmt: skip
def test_the_values_of_a_distribution(kind: Any, bounds: tuple[Any, ...], value: object, expected: bool) -> None:
    assert axes.Distribution(kind, bounds).contains(value) is expected


def test_draws_repeat_and_depend_on_the_seed() -> None:
    assert draw(20, 1, KNOBS) == draw(20, 1, KNOBS)
    assert draw(20, 1, KNOBS) != draw(20, 2, KNOBS)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_more_draws_keep_the_earlier_ones(few: int, more: int, seed: int) -> None:
    assert draw(few + more, seed, KNOBS)[:few] == draw(few, seed, KNOBS)


@given(st.sets(st.sampled_from(sorted(KNOBS)), min_size=1), st.integers(0, 1000))
def test_another_knob_changes_no_draw(names: set[str], seed: int) -> None:
    fewer = draw(5, seed, {name: KNOBS[name] for name in names})
    for row, whole in zip(fewer, draw(5, seed, KNOBS), strict=True):
        assert row.items() <= whole.items()


def test_draws_are_pinned() -> None:
    # The draws of a sweep file must not change with a release: its trials' ids follow from them.
    assert draw(2, 0, KNOBS) == [FIRST, SECOND]


def test_drawn_numbers_have_six_digits() -> None:
    for row in draw(100, 4, KNOBS):
        assert float(f"{row['loss.focal_gamma']:.6g}") == row["loss.focal_gamma"]


@pytest.mark.parametrize(
    ("given", "value", "expected"),
    [
        (2, 2.0, True), (2, 1.0, False), ([0, 1], 1.0, True), ([0, 1], 2.0, False),
        ("> 0", 0.0, False), ("> 0", 0.5, True), (">= 1", 1.0, True), ("< 1", 1.0, False), ("<= 1", 1.0, True),
        ("!= 2", 2.0, False), ("!= 2", 1.0, True), (">0.5", 1.0, True),
    ],
)  # fmt: skip
def test_conditions_on_numbers(given: Any, value: float, expected: bool) -> None:
    condition = conditions.parse_condition({"focal_gamma": given}, "s")
    assert conditions.holds(condition, {"loss.focal_gamma": value}) is expected


def test_conditions_on_words_lists_and_null() -> None:
    def holds(given: Any, values: dict[str, Any]) -> bool:
        return conditions.holds(conditions.parse_condition(given, "s"), values)

    assert holds({"focal_form": "!= joint"}, {"loss.focal_form": "relative"})
    assert not holds({"focal_form": "!= joint"}, {"loss.focal_form": "joint"})
    assert holds({"layers": [1, 2]}, {"backbone.layers": (1, 2)}), "one list is one value of a knob that is a list"
    assert holds({"layers": [[1], [1, 2]]}, {"backbone.layers": (1, 2)})
    assert holds({"train_images": None}, {"data.train_images": None})
    assert not holds({"train_images": "> 1"}, {"data.train_images": None}), "null is no number"
    assert not holds({"lora.scaling": "> 0"}, {"lora.scaling": "alpha/rank"})
    assert holds({"lora.task0": True}, {"lora.task0": True})
    assert not holds({"rank": 4, "alpha": 1}, {"lora.rank": 4, "lora.alpha": 2.0}), "all of them have to hold"


def test_a_list_keeps_one_order_of_knobs() -> None:
    [part] = axes.listed([{"rank": 1, "alpha": 2}, {"alpha": 3, "rank": 4}, {"alpha": 5}], "s")
    assert [list(row) for row in part] == [["lora.rank", "lora.alpha"], ["lora.rank", "lora.alpha"], ["lora.alpha"]]


@pytest.mark.parametrize("value", [True, "two", -1, float("nan"), float("inf"), None, [1]])
def test_values_are_checked_strictly(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"s: loss\.focal_gamma: given .*, allowed: a number >= 0"):
        axes.check_value("loss.focal_gamma", value, "s")


def test_values_are_converted_to_the_knobs_type() -> None:
    assert repr(axes.check_value("loss.focal_gamma", 2, "s")) == "2.0"
    assert axes.check_value("data.tasks", ["a", 7], "s") == ("a", "7")
    assert axes.check_value("lora.scaling", 1, "s") == 1.0
    assert axes.check_value("adapter.hidden", 64, "s") == 64
