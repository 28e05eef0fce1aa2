"""Events for programs: one JSON object a line, each with its time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from orchestrator.records.events import Event


class JsonLines:
    """Writes events as they come.

    A line holds `time` (seconds since 1970), `kind`, `trial_id`, `label`, what the worker told (`orchestrator.records.events` lists it by
    kind), and of the whole run `trials_over`, `trials_total` and `seconds_left`, null where nothing tells.

    Args:
        stream: where to; each line is whole at once.
        clock: seconds since 1970.

    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream, self._clock = stream, clock

    def write(self, event: Event, label: str, run: Mapping[str, object]) -> None:
        """Write one event, with what is to be said of the whole run."""
        line = {"time": round(self._clock(), 3), "kind": event.kind, "trial_id": event.trial_id, "label": label}
        said = json.dumps(_finite({**event.facts, **line, **run}), ensure_ascii=False, default=str)
        self._stream.write(said + "\n")
        self._stream.flush()


def _finite(value: object) -> object:
    """The value with null in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(of) for key, of in value.items()}
    return [_finite(of) for of in value] if isinstance(value, list | tuple) else value
