"""The loop that the inline, local and SLURM backends share."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.execution.backend import SourceSignal, WorkItem, run_loop
from orchestrator.records.events import Event
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial


def item(name: str) -> WorkItem:
    return WorkItem(Trial(name, TrialConfig(), {}, Inputs({}, "", "")), (), Resources())


class Answers:
    """A source with given answers; the last one is repeated."""

    def __init__(self, *answers: WorkItem | SourceSignal) -> None:
        self._answers = list(answers)

    def next(self) -> WorkItem | SourceSignal:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Engine:
    """An engine whose items finish at the next poll; `calls` are all calls in order."""

    def __init__(self, slots: int = 2, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._slots, self._error = slots, error
        self._running: list[str] = []

    def free_slots(self) -> int:
        return self._slots - len(self._running)

    def submit(self, item: WorkItem) -> None:
        self.calls.append(f"submit {item.trial.id}")
        self._running.append(item.trial.id)

    def poll(self, seconds: float) -> list[Event]:
        self.calls.append("poll")
        if self._error:
            raise self._error
        ended, self._running = self._running, []
        return [Event("finished", name) for name in ended]

    def cancel_queued(self) -> list[Event]:
        self.calls.append("cancel")
        return [Event("withdrawn", "queued")]

    def close(self) -> None:
        self.calls.append(f"close, Ctrl-C {signal.getsignal(signal.SIGINT).name.lower()}")  # type: ignore[union-attr]


CLOSED = "close, Ctrl-C sig_ign"


def run(engine: Engine, *answers: WorkItem | SourceSignal) -> Sequence[str]:
    events: list[str] = []
    run_loop(engine, Answers(*answers), lambda event: events.append(f"{event.kind} {event.trial_id}"))
    return events


def test_items_are_submitted_while_slots_are_free_and_the_engine_is_closed_when_the_source_is_done() -> None:
    engine = Engine(slots=2)
    events = run(engine, item("a"), item("b"), item("c"), SourceSignal.WAIT, SourceSignal.DONE)
    assert engine.calls == ["submit a", "submit b", "poll", "submit c", "poll", CLOSED]
    assert events == ["finished a", "finished b", "finished c"]


def test_a_stop_cancels_what_is_queued_and_reports_it() -> None:
    engine = Engine()
    assert run(engine, item("a"), SourceSignal.STOP, SourceSignal.DONE) == ["withdrawn queued", "finished a"]
    assert engine.calls == ["submit a", "cancel", "poll", CLOSED]


def test_waiting_cancels_nothing() -> None:
    engine = Engine()
    run(engine, SourceSignal.WAIT, SourceSignal.DONE)
    assert engine.calls == ["poll", CLOSED]


def test_the_engine_is_closed_after_an_error() -> None:
    engine = Engine(slots=1, error=OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        run(engine, item("a"))
    assert engine.calls == ["submit a", "poll", CLOSED]
