"""The source of work: what it hands out, again and again, and when it stops."""

from __future__ import annotations

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.execution.backend import SourceSignal
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import IDENTICAL_FAILURES, TrialSource, failure_shape
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
    return answer if isinstance(answer, SourceSignal) else answer.trial_ids[0]


def failure(trial_id: str, error: str = "ValueError: no", trace: str | None = "Traceback ...") -> Event:
    return Event("failed", trial_id, {"error": error, "traceback": trace})


def test_it_hands_out_each_trial_and_is_done_when_all_have_ended(clock):
    source = source_of(2, clock)
    first, second = source.next(), source.next()
    assert (first.trial_ids, second.trial_ids) == (("000000000000",), ("000000000001",))
    assert (first.after, first.resources.gpus) == ((), 1)
    assert source.next() is SourceSignal.WAIT
    source.events(Event("finished", "000000000000"))
    assert source.next() is SourceSignal.WAIT
    source.events(Event("elsewhere", "000000000001"))
    assert source.next() is SourceSignal.DONE
    assert (source.tally.finished, source.tally.elsewhere) == (["000000000000"], ["000000000001"])
    assert source.tally.over == {"000000000000", "000000000001"}


def test_a_failed_trial_comes_again_as_often_as_the_file_says(clock):
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


def test_a_trial_that_another_driver_is_at_is_asked_for_later(clock):
    source = source_of(2, clock)
    source.next()
    source.events(Event("held", "000000000000", {"by": "host:1"}))
    assert ids(source.next()) == "000000000001"
    assert source.next() is SourceSignal.WAIT
    source.events(Event("finished", "000000000001"))
    assert source.next() is SourceSignal.WAIT
    clock.now += 60
    assert ids(source.next()) == "000000000000"


def test_what_cannot_fit_together_is_not_tried_again(clock):
    source = source_of(1, clock, retries=5)
    trial_id = ids(source.next())
    source.events(
        Event("failed", trial_id, {"error": "InvalidInput: no", "error_kind": "InvalidInput", "traceback": ""})
    )
    assert source.next() is SourceSignal.DONE
    assert list(source.tally.failed) == [trial_id]


def test_an_interruption_costs_no_retry_but_not_for_ever(clock):
    source = source_of(1, clock, retries=0)
    for _ in range(4):
        assert ids(source.next()) == "000000000000"
        source.events(Event("interrupted", "000000000000"))
    assert source.next() is SourceSignal.DONE
    assert source.tally.interrupted == ["000000000000"]
    assert source.tally.failed == {}


def test_ten_identical_tracebacks_in_a_row_stop_it(clock):
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


def test_running_trials_may_end_before_such_a_stop(clock):
    source = source_of(30, clock, retries=0)
    running = ids(source.next())
    for _ in range(10):
        source.events(failure(ids(source.next())))
    assert source.next() is SourceSignal.STOP
    source.events(Event("finished", running))
    assert source.next() is SourceSignal.DONE
    assert source.tally.finished == [running]


def test_one_success_or_another_traceback_between_them_starts_the_count_anew(clock):
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
def test_when_nothing_can_be_written_it_stops_at_once_whatever_runs(clock, trial_id):
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
