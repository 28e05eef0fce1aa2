"""Line breaks that leave numbers with their units, and the bounds of intervals, on one line."""

from __future__ import annotations

import pytest

from orchestrator.host.whole_numbers import whole_numbers, wrapped_lines


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("-0.0693 to +0.1522 over 3 seeds, held", "-0.0693_to_+0.1522 over 3_seeds, held"),
        ("95 % interval", "95_% interval"),
        ("0.8812 ± 0.0138 (n = 3)", "0.8812_±_0.0138 (n_=_3)"),
        ("7 of 10 trials at 224 px in 3 min 20 s", "7_of_10 trials at 224_px in 3_min 20_s"),
        ("at level 1 - 0.05/m", "at level 1_-_0.05/m"),
        ("7 sweeps to do", "7 sweeps to do"),
        ("1 mask of 3", "1 mask of 3"),
    ],
)
def test_spaces_within_a_quantity_are_joined(text, joined):
    assert whole_numbers(text, "_") == joined


def test_lines_break_between_quantities_and_paths_stay_whole():
    text = "cost: 1.25 compute-hours spent, +0.0088 to +0.0339 results/a/very/long/folder/name/parts"
    for width in (20, 30, 40):
        lines = wrapped_lines(text, width, "  ")
        assert " ".join(line.strip() for line in lines) == text
        assert any("+0.0088 to +0.0339" in line for line in lines)
        assert any("1.25 compute-hours" in line for line in lines)
        assert any("results/a/very/long/folder/name/parts" in line for line in lines)
