"""The end of a search's first part: its exit code and the command to continue."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.driver.search_run import _print_search_outcome
from orchestrator.execution.trial_source import RunOutcome
from orchestrator.records.events import Event

CONTINUE = "the search is not over; to continue, run: moleflow-sweep s.yaml"
FAILED = {"a": Event("failed", "a", {"error": "Diverged: nan"})}


@pytest.mark.parametrize(
    ("kinds", "interrupted", "code", "lines"),
    [
        ({"finished": ["a", "b"]}, False, 0, []),
        ({"failed": FAILED}, False, 0, ["failed: a: Diverged: nan"]),
        ({"finished": ["a"]}, True, 130, [CONTINUE]),
        ({"stopped_by": "the disk is full"}, False, 1, ["stopped: the disk is full", CONTINUE]),
        ({"interrupted": ["a"]}, False, 1, [CONTINUE]),
        ({"cancelled": ["a"]}, False, 1, [CONTINUE]),
        ({"pruned": ["a"]}, False, 0, []),
    ],
)
def test_a_search_goes_on_to_its_tests_unless_trials_are_left(monkeypatch, kinds, interrupted, code, lines):
    """A failed configuration is an answer; an interrupted or cancelled one is not."""
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "s.yaml"])
    console = Console(file=io.StringIO(), width=200, highlight=False)
    source = SimpleNamespace(tally=RunOutcome(**kinds))
    assert _print_search_outcome(source, interrupted, console) == code
    assert console.file.getvalue().splitlines() == lines
