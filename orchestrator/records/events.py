"""Events: the messages of a worker to its driver, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from orchestrator.records.stored_values import (
    is_count,
    is_mapping,
    is_real,
    is_text,
    is_time,
    is_worker,
)

Kind = Literal[
    "started",  # an attempt began: attempt
    "features",  # backbone forwards: done, total
    "epoch",  # task, tasks, task_name, epoch, epochs, loss
    "step",  # neither of these for some seconds, but batches, scores or a wait: doing
    "task",  # a task ended: task, tasks, task_name, image_auroc, validation: {metric: value} of its validation split, or None
    "note",  # a remark for readers of the log that changes no figure: note
    "finished",  # its part is renamed: seconds, image_auroc, validation: {metric: mean over classes}, or None
    "pruned",  # stopped early for good: seconds
    "failed",  # error, error_kind, traceback
    "interrupted",  # stopped from outside; costs no retry: epochs, finished in this attempt
    "cancelled",  # by a user; the trial waits for the next run of the command
    "withdrawn",  # removed from a queue before it began
    "held",  # another live process runs this trial
    "elsewhere",  # another driver has finished it
    "fatal",  # nothing can be written any more: error
]


@dataclass(frozen=True)
class Event:
    """An event of a trial, with facts that depend on its kind."""

    kind: Kind
    trial_id: str
    facts: dict[str, Any] = field(default_factory=dict)


Events = Callable[[Event], None]
ENDS = frozenset(
    {"finished", "pruned", "failed", "interrupted", "cancelled", "withdrawn", "held", "elsewhere", "fatal"}
)
PROGRESS = frozenset({"features", "epoch"})
_VALUES: Mapping[str, Callable[[object], bool]] = MappingProxyType(
    {
        **dict.fromkeys(("attempt", "done", "total", "task", "tasks", "epoch", "epochs"), is_count),
        **dict.fromkeys(("loss", "image_auroc", "parameters"), is_real),
        **dict.fromkeys(("seconds", "cost", "stall_min"), is_time),
        **dict.fromkeys(("task_name", "doing", "note", "error", "error_kind", "traceback", "by"), is_text),
        **{"worker": is_worker, "validation": is_mapping},
    }
)
"""The kind of each fact that a reader of logs uses; null is allowed."""
_NEEDED: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "features": ("done", "total"),
        "epoch": ("task", "tasks", "task_name", "epoch", "epochs", "loss"),
        "task": ("task", "tasks", "task_name"),
        "note": ("note",),
    }
)
"""The facts without which an event of a kind says nothing."""
_DIVISORS: Mapping[Kind, tuple[str, ...]] = MappingProxyType({"epoch": ("tasks", "epochs"), "task": ("tasks",)})


def is_event(kind: object, trial_id: object, facts: Mapping[str, object]) -> bool:
    """True if these values of a log are an event as a worker writes it."""
    if not isinstance(kind, str) or not isinstance(trial_id, str):
        return False
    needed = _NEEDED.get(kind, ())  # type: ignore[call-overload]
    divisors = _DIVISORS.get(kind, ())  # type: ignore[call-overload]
    return (
        all(value is None or name not in _VALUES or _VALUES[name](value) for name, value in facts.items())
        and all(facts.get(name) is not None for name in needed)
        and all(facts[name] for name in divisors)
    )
