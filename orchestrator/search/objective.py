"""The values of a finished trial that a search optimises: validation metrics and costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from orchestrator.records.events import Event
from orchestrator.results.schema import FINISHED
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import COSTS, SELECTION

Values = Mapping[str, float]
"""{metric: mean over the classes} after the last task, with `seconds` and `parameters`."""


def metric_values(event: Event) -> Values | None:
    """Return the values in the event of a trial's end, or None if the event lacks them."""
    facts = event.facts
    if facts.get("validation") is None or facts.get("parameters") is None or facts.get("cost") is None:
        return None
    return {**facts["validation"], "parameters": float(facts["parameters"]), "seconds": float(facts["cost"])}


def violation(name: str, value: float, bound: float) -> float:
    """Return by how much a value breaks its bound: more than 0 if it does.

    Costs have an upper bound, metrics a lower one.
    """
    return value - bound if name in COSTS else bound - value


def stored_values(
    store: ResultStore, trial_ids: Collection[str], split: Literal["validation", "test"] = "validation"
) -> dict[str, Values]:
    """Read the values of finished trials from their stored rows.

    Args:
        store: the results.
        trial_ids: the trials; unfinished ones are left out.
        split: the split whose metrics count.

    Returns:
        {trial id: values}. A metric that is undefined for any class is left out.

    Raises:
        InvalidInput: there is no store, or one of another version.

    """
    finished = store.finished()
    wanted = {name for name in trial_ids if name in finished}
    if not wanted:
        return {}
    values: dict[str, dict[str, float]] = {}
    attempts = store.read("attempts", ["trial_id", "status", "seconds_spent", "seconds_reused", "parameters_total"])
    for row in attempts.to_pylist():
        if row["trial_id"] in wanted and row["status"] == FINISHED:
            cost = row["seconds_spent"] + row["seconds_reused"]
            values[row["trial_id"]] = {"seconds": cost, "parameters": float(row["parameters_total"])}
    columns = ["trial_id", "status", "split", "after_task", *SELECTION]
    rows_after_task: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in store.read("metrics", columns).to_pylist():
        if row["trial_id"] in wanted and row["status"] == FINISHED and row["split"] == split:
            rows_after_task.setdefault(row["trial_id"], {}).setdefault(row["after_task"], []).append(row)
    for trial_id, by_task in rows_after_task.items():
        last = by_task[max(by_task)]
        for metric in SELECTION:
            if all(row[metric] is not None for row in last):
                values[trial_id][metric] = sum(row[metric] for row in last) / len(last)
    return dict(values)
