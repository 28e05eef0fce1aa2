"""The source of trials: what it hands out, what it retries, and when it stops."""

from __future__ import annotations

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.execution.backend import SourceSignal
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import IDENTICAL_FAILURES, NOT_RETRIED, TrialSource, failure_shape
from orchestrator.records.events import Event
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial


def trials(count: int) -> list[Trial]:
    return [Trial(f"{n:012x}", TrialConfig(seed=n), {}, Inputs({}, "", "")) for n in range(count)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def source_of(count: int, clock: Clock, retries: int = 1) -> TrialSource:
    return TrialSource(PlannedTrials(trials(count)), Resources(gpus=1), retries, clock=clock)


def ids(answer):
    return answer if isinstance(answer, SourceSignal) else answer.trial.id


def failure(trial_id: str, error: str = "ValueError: no", trace: str | None = "Traceback ...") -> Event:
    return Event("failed", trial_id, {"error": error, "traceback": trace})


def test_each_trial_is_handed_out_and_the_source_is_done_when_all_have_ended(clock):
    source = source_of(2, clock)
    first, second = source.next(), source.next()
    assert (first.trial.id, second.trial.id) == ("000000000000", "000000000001")
    assert (first.after, first.resources.gpus) == ((), 1)
    assert source.next() is SourceSignal.WAIT
    source.events(Event("finished", "000000000000"))
    assert source.next() is SourceSignal.WAIT
    source.events(Event("elsewhere", "000000000001"))
    assert source.next() is SourceSignal.DONE
    assert (source.tally.finished, source.tally.elsewhere) == (["000000000000"], ["000000000001"])
    assert source.tally.over == {"000000000000", "000000000001"}


def test_a_failed_trial_comes_again_as_often_as_retries_allow(clock):
    source = source_of(1, clock, retries=2)
    for _ in range(3):
        assert ids(source.next()) == "000000000000"
        assert source.tally.over == set()
        source.events(failure("000000000000"))
    assert source.next() is SourceSignal.DONE
    assert list(source.tally.failed) == ["000000000000"]
    assert source.tally.over == {"000000000000"}


def test_a_trial_that_failed_and_then_finished_has_not_failed(clock):
    source = source_of(1, clock)
    source.next()
    source.events(failure("000000000000"))
    source.next()
    source.events(Event("finished", "000000000000"))
    assert source.next() is SourceSignal.DONE
    assert source.tally.failed == {}


def test_a_trial_that_another_driver_is_running_comes_again_later(clock):
    source = source_of(2, clock)
    source.next()
    source.events(Event("held", "000000000000", {"by": "host:1"}))
    assert ids(source.next()) == "000000000001"
    assert source.next() is SourceSignal.WAIT
    source.events(Event("finished", "000000000001"))
    assert source.next() is SourceSignal.WAIT
    clock.now += 60
    assert ids(source.next()) == "000000000000"


@pytest.mark.parametrize(
    ("error_kind", "attempts"),
    [
        *((kind, 1) for kind in NOT_RETRIED),
        *((kind, 6) for kind in ("WorkerDied", "Stalled", "Damaged", "CodeChanged")),
    ],
)
def test_only_errors_that_may_pass_are_retried(clock, error_kind, attempts):
    source = source_of(1, clock, retries=5)
    made = 0
    while not isinstance(answer := source.next(), SourceSignal):
        made += 1
        source.events(Event("failed", ids(answer), {"error": f"no {made}", "error_kind": error_kind}))
    assert (answer, made) == (SourceSignal.DONE, attempts)
    assert list(source.tally.failed) == ["000000000000"]


def interrupt(source: TrialSource, epochs: list[int]) -> int:
    """Interrupt the only trial of a source after so many epochs each time; the attempts made."""
    for made, count in enumerate(epochs):
        answer = source.next()
        if isinstance(answer, SourceSignal):
            return made
        source.events(Event("interrupted", ids(answer), {"epochs": count}))
    return len(epochs)


def test_an_interruption_costs_no_retry_but_four_without_an_epoch_end_the_trial(clock):
    source = source_of(1, clock, retries=0)
    assert interrupt(source, [0] * 9) == 4
    assert source.next() is SourceSignal.DONE
    assert source.tally.interrupted == ["000000000000"]
    assert source.tally.failed == {}


def test_a_finished_epoch_resets_the_count_of_interruptions(clock):
    assert interrupt(source_of(1, clock), [1] * 20) == 20
    # Three without an epoch, one with an epoch, and then three more end the trial.
    assert interrupt(source_of(1, clock), [0, 0, 0, 5, 0, 0, 0, 0, 0]) == 7


def test_a_trial_carries_the_trials_that_it_follows(clock):
    source = TrialSource(PlannedTrials(trials(1)), Resources(), 0, after=lambda trial_id: (f"before {trial_id}",))
    assert source.next().after == ("before 000000000000",)


def test_held_trials_come_again_one_every_four_seconds_or_are_left_to_their_process(clock):
    source = source_of(2, clock)
    held = Event("held", ids(source.next()))
    source.events(Event("held", ids(source.next())))
    source.events(held)
    clock.now = 3.9
    assert source.next() is SourceSignal.WAIT
    clock.now = 4.0
    assert ids(source.next()) == "000000000001"
    source.events(Event("held", "000000000001"))
    assert source.next() is SourceSignal.WAIT
    clock.now = 8.0
    assert ids(source.next()) == "000000000000"
    source.events(Event("elsewhere", "000000000000"))  # Others may have ended, too.
    assert ids(source.next()) == "000000000001"
    source = TrialSource(PlannedTrials(trials(1)), Resources(), 0, waits_for_others=False, clock=clock)
    source.next()
    source.events(held)
    clock.now = 60.0
    assert source.next() is SourceSignal.DONE
    assert source.tally.over == {"000000000000"}


def test_a_cancelled_trial_is_not_handed_out(clock):
    source = TrialSource(PlannedTrials(trials(2)), Resources(), 0, cancelled=lambda trial_id: trial_id.endswith("0"))
    assert ids(source.next()) == "000000000001"
    assert source.tally.cancelled == ["000000000000"]


def test_a_withdrawn_trial_has_ended_without_an_outcome(clock):
    source = source_of(1, clock)
    source.events(Event("withdrawn", ids(source.next())))
    assert source.next() is SourceSignal.DONE
    outcome = source.tally
    assert outcome.over == {"000000000000"}
    assert not (outcome.finished or outcome.failed or outcome.interrupted or outcome.cancelled or outcome.pruned)


class Search(PlannedTrials):
    """Stops the second trial when the first one has ended a task."""

    def on_event(self, trial, event):
        return ["000000000001"] if event.kind == "task" else ()


def test_trials_that_the_search_stops_are_pruned(clock):
    pruned = []
    source = TrialSource(Search(trials(2)), Resources(), 0, prune=pruned.append)
    first = ids(source.next())
    source.events(Event("epoch", first))
    assert pruned == []
    source.events(Event("task", first, {"task": 0}))
    source.events(Event("task", "unknown", {"task": 0}))
    assert pruned == ["000000000001"]


def test_ten_identical_tracebacks_in_a_row_stop_the_source(clock):
    source = source_of(30, clock)
    failed = 0
    while not isinstance(answer := source.next(), SourceSignal):
        failed += 1
        source.events(
            failure(
                ids(answer), f"OSError: no file at 0x{failed:x}", f"line 7, batch {failed}: no file at 0x{failed:x}"
            )
        )
    assert answer is SourceSignal.DONE
    assert failed == IDENTICAL_FAILURES == 10
    assert "10 attempts in a row failed the same way (OSError: no file at 0xa)" in source.tally.stopped_by


def test_running_trials_may_end_after_such_a_stop(clock):
    source = source_of(30, clock, retries=0)
    running = ids(source.next())
    for _ in range(10):
        source.events(failure(ids(source.next())))
    assert source.next() is SourceSignal.STOP
    source.events(Event("finished", running))
    assert source.next() is SourceSignal.DONE
    assert source.tally.finished == [running]


def test_a_success_or_another_traceback_in_between_resets_the_count(clock):
    source = source_of(100, clock, retries=0)
    for between in (lambda i: Event("finished", i), lambda i: failure(i, trace="another Traceback")):
        for _ in range(9):
            source.events(failure(ids(source.next())))
        source.events(between(ids(source.next())))
    for _ in range(9):
        source.events(failure(ids(source.next())))
    assert source.tally.stopped_by is None
    source.events(failure(ids(source.next())))
    assert source.tally.stopped_by is not None


@pytest.mark.parametrize("trial_id", ["000000000000", ""])
def test_a_fatal_error_stops_the_source_at_once_although_trials_are_running(clock, trial_id):
    source = source_of(5, clock)
    source.next()
    source.next()
    source.events(Event("fatal", trial_id, {"error": "disk full"}))
    assert source.next() is SourceSignal.DONE
    assert source.tally.stopped_by == "disk full"
    assert source.tally.failed == {}


def test_failures_have_the_same_shape_whatever_their_numbers():
    def one(text):
        return failure_shape(failure("000000000000", trace=text))

    assert one("<object at 0x7f3a> 12.5e-3 of 8") == one("<object at 0x11> 3 of 9.0")
    assert one("no such file: a") != one("no such file: b")
    assert failure_shape(failure("000000000000", "died", None)) == failure_shape(failure("000000000001", "died", None))
