"""Events: the messages of a worker to its driver, on any backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

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
