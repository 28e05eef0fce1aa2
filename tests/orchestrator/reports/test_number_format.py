"""Numbers as tables show them."""

from __future__ import annotations

import pytest

from orchestrator.reports.number_format import change_text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\u2013"),
        (0.0, "0.0%"),
        (-0.0, "0.0%"),
        (1e-9, "0.0%"),
        (3e-4, "+0.03%"),
        (-0.0611, "-6.1%"),
        (0.2, "+20.0%"),
    ],
)
def test_changes_show_what_one_decimal_would_hide(value, shown):
    assert change_text(value) == shown
