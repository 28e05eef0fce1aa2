"""A sweep with a yardstick on the embedded images, from its file to its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.reports.yardstick import LABEL, TITLE
from orchestrator.results.store import ResultStore

SMALL = {"tasks": ["leather", "grid"], "epochs": 1, "train_images": 8, "test_images": 4, "mask_size": 32}


@pytest.mark.parametrize("pick", ["random", "coreset"])
def test_a_sweep_with_a_yardstick_runs_resumes_and_sets_it_apart(
    pick: str, place: Path, command: Callable[..., Any]
) -> None:
    sweep = {
        "name": "measured",
        "version": "v3",
        "base": {"extends": "demo", **SMALL, "flow.blocks": 1, "bank.patches": 100, "bank.pick": pick},
        "grid": {"rank": [2, 4]},
        "seeds": 1,
        "report": {"baseline": {"rank": 2}},
        "yardstick": "memory_bank",
        "without_data": {"seeds": 1},
    }
    (place / "measured.yaml").write_text(yaml.safe_dump(sweep))
    words = ("measured.yaml", "--base", "base.yaml", "--backend", "inline", "--out", "measured")
    (place / "base.yaml").write_text(yaml.safe_dump(sweep["base"]))
    ended = command(*words)
    assert ended.code == 0, ended.err
    assert "3 to run" in ended.out
    store = ResultStore(place / "measured")
    attempts = store.read("attempts", ["version", "status", "lora_scaling", "parameters_per_task"]).to_pylist()
    assert sorted((row["version"], row["status"]) for row in attempts) == [
        ("memory_bank", "finished"),
        ("v3", "finished"),
        ("v3", "finished"),
    ]
    (bank,) = [row for row in attempts if row["version"] == "memory_bank"]
    assert bank["lora_scaling"] is None
    assert bank["parameters_per_task"] == [100 * 152] * 2
    tables = (place / "measured" / "report.md").read_text().split("\n## ")
    (apart,) = [table for table in tables if table.startswith(TITLE)]
    assert f"| {LABEL} |" in apart
    assert not any("memory" in table for table in tables if table is not apart and "<!-- lock" not in table)
    (against,) = [table for table in tables if table.startswith("Against rank=2: Mean Image AUROC")]
    assert against.count("\n| rank=") == 1

    parts = {path: path.read_bytes() for path in (place / "measured" / "parts").rglob("*.parquet")}
    again = command(*words)
    assert again.code == 0, again.err
    assert "3 done, 0 to run" in again.out
    assert {path: path.read_bytes() for path in (place / "measured" / "parts").rglob("*.parquet")} == parts
    assert command("verify", "measured").code == 0
