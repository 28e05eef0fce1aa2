"""Events for programs: one JSON object per line, each with its time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from orchestrator.records.events import Event


class JsonLines:
    """Writes each event as a line.

    A line holds `time` (seconds since 1970), `kind`, `trial_id`, `label` and the worker's facts,
    which `orchestrator.records.events` lists by kind. It also holds `trials_over`, `trials_total`
    and `seconds_left` of the whole run; `seconds_left` is null while it is unknown.

    Args:
        stream: the file; each line is written at once.
        clock: seconds since 1970.

    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream, self._clock = stream, clock

    def write(self, event: Event, label: str, run: Mapping[str, object]) -> None:
        """Write one event, with the facts `run` of the whole run."""
        line = {"time": round(self._clock(), 3), "kind": event.kind, "trial_id": event.trial_id, "label": label}
        text = json.dumps(_without_nan({**event.facts, **line, **run}), ensure_ascii=False, default=str)
        self._stream.write(text + "\n")
        self._stream.flush()


def _without_nan(value: object) -> object:
    """The value with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value
