"""The last lines and the exit code of a run."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.driver.outcome import closing_lines, print_outcome
from orchestrator.execution.trial_source import RunOutcome
from orchestrator.records.events import Event

LABELS = {"a": "gamma=0 seed=0", "b": "gamma=2 seed=0", "c": "gamma=4 seed=0"}


@pytest.fixture
def outcome(monkeypatch):
    """The function that prints an outcome of three trials and returns exit code and lines."""
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "s.yaml", "--set", "name=a b"])
    monkeypatch.delenv("MOLEFLOW_COMMAND", raising=False)

    def run(interrupted=False, **kinds):
        console = Console(file=io.StringIO(), width=200, soft_wrap=True, markup=False, highlight=False)
        code = print_outcome(RunOutcome(**kinds), LABELS, 3, interrupted, console)
        return code, console.file.getvalue().splitlines()

    return run


def test_all_trials_done_is_success_and_silent(outcome):
    """Trials that another driver finished count as done."""
    assert outcome(finished=["a", "b"], elsewhere=["c"]) == (0, [])


def test_pruned_trials_are_done_and_counted(outcome):
    """Early stopping is no failure."""
    assert outcome(finished=["a"], pruned=["b", "c"]) == (0, ["stopped early: 2 trials"])


def test_all_trials_done_is_success_even_if_interrupted(outcome):
    """Ctrl-C after the last trial loses nothing."""
    assert outcome(interrupted=True, finished=["a", "b", "c"])[0] == 0


def test_trials_that_did_not_finish_are_named_with_the_command_to_continue(outcome):
    """Each trial has a line with its label, id and reason; words with a space are quoted."""
    failed = {"a": Event("failed", "a", {"error": "Diverged: nan"})}
    code, lines = outcome(failed=failed, interrupted=False, cancelled=["c"], stopped_by="the disk is full")
    assert code == 1
    assert lines == [
        "failed: gamma=0 seed=0  (a): Diverged: nan",
        "cancelled: gamma=4 seed=0  (c)",
        "stopped: the disk is full",
        "0 of 3 trials finished and kept; to continue, run: moleflow-sweep s.yaml --set 'name=a b'",
    ]


@pytest.mark.parametrize(("interrupted", "code"), [(True, 130), (False, 1)])
def test_the_exit_code_tells_ctrl_c_from_a_failure(outcome, interrupted, code):
    """130 = 128 + SIGINT."""
    assert outcome(interrupted=interrupted, finished=["a", "b"])[0] == code


def test_the_command_of_make_demo_is_repeated(outcome, monkeypatch):
    """The user typed `make demo`, so that continues."""
    monkeypatch.setenv("MOLEFLOW_COMMAND", "make demo")
    assert outcome(interrupted=True)[1] == ["0 of 3 trials finished and kept; to continue, run: make demo"]


def test_the_closing_lines_repeat_the_cost_and_name_the_paths():
    """The cost is the report's own line without its bullet; it may be missing."""
    paths = ["results: r/parts (Parquet)", "report:  r/report.md"]
    report = "# small\n\n- seeds: 0\n- cost: 2.0 compute-hours\n"
    assert closing_lines(report, Path("r/parts"), Path("r/report.md")) == ["cost:    2.0 compute-hours", *paths]
    assert closing_lines("# small\n", Path("r/parts"), Path("r/report.md")) == paths


def test_a_resumed_run_counts_the_trials_that_finished_before(monkeypatch):
    """The counts are those of the sweep, not of this run alone."""
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "s.yaml"])
    monkeypatch.delenv("MOLEFLOW_COMMAND", raising=False)
    console = Console(file=io.StringIO(), width=200, soft_wrap=True, markup=False, highlight=False)
    assert print_outcome(RunOutcome(finished=["a"]), LABELS, 4, True, console, before=6) == 130
    assert console.file.getvalue().startswith("7 of 10 trials finished and kept; to continue")
