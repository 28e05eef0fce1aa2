"""The order in which trials that share stages are submitted, so that few jobs wait for others."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.execution.backend import WorkItem


def depths(items: Sequence[WorkItem]) -> list[int]:
    """The number of items that each one follows, directly or through others.

    Only items of the sequence count.
    """
    known: dict[str, int] = {}
    for item in items:
        known[item.trial.id] = max((known[leader] + 1 for leader in item.after if leader in known), default=0)
    return list(known.values())


def families(items: Sequence[WorkItem]) -> list[int]:
    """A number for each item; equal for items that follow the same one, directly or not."""
    known: dict[str, int] = {}
    for number, item in enumerate(items):
        known[item.trial.id] = next((known[leader] for leader in item.after if leader in known), number)
    return list(known.values())


def leaders_first(items: Sequence[WorkItem], per_task: int) -> list[WorkItem]:
    """The items in the order in which jobs should start them.

    Args:
        items: each item after those that it follows.
        per_task: the trials that one array task runs one after another. With one, items come by
            depth, so that jobs with followers wait as little as possible. With more, an item and
            its followers are neighbours: in one job they never wait for each other.

    """
    ranks = families(items) if per_task > 1 else depths(items)
    return [items[n] for n in sorted(range(len(items)), key=lambda n: (ranks[n], n))]
