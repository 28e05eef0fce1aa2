"""A sweep started from Python runs as the command does, and ends as it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from moleflow.errors import InvalidInput
from orchestrator.api import run_sweep
from orchestrator.results.store import ResultStore

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def here(place, features, monkeypatch):
    """The folder of the small sweep, with features in its cache."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MOLEFLOW_CACHE", str(place / "cache"))
    monkeypatch.delenv("MOLEFLOW_DATA", raising=False)
    return place


def test_a_run_prints_its_progress_and_returns_its_results(capsys):
    results = run_sweep("sweep.yaml", backend="inline")
    out = capsys.readouterr().out
    assert "finished  4/4" in out
    assert "report:  results/small/report.md" in out
    assert results.folder == Path("results/small")
    assert results.table("attempts").num_rows == 4
    assert results.unfinished == ()
    again = run_sweep("sweep.yaml", backend="inline")
    assert "4 done, 0 to run" in capsys.readouterr().out
    assert again.table("attempts").equals(results.table("attempts"))


def test_options_are_those_of_the_command(capsys, here):
    results = run_sweep(
        "sweep.yaml", backend="inline", sets={"epochs": 1}, out="~/there", quiet=True, options=["--yes"]
    )
    assert results.folder == Path("~/there").expanduser()
    assert capsys.readouterr().out == ""
    assert set(results.pandas("curves")["epoch"]) == {1}
    base = yaml.safe_load((here / "base.yaml").read_text())
    (here / "other.yaml").write_text(yaml.safe_dump(base))
    results = run_sweep(here / "sweep.yaml", backend="inline", base="other.yaml", sets=["epochs=1"], quiet=True)
    assert results.folder == Path("results/small-other")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_events_come_in_place_of_lines(capsys):
    events = []
    run_sweep("sweep.yaml", backend="inline", on_event=events.append)
    assert capsys.readouterr().out == ""
    kinds = [event["kind"] for event in events]
    assert kinds.count("finished") == 4
    assert kinds.count("epoch") == 4 * 2 * 2
    assert events[-1]["trials_over"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": {"epohs": 1}}, "epohs"),
        ({"backend": "slrm"}, "backend: given 'slrm', allowed: inline | local | slurm | ray"),
        ({"data": "gone"}, "gone"),
    ],
)
def test_a_mistake_is_raised_as_the_commands_line(options, message):
    with pytest.raises(InvalidInput) as error:
        run_sweep("sweep.yaml", **{"backend": "inline"} | options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)
    assert not Path("results").exists()


def test_a_missing_file_is_a_mistake():
    with pytest.raises(InvalidInput, match=r"gone\.yaml"):
        run_sweep("gone.yaml")


def test_failed_trials_are_told_and_raise_nothing(edit):
    edit(grid={"learning_rate": [1e-3, 1e25]}, seeds=1, report=None, retries=0)
    results = run_sweep("sweep.yaml", backend="inline", quiet=True)
    assert "1 failed" in results.unfinished[0]
    assert len(ResultStore(results.folder).finished()) == 1


def test_an_error_in_ones_own_listener_stops_the_run_in_order():
    def fail(event):
        if event["kind"] == "finished":
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run_sweep("sweep.yaml", backend="inline", on_event=fail)
    assert run_sweep("sweep.yaml", backend="inline", quiet=True).unfinished == ()


SCRIPT = """
from orchestrator.api import run_sweep

run_sweep("sweep.yaml", sets={"epochs": 3000}, out="results/long")
"""


def test_an_interrupt_stops_the_sweep_in_order(here, wait_until):
    """A script without `if __name__`, on worker processes, as a notebook would run it."""
    (here / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: list(Path("results/long/events").glob("*.jsonl")))
        time.sleep(1)
        os.kill(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert "to continue, run" in out
