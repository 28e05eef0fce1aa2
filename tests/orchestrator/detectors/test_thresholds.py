"""Thresholds hold their false-positive rate, and say what rate they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.detectors.thresholds import Threshold, conformal_threshold, threshold_lines, thresholds_by_task


@pytest.mark.parametrize(
    ("count", "rate", "place", "held"),
    [
        (19, 0.05, 19, 0.05),  # The largest of 19: a new one is above it once in 20.
        (18, 0.05, 18, 1 / 19),
        (39, 0.05, 38, 0.05),
        (20, 0.05, 20, 0.05),
        (1, 0.05, 1, 0.5),
        (9, 0.1, 9, 0.1),
        (10, 0.3, 8, 0.3),
        (3, 0.99, 1, 0.99),
    ],
)
def test_the_threshold_is_the_score_at_its_place(count, rate, place, held):
    scores = np.random.default_rng(0).permutation(np.arange(1, count + 1)).tolist()
    of = conformal_threshold(scores, rate)
    assert (of.value, of.normals) == (place, count)
    assert of.rate == pytest.approx(held)


@given(st.integers(1, 60), st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]))
def test_a_new_image_is_above_it_at_most_as_often_as_stated(count, rate):
    """Of n + 1 exchangeable scores, each is the new one with equal probability."""
    scores = [float(n) for n in range(count + 1)]
    above, held = 0, 0.0
    for new in scores:
        of = conformal_threshold([score for score in scores if score != new], rate)
        above += new > of.value
        held = of.rate
    assert above / (count + 1) <= held + 1e-12


def test_each_task_has_a_threshold_from_its_own_images():
    found = thresholds_by_task([(1, 5.0), (0, 1.0), (1, 7.0), (0, 2.0)], 0.5)
    assert [*found] == [0, 1]
    assert (found[0].value, found[1].value) == (2.0, 7.0)


def test_the_lines_say_what_holds():
    thresholds = {0: Threshold(2.0, 0.25, 3), 1: Threshold(7.5, 0.05, 19)}
    assert threshold_lines(thresholds, ["bolt", "nut", "seal"], 0.05) == [
        "bolt: 2, false-positive rate at most 25.0%: 3 normal images support no lower rate, 5.0% needs 19",
        "nut: 7.5, false-positive rate at most 5.0% by 19 normal images",
        "seal: no threshold, as no normal image was routed to it",
    ]
    assert threshold_lines({0: Threshold(2.0)}, ["bolt"], None) == ["bolt: 2, as given"]
