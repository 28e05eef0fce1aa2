"""A sweep with a task of several classes on the embedded images, from its file to its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from orchestrator.results.store import ResultStore

SMALL = {"epochs": 1, "train_images": 8, "test_images": 4, "mask_size": 32, "flow.blocks": 1}


def test_a_sweep_of_joint_and_single_tasks_runs_resumes_and_reports_by_class_and_by_task(
    place: Path, command: Callable[..., Any]
) -> None:
    sweep = {
        "name": "joint",
        "version": "v3",
        "base": {"extends": "demo", **SMALL},
        "grid": {"tasks": [[["leather", "grid"], ["transistor"]], ["leather", "grid", "transistor"]]},
        "seeds": 1,
        "report": {"baseline": {"tasks": ["leather", "grid", "transistor"]}},
        "without_data": {"seeds": 1},
    }
    (place / "joint.yaml").write_text(yaml.safe_dump(sweep))
    words = ("joint.yaml", "--backend", "inline", "--out", "joint")
    ended = command(*words)
    assert ended.code == 0, ended.err
    assert "2 to run" in ended.out
    rows = ResultStore(place / "joint").read("metrics").to_pylist()
    (trial_id,) = {row["trial_id"] for row in rows if "+" in row["after_task_name"]}
    joint = [row for row in rows if row["trial_id"] == trial_id]
    assert [(row["after_task_name"], row["task"], row["task_name"]) for row in joint] == [
        ("leather+grid", 0, "leather"),
        ("leather+grid", 0, "grid"),
        ("transistor", 0, "leather"),
        ("transistor", 0, "grid"),
        ("transistor", 1, "transistor"),
    ]
    report = (place / "joint" / "report.md").read_text()
    assert "tasks=leather+grid -\\> transistor" in report
    assert "classes in order, with their test images" in report
    assert "| ACC (Image AUROC), by task |" in report

    again = command(*words)
    assert again.code == 0, again.err
    assert "2 done, 0 to run" in again.out
    assert command("verify", "joint").code == 0


def test_set_gives_a_joint_task_and_the_header_shows_the_sequence(place: Path, command: Callable[..., Any]) -> None:
    sweep = {"name": "one", "version": "v3", "base": {"extends": "demo", **SMALL}, "seeds": 1}
    (place / "one.yaml").write_text(yaml.safe_dump(sweep))
    ended = command("one.yaml", "--backend", "inline", "--out", "one", "--set", "tasks=[[leather, grid], [transistor]]")
    assert ended.code == 0, ended.err
    report = (place / "one" / "report.md").read_text()
    assert "leather 4 (2) + grid 4 (2) -\\> transistor 4 (2)" in report

    refused = command("plan", "one.yaml", "--set", "tasks=[[leather, gird]]")
    assert refused.code == 2
    assert "Did you mean 'grid'?" in refused.err
    assert refused.err.count("\n") == 1
