"""The trials that a word names."""

from __future__ import annotations

import pytest

from orchestrator.records.named_trials import named_trials

NAMES = {
    "aa11": "v7 rank=64 adapter.hidden=64 seed=0",
    "aa22": "v7 rank=64 adapter.hidden=64 seed=1",
    "bb11": "v7 layers=2,3 hidden_share=0.1 seed=0",
}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("v7 rank=64 adapter.hidden=64 seed=1", ["aa22"]),
        ("seed=0 v7 adapter.hidden=64 rank=64", ["aa11"]),
        ("version=v7, hidden=64, rank=64 seed=0", ["aa11"]),  # As a report has it.
        ("version=v7, hidden_share=0.1, layers=[2,3] seed=0", ["bb11"]),
        ("aa", ["aa11", "aa22"]),
        ("bb11", ["bb11"]),
        ("rank=64 seed=0", []),
        ("", []),
    ],
)
def test_a_word_names_trials_in_the_words_of_plans_and_reports(given, found):
    assert named_trials(given, NAMES) == found
