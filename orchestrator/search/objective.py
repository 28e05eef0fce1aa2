"""What a finished trial is worth to a search: its validation metrics, mean over classes, and what it cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from orchestrator.records.events import Event
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import SELECTION

Values = Mapping[str, float]


def metric_values(event: Event) -> Values | None:
    """The values that a worker told with a trial's end; None where it did not, and the stored rows have to be asked."""
    facts = event.facts
    if facts.get("validation") is None or facts.get("parameters") is None or facts.get("cost") is None:
        return None
    return {**facts["validation"], "parameters": float(facts["parameters"]), "seconds": float(facts["cost"])}


def stored_values(
    store: ResultStore, trial_ids: Collection[str], split: Literal["validation", "test"] = "validation"
) -> dict[str, Values]:
    """The values of those of the trials that are finished, from their rows of one split.

    Raises:
        InvalidInput: there is no store, or one of another version.

    """
    finished = store.finished()
    wanted = {name for name in trial_ids if name in finished}
    if not wanted:
        return {}
    found: dict[str, dict[str, float]] = {}
    attempts = store.read("attempts", ["trial_id", "status", "seconds_spent", "seconds_reused", "parameters_total"])
    for row in attempts.to_pylist():
        if _counts(row, wanted):
            cost = row["seconds_spent"] + row["seconds_reused"]
            found[row["trial_id"]] = {"seconds": cost, "parameters": float(row["parameters_total"])}
    columns = ["trial_id", "status", "split", "after_task", *SELECTION]
    rows = [row for row in store.read("metrics", columns).to_pylist() if row["split"] == split and _counts(row, wanted)]
    last: dict[str, int] = {}
    for row in rows:
        last[row["trial_id"]] = max(last.get(row["trial_id"], 0), row["after_task"])
    by_trial: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["after_task"] == last[row["trial_id"]]:
            by_trial.setdefault(row["trial_id"], []).append(row)
    for name, of_trial in by_trial.items():
        for metric in SELECTION:
            values = [row[metric] for row in of_trial if row[metric] is not None]
            if len(values) == len(of_trial):
                found[name][metric] = sum(values) / len(values)
    return dict(found)


def _counts(row: Mapping[str, Any], wanted: set[str]) -> bool:
    return row["trial_id"] in wanted and row["status"] == "finished"
