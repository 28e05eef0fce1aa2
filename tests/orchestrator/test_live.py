"""What a person sees while a sweep runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.events import Event
from orchestrator.live import LiveView
from orchestrator.runner import Tally

LABELS = {"a": "gamma=0 seed=0", "b": "gamma=[b] :x: seed=0"}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tally():
    return Tally()


def plain():
    return Console(file=io.StringIO(), width=60, markup=False, emoji=False, highlight=False, soft_wrap=True)


def said(console):
    return console.file.getvalue().splitlines()


def epoch(trial, task, number):
    facts = {"task": task, "tasks": 2, "task_name": "bolt", "epoch": number, "epochs": 4, "loss": 1.25}
    return Event("epoch", trial, facts)


def finished(tally, trial, **facts):
    tally.over.add(trial)
    return Event("finished", trial, {"image_auroc": 0.9, "seconds": 12.0} | facts)


def test_plain_lines_say_what_ended_and_how_long_the_rest_takes(tally, clock):
    console = plain()
    with LiveView(console, LABELS, 2, tally, clock=clock) as view:
        clock.now = 7.0  # starting workers takes its time, and says nothing about trials
        view.show(Event("started", "a"))
        clock.now = 19.0
        view.show(finished(tally, "a"))
        clock.now = 29.0
        view.show(finished(tally, "b", image_auroc=None))
    assert said(console) == [
        "finished  1/2  gamma=0 seed=0  image AUROC 0.9000  12.0 s  ETA 12 s",
        "finished  2/2  gamma=[b] :x: seed=0  12.0 s",
    ]


def test_plain_lines_say_twice_a_minute_at_most_what_is_running(tally, clock):
    console = plain()
    with LiveView(console, LABELS, 2, tally, clock=clock) as view:
        view.show(Event("started", "a"))
        for number, now in enumerate((10.0, 31.0, 40.0, 62.0), start=1):
            clock.now = now
            view.show(epoch("a", 0, number))
    assert said(console) == [
        "running   0/2  gamma=0 seed=0  bolt epoch 2/4 loss 1.25  ETA 3 min 37 s",
        "running   0/2  gamma=0 seed=0  bolt epoch 4/4 loss 1.25  ETA 3 min 6 s",
    ]


def test_the_time_left_counts_parts_of_trials_and_forgets_failed_attempts(tally, clock):
    view = LiveView(plain(), LABELS, 2, tally, clock=clock)
    assert view.eta() == "ETA …"
    view.show(Event("started", "a"))
    clock.now = 3600.0
    view.show(epoch("a", 0, 4))
    assert view.eta() == "ETA 3 h 0 min"
    view.show(Event("failed", "a", {"error": "no"}))
    assert view.eta() == "ETA …"
    tally.over |= {"a", "b"}
    assert view.eta() == ""


def test_failures_waiting_and_interruptions_are_said(tally, clock):
    console = plain()
    with LiveView(console, LABELS, 2, tally, clock=clock) as view:
        view.show(Event("failed", "a", {"error": "ValueError: [b] of :x:"}))
        view.show(Event("held", "b", {"by": "host:7"}))
        view.show(Event("held", "b", {"by": "host:7"}))
        tally.over.add("a")
        view.show(Event("failed", "a", {"error": "ValueError: no"}))
        tally.over.add("b")
        view.show(Event("interrupted", "b", {}))
    assert [line.removesuffix("  ETA …") for line in said(console)] == [
        "failed    0/2  gamma=0 seed=0  ValueError: [b] of :x:; it will be tried again",
        "waiting   0/2  gamma=[b] :x: seed=0  another run is at it (host:7)",
        "failed    1/2  gamma=0 seed=0  ValueError: no",
        "interrupted 2/2  gamma=[b] :x: seed=0",
    ]


def test_quiet_is_quiet(tally, clock):
    console = plain()
    with LiveView(console, LABELS, 2, tally, quiet=True, clock=clock) as view:
        view.show(Event("failed", "a", {"error": "no"}))
        view.show(finished(tally, "a"))
    assert said(console) == []


def test_a_terminal_has_bars_and_the_lines_stay(tally, clock):
    console = Console(
        file=io.StringIO(),
        width=100,
        force_terminal=True,
        color_system=None,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    with LiveView(console, LABELS, 2, tally, clock=clock) as view:
        view.show(Event("started", "a"))
        view.show(Event("features", "b", {"done": 3, "total": 9}))
        clock.now = 10.0
        view.show(epoch("a", 0, 1))
        view._progress.refresh()
        shown = console.file.getvalue()
        view.show(finished(tally, "a"))
    for part in (
        "trials",
        "0/2",
        "gamma=0 seed=0",
        "1/8",
        "bolt epoch 1/4 loss 1.25",
        "gamma=[b] :x: seed=0",
        "features 3/9",
        "ETA",
    ):
        assert part in shown
    assert "finished  1/2  gamma=0 seed=0  image AUROC 0.9000  12.0 s" in console.file.getvalue()
