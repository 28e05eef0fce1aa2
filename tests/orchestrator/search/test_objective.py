"""The values of finished trials, from events and from stored rows."""

from __future__ import annotations

import pytest

from orchestrator.records.events import Event
from orchestrator.search.objective import metric_values, stored_values


def test_stored_values_are_means_over_the_classes_after_the_last_task(add, stored):
    """`drop` lifts the rows after the first task, which must not count."""
    trial = add({}, image=(0.9, 0.6), pixel=(0.5, 0.8), drop=0.09, split="validation")
    values = stored_values(stored(), [trial])[trial]
    assert values["image_auroc"] == pytest.approx(0.75)
    assert values["pixel_auroc"] == pytest.approx(0.65)
    assert values["parameters"] == 1_234_567
    assert values["seconds"] == 36 + 18, "seconds spent and reused"


def test_a_metric_that_a_class_lacks_is_left_out(add, stored):
    trial = add({}, pixel=(0.5, None), split="validation")
    values = stored_values(stored(), [trial])[trial]
    assert "pixel_auroc" not in values
    assert "image_auroc" in values


def test_only_rows_of_the_split_and_finished_trials_count(add, stored):
    tested = add({}, image=(0.9, 0.7), split="test")
    failed = add({}, 1, status="failed", split="validation")
    store = stored()
    assert stored_values(store, [tested, failed, "unknown"]) == {tested: {"seconds": 54.0, "parameters": 1234567.0}}
    assert stored_values(store, [tested], "test")[tested]["image_auroc"] == pytest.approx(0.8)
    assert stored_values(store, ["unknown"]) == {}


def test_a_finished_event_that_lacks_a_value_leaves_it_to_the_rows():
    facts = {"validation": {"image_auroc": 0.5}, "parameters": 7, "cost": 1.5}
    assert metric_values(Event("finished", "a", facts)) == {"image_auroc": 0.5, "parameters": 7.0, "seconds": 1.5}
    for name in facts:
        assert metric_values(Event("finished", "a", {**facts, name: None})) is None
