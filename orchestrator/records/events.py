"""What a worker tells the driver, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "started",  # an attempt began: attempt
    "features",  # backbone forwards: done, total
    "epoch",  # task, tasks, task_name, epoch, epochs, loss
    "task",  # a task ended: task, tasks, task_name, image_auroc, validation: {metric: value} of its validation split, or None
    "note",  # something that a reader of the log should know, and that changes no figure: note
    "finished",  # its part is renamed: seconds, image_auroc, validation: {metric: mean over classes}, or None
    "pruned",  # stopped early for good: seconds
    "failed",  # error, error_kind, traceback
    "interrupted",  # stopped from outside; costs no retry: epochs, finished in this attempt
    "cancelled",  # somebody took the trial back; it waits for the next run of the command
    "withdrawn",  # taken back from a queue before it began
    "held",  # another live process is at this trial
    "elsewhere",  # another driver has finished it
    "fatal",  # nothing can be written any more: error
]


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial."""

    kind: Kind
    trial_id: str
    facts: dict[str, Any] = field(default_factory=dict)


Events = Callable[[Event], None]
ENDS = frozenset(
    {"finished", "pruned", "failed", "interrupted", "cancelled", "withdrawn", "held", "elsewhere", "fatal"}
)
PROGRESS = frozenset({"features", "epoch"})
