"""Every part that the shipped ablation of DeCoFlow takes away reaches the trained state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moleflow.settings.yaml_reader import read_mapping
from orchestrator.results.store import ResultStore

SWEEP = Path(__file__).parents[3] / "sweeps" / "decoflow_ablation.yaml"
SMALL = {"tasks": "[leather, grid]", "epochs": 1, "train_images": 8, "test_images": 2, "mask_size": 32}


@pytest.mark.process
def test_every_switch_changes_states_and_scores_on_the_embedded_images(
    place: Path, command: Callable[..., Any]
) -> None:
    """Two of its authors' own switches gave the full model's figures to the last digit."""
    sweep = read_mapping(SWEEP)
    one_seed = sweep | {"seeds": 1, "without_data": {"base": "demo", "seeds": 1}}
    (place / "ablation.yaml").write_text(yaml.safe_dump(one_seed))
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    ended = command("ablation.yaml", "--base", "demo", "--backend", "inline", "--out", "ablation", *small)
    assert ended.code == 0, ended.err
    columns = ["trial_id", "task", "after_task", "state_digest", "scores_digest"]
    states, scores = defaultdict(set), defaultdict(set)
    for row in ResultStore(place / "ablation").read("metrics", columns).to_pylist():
        if row["task"] == row["after_task"]:
            states[row["task"]].add(row["state_digest"])
            scores[row["task"]].add(row["scores_digest"])
    assert len(sweep["list"]) == 7
    assert {task: len(found) for task, found in states.items()} == {0: 7, 1: 7}
    assert {task: len(found) for task, found in scores.items()} == {0: 7, 1: 7}
