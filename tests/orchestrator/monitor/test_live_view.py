"""The view of a running sweep: plain lines, a picture on a terminal, JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from orchestrator.execution.trial_source import RunOutcome
from orchestrator.monitor.json_lines import JsonLines
from orchestrator.monitor.live_view import LiveView
from orchestrator.records.events import Event

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
    return RunOutcome()


def plain():
    return Console(file=io.StringIO(), width=60, markup=False, emoji=False, highlight=False, soft_wrap=True)


def terminal(height=25, width=100):
    file = io.StringIO()
    return Console(
        file=file, width=width, height=height, force_terminal=True, color_system=None, markup=False, emoji=False
    )


def said(console):
    return console.file.getvalue().splitlines()


def shown(view, console):
    with console.capture() as capture:
        console.print(view.picture())
    return [line.rstrip() for line in capture.get().splitlines()]


def epoch(trial, task, number):
    facts = {"task": task, "tasks": 2, "task_name": "bolt", "epoch": number, "epochs": 4, "loss": 1.25}
    return Event("epoch", trial, facts)


def finished(tally, trial, **facts):
    tally.over.add(trial)
    tally.finished.append(trial)
    return Event("finished", trial, {"image_auroc": 0.9, "seconds": 12.0} | facts)


def test_plain_lines_tell_each_end_and_the_time_left(tally, clock):
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


def test_plain_lines_tell_the_running_trials_twice_a_minute(tally, clock):
    console = plain()
    with LiveView(console, LABELS, 2, tally, clock=clock) as view:
        view.show(Event("started", "a"))
        for number, now in enumerate((10.0, 31.0, 40.0, 62.0), start=1):
            clock.now = now
            view.show(epoch("a", 0, number))
    told = "gamma=0 seed=0: bolt  epoch"
    assert said(console) == [
        f"running   0/2  1 running, 1 waiting  0.0476 epochs/s  ETA 3 min 37 s  {told} 2/4  loss 1.25",
        f"running   0/2  1 running, 1 waiting  0.0577 epochs/s  ETA 3 min 6 s  {told} 4/4  loss 1.25",
    ]


def test_the_time_left_counts_parts_of_trials_and_forgets_failed_attempts(tally, clock):
    view = LiveView(plain(), LABELS, 2, tally, clock=clock)
    assert view.snapshot().eta == "ETA …"
    view.show(Event("started", "a"))
    clock.now = 3600.0
    view.show(epoch("a", 0, 4))
    clock.now = 4500.0
    view.show(epoch("a", 1, 1))
    assert view.snapshot().eta == "ETA 5 h"  # taken up at epoch 4: 75 min for two, three ahead, then eight
    view.show(Event("failed", "a", {"error": "no"}))
    assert view.snapshot().eta == "ETA …"
    tally.over |= {"a", "b"}
    assert view.snapshot().eta == ""


def test_failures_waiting_and_interruptions_are_printed(tally, clock):
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


@pytest.mark.parametrize("make", [plain, terminal])
def test_quiet_prints_nothing(tally, clock, make):
    console = make()
    with LiveView(console, LABELS, 2, tally, quiet=True, clock=clock) as view:
        view.show(Event("failed", "a", {"error": "no"}))
        view.show(finished(tally, "a"))
    assert said(console) == []


def test_a_terminal_shows_a_line_per_running_trial_and_the_whole_sweep(tally, clock):
    console = terminal()
    view = LiveView(console, LABELS | {"c": "third"}, 3, tally, clock=clock)
    view.show(Event("started", "c"))
    clock.now = 40.0
    view.show(finished(tally, "c", image_auroc=0.75, seconds=40.0))
    view.show(Event("started", "a"))
    view.show(Event("features", "b", {"done": 3, "total": 9}))
    clock.now = 50.0
    view.show(epoch("a", 0, 1))
    lines = shown(view, console)
    assert lines[0].startswith("gamma=0 seed=0        ━")
    assert lines[0].endswith(" 12%  bolt  epoch 1/4  loss 1.25  ETA 35 s")  # 70 s at its pace, 30 s by its kind
    assert lines[1].split() == ["gamma=[b]", ":x:", "seed=0", "features", "3/9", "ETA", "30", "s"]
    assert lines[2:] == [
        "trials:   3: 2 running, 1 finished  ETA 35 s",
        "speed:    72 trials/h",
        "best:     0.7500 test image AUROC  third",
    ]


def test_a_failed_trial_that_is_tried_again_waits(tally, clock):
    console = terminal()
    view = LiveView(console, LABELS, 2, tally, clock=clock, steps={"a": 10.0, "b": 20.0})
    view.show(Event("started", "b"))
    view.show(finished(tally, "b", seconds=20.0))
    view.show(Event("started", "a"))
    tally.failed["a"] = Event("failed", "a", {"error": "no"})
    view.show(tally.failed["a"])
    # a has half the steps of b, which took 20 s.
    assert "trials:   2: 1 waiting, 1 finished  ETA 10 s" in shown(view, console)


def test_a_picture_is_never_higher_than_its_terminal(tally, clock):
    console = terminal(height=10, width=60)
    view = LiveView(console, {}, 50, tally, clock=clock)
    for number in range(30):
        view.show(Event("started", f"trial {number}"))
    lines = shown(view, console)
    assert lines[-2:] == ["and 23 more running", "trials:   50: 30 running, 20 waiting  ETA …"]
    assert len(lines) == 9


def test_printed_lines_stay_above_the_picture(tally, clock):
    console = terminal()
    with LiveView(console, LABELS, 2, tally, clock=clock) as view:
        view.show(Event("started", "a"))
        view.show(finished(tally, "a"))
    page = console.file.getvalue()
    assert "finished  1/2  gamma=0 seed=0  image AUROC 0.9000  12.0 s" in page
    # The answer follows, so the last picture is erased.
    assert "\x1b[2K" in page.rpartition("trials:")[2]


def test_every_event_is_one_line_of_json(tally, clock):
    stream = io.StringIO()
    with LiveView(plain(), LABELS, 2, tally, quiet=True, clock=clock, json=JsonLines(stream, lambda: 5.25)) as view:
        view.show(Event("started", "a", {"attempt": 1}))
        clock.now = 8.0
        view.show(Event("features", "a", {"done": 3, "total": 9}))
        view.show(finished(tally, "a", image_auroc=float("nan"), validation={"pixel_auroc": float("inf")}))
    first, second, last = map(json.loads, stream.getvalue().splitlines())
    run = {"trials_over": 0, "trials_total": 2, "seconds_left": None}
    about = {"trial_id": "a", "label": "gamma=0 seed=0", "time": 5.25}
    assert first == {"kind": "started", "attempt": 1, **about, **run}
    assert second == {"kind": "features", "done": 3, "total": 9, **about, **run}
    assert (last["image_auroc"], last["validation"]) == (None, {"pixel_auroc": None})
    assert (last["trials_over"], last["seconds_left"]) == (1, 12.0)


def test_on_eighty_columns_the_seed_of_every_running_trial_is_in_sight(tally, clock):
    long = "position=true, grid_size=2, scaling=0.5, spatial=true, center_weight=0.05, epochs=20"
    console = terminal(width=80)
    view = LiveView(console, {"a": f"{long} seed=0", "b": f"{long} seed=11"}, 2, tally, clock=clock)
    for trial in ("a", "b"):
        view.show(Event("started", trial))
        view.show(epoch(trial, 0, 1))
    first, second = shown(view, console)[:2]
    assert first.startswith("position") and second.startswith("position")
    assert "… seed=0 " in first and "… seed=11 " in second
    assert "12%" in first and "ETA" in first
    assert max(map(len, shown(view, console))) <= 80


def test_a_resumed_run_counts_the_trials_that_finished_before(tally, clock):
    console, stream = plain(), io.StringIO()
    with LiveView(console, LABELS, 2, tally, clock=clock, done=6, json=JsonLines(stream)) as view:
        view.show(Event("started", "a"))
        view.show(finished(tally, "a"))
        counts = view.snapshot().counts
    assert said(console)[0].startswith("finished  7/8  gamma=0 seed=0")
    assert (counts["finished"], counts["waiting"]) == (7, 1)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["trials_over"], line["trials_total"]) for line in told] == [(6, 8), (7, 8)]
