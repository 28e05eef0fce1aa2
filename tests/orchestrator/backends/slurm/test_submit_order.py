"""The order in which trials that share stages are submitted."""

from __future__ import annotations

from moleflow.settings.config import TrialConfig
from orchestrator.backends.slurm.submit_order import depths, families, leaders_first
from orchestrator.execution.backend import WorkItem
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial


def item(name: str, *after: str) -> WorkItem:
    return WorkItem(Trial(name, TrialConfig(), {}, Inputs({}, "", "")), after, Resources())


ITEMS = [item("a"), item("b", "a"), item("c", "b"), item("d"), item("e", "d"), item("f", "gone")]


def names(items: list[WorkItem]) -> str:
    return "".join(one.trial.id for one in items)


def test_depth_counts_the_items_that_one_follows() -> None:
    assert depths(ITEMS) == [0, 1, 2, 0, 1, 0]


def test_a_family_is_all_items_that_follow_the_same_one() -> None:
    assert families(ITEMS) == [0, 0, 0, 3, 3, 5]


def test_leaders_come_first_and_in_packed_jobs_next_to_their_followers() -> None:
    assert names(leaders_first(ITEMS, 1)) == "adfbec"
    interleaved = [ITEMS[0], ITEMS[3], ITEMS[1], ITEMS[4], ITEMS[2]]
    assert names(leaders_first(interleaved, 3)) == "abcde"
    assert leaders_first([], 4) == []
