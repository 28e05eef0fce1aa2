"""In which order trials that share stages are handed over, so that few jobs, or none, wait for one another."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.execution.backend import WorkItem


def depths(items: Sequence[WorkItem]) -> list[int]:
    """How many items lead each one, one behind the other; an item that is not among them leads nobody."""
    found: dict[str, int] = {}
    return [
        _put(found, item, max((found[leader] + 1 for leader in item.after if leader in found), default=0))
        for item in items
    ]


def families(items: Sequence[WorkItem]) -> list[int]:
    """Equal numbers for items that follow, through however many others, the same one."""
    found: dict[str, int] = {}
    return [
        _put(found, item, next((found[leader] for leader in item.after if leader in found), number))
        for number, item in enumerate(items)
    ]


def leaders_first(items: Sequence[WorkItem], together: int) -> list[WorkItem]:
    """The items as jobs shall start them.

    Args:
        items: a leader stands before those that follow it.
        together: how many one job runs one after another. Alone, leaders come before all that follow them; together, an item and those
            that follow it stand side by side, and the job's own order keeps them from waiting.
    """
    ranks = families(items) if together > 1 else depths(items)
    return [items[n] for n in sorted(range(len(items)), key=lambda n: (ranks[n], n))]


def _put(found: dict[str, int], item: WorkItem, number: int) -> int:
    found.update(dict.fromkeys(item.trial_ids, number))
    return number
