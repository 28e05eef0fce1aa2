"""Hints at the nearest allowed word."""

from __future__ import annotations

import pytest

from moleflow.errors import (
    CodeChanged,
    Damaged,
    Diverged,
    InvalidInput,
    MoleflowError,
    WeightsUnavailable,
    did_you_mean,
)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("leathr", ". Did you mean 'leather'?"),
        ("LEATHER", ". Did you mean 'leather'?"),
        ("grid", ". Did you mean 'Grid'?"),
        ("tra", ". Did you mean 'transistor'?"),  # The only one that begins so.
        ("t", ""),  # One letter is too little.
        ("le", ""),  # Two words begin so.
        ("zipper", ""),
        ("", ""),
        (7, ". Did you mean '7'?"),
    ],
)
def test_the_nearest_word_is_offered(given: object, hint: str) -> None:
    assert did_you_mean(given, ["leather", "lemonade", "Grid", "transistor", "7"]) == hint


def test_nothing_is_offered_without_words() -> None:
    assert did_you_mean("leather", []) == ""


def test_users_mistakes_are_told_from_other_errors() -> None:
    """The command line ends with exit code 2 for them."""
    assert issubclass(WeightsUnavailable, InvalidInput)
    assert issubclass(CodeChanged, InvalidInput)
    assert not issubclass(Diverged, InvalidInput)
    assert not issubclass(Damaged, InvalidInput)
    assert all(issubclass(one, MoleflowError) for one in (InvalidInput, Diverged, Damaged))
