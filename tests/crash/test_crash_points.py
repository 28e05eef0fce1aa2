"""A sample of all crash points: nothing is lost, nothing doubled, no digit changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = int(os.environ.get("MOLEFLOW_CRASH_SAMPLE", "500"))


@pytest.mark.crash
def test_no_harm_to_one_file_operation_loses_doubles_or_changes_anything(tmp_path: Path) -> None:
    harness = Path(__file__).with_name("harness.py")
    verdicts = tmp_path / "verdicts.jsonl"
    command = [sys.executable, str(harness), "--out", str(verdicts), "--sample", str(SAMPLE), "--lanes", "5"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert [line for line in lines if line["reached"] and not line["well"]] == []
    wrong = (
        "lost",
        "doubled",
        "digits_changed",
        "second_run_failed",
        "not_ended",
        "tracebacks",
        "ended_by_a_passing_error",
    )
    assert {name: counts[name] for name in wrong} == dict.fromkeys(wrong, 0)
    # Some operations come at other numbers, or not at all, when a command runs again.
    assert counts["harms"] >= SAMPLE * 0.8
    assert len(counts["by_scenario"]) == 8
    assert len(counts["by_mode"]) == 10
