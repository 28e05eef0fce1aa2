"""The tasks of a sequence as `data.tasks` lists them: one class each, or several.

An entry is the name of a class, or a list of names: `[[bolt, nut], seal]` learns bolt and nut as
one task, then seal. The functions also read such a list from JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Task = str | Sequence[str]
"""An entry of `data.tasks`."""


def classes_of_task(task: Task) -> tuple[str, ...]:
    """The classes of one task, in the order given."""
    return (task,) if isinstance(task, str) else tuple(task)


def task_name(task: Task) -> str:
    """The name of a task in rows and reports: its classes joined, `bolt+nut`."""
    return "+".join(classes_of_task(task))


def classes_in_order(tasks: Iterable[Task]) -> tuple[str, ...]:
    """The classes of all tasks, in the order in which they are learned."""
    return tuple(name for task in tasks for name in classes_of_task(task))


def has_joint_task(tasks: Iterable[Task]) -> bool:
    """True if some task has several classes."""
    return any(len(classes_of_task(task)) > 1 for task in tasks)


def sequence_text(tasks: Iterable[Task]) -> str:
    """The sequence for readers: `bolt+nut -> seal`."""
    return " -> ".join(map(task_name, tasks))
