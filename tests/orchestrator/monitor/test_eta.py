"""The time left: learned from finished trials, on sweeps simulated on a clock that the test moves."""

from __future__ import annotations

import heapq

import pytest

from orchestrator.monitor.eta import TimeLeft
from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.running_trial import RunningTrial
from orchestrator.records.events import Event

TASKS, EPOCHS, SCORING_S, EPOCH_S, TAKEN_S = 4, 10, 5.0, 6.0, 1.0


def timeline(start, reused):
    """The events of one trial that takes its first `reused` tasks from the store, and when."""
    now = start
    yield now, "started", {}
    for task in range(TASKS):
        about = {"task": task, "tasks": TASKS, "task_name": str(task)}
        for epoch in range(1, 1 + EPOCHS * (task >= reused)):
            now += EPOCH_S
            yield now, "epoch", {**about, "epoch": epoch, "epochs": EPOCHS, "loss": 1.0}
        now += TAKEN_S if task < reused else SCORING_S
        yield now, "task", {**about, "image_auroc": 0.9}
    yield now, "finished", {"seconds": now - start, "image_auroc": 0.9}


def simulated(reused_by_trial, workers):
    """All events of a sweep, in order: workers take the trials one after another."""
    free = [0.0] * workers
    events = []
    for number, reused in enumerate(reused_by_trial):
        own = [(at, kind, str(number), facts) for at, kind, facts in timeline(heapq.heappop(free), reused)]
        heapq.heappush(free, own[-1][0])
        events += own
    return sorted(events, key=lambda event: event[0])


def judged(reused_by_trial, workers, steps):
    """At each end of a trial but the last: how far on the sweep is, what is left, what was learned, and the usual share's answer."""
    total = len(reused_by_trial)
    heard = SweepProgress({}, steps)
    events = simulated(reused_by_trial, workers)
    end, over, shares, found = events[-1][0], set(), {}, []
    for now, kind, trial, facts in events:
        heard.hear(Event(kind, trial, facts), now)
        if kind == "epoch":
            shares[trial] = (facts["task"] * EPOCHS + facts["epoch"]) / (TASKS * EPOCHS)
        elif kind == "task":
            shares[trial] = (facts["task"] + 1) / TASKS
        elif kind == "finished":
            over.add(trial)
            shares.pop(trial)
            running = len(shares)
            left = heard.scene(now, {}, total - len(over) - running).left_s
            done = len(over) + sum(shares.values())
            if len(over) < total:
                found.append((now / end, end - now, left, now * (total - done) / done))
    return found


# Four trials train everything; each of the other 36 takes three of four tasks from the store.
REUSING = [0] * 4 + [3] * 36
STEPS = {str(n): float(EPOCHS * (TASKS - reused)) for n, reused in enumerate(REUSING)}


def mean_error(found, which):
    return sum(abs(moment[which] - moment[1]) / moment[1] for moment in found[:-2]) / len(found[:-2])


@pytest.mark.parametrize(("steps", "times_better"), [(STEPS, 5), ({}, 1.5)])
def test_it_beats_the_share_of_work_done_where_trials_reuse_stages(steps, times_better):
    found = judged(REUSING, 2, steps)
    assert times_better * mean_error(found, 2) < mean_error(found, 3)
    late = [moment for moment in found if 0.5 < moment[0] < 0.95]
    assert late
    assert max(abs(left - true) / true for _, true, left, _ in late) < 0.15


def test_with_a_plan_it_is_right_as_soon_as_both_kinds_were_seen():
    found = judged(REUSING, 2, STEPS)
    seen = [moment for moment in found[5:] if moment[1] > 100]
    assert max(abs(left - true) / true for _, true, left, _ in seen) < 0.1
    # Before any of the many short ones has ended their steps alone tell; the share believes that all are as slow as the first.
    _, true, left, usual = found[1]
    assert abs(left - true) / true < 0.35
    assert usual > 2 * true


def test_it_converges_where_nothing_is_reused():
    found = judged([0] * 20, 4, {})
    assert max(abs(left - true) / true for _, true, left, _ in found if true > 0) < 0.05


def hear(trial, kind, now, **facts):
    trial.hear(Event(kind, trial.trial_id, facts), now)


def test_the_pace_is_that_of_epochs_which_the_trial_trains_itself():
    trial = RunningTrial("a", 0.0)
    hear(trial, "task", 1.0, task=0, tasks=2)
    assert (trial.share, trial.left_s(1.0), trial.own_share) == (0.5, None, 0.0)
    hear(trial, "features", 101.0, done=4, total=4)
    hear(trial, "epoch", 111.0, task=1, tasks=2, epoch=1, epochs=4, loss=1.0)
    assert (trial.left_s(111.0), trial.left_s(115.0), trial.own_share) == (30.0, 26.0, 0.25)
    hear(trial, "epoch", 131.0, task=1, tasks=2, epoch=3, epochs=4, loss=1.0)  # One of them was not logged.
    assert trial.left_s(131.0) == 10.0
    assert trial.left_s(1000.0) == 0.0


def test_an_unknown_kind_lies_on_the_line_through_the_known_ones():
    steps = {"none": 0.0, "few": 10.0, "many": 30.0, "new": 20.0}
    learner = TimeLeft(steps)
    assert learner.of_all([], {20.0: 1}, 1, 0.0) is None
    learner.learn("few", 20.0)
    assert learner.of_all([], {20.0: 1}, 1, 0.0) == 40.0  # One kind is known: in proportion.
    learner.learn("many", 40.0)
    assert learner.of_all([], {20.0: 1}, 1, 0.0) == pytest.approx(30.0)
    assert learner.of_all([], {0.0: 1}, 1, 0.0) == pytest.approx(10.0)
    assert learner.of_all([], {20.0: 6}, 3, 0.0) == pytest.approx(60.0)
    learner.learn("none", 1.0)
    assert learner.of_all([], {0.0: 1}, 1, 0.0) == 1.0  # What was seen stands above the line.


def test_it_takes_no_less_than_the_longest_of_the_running_ones():
    learner = TimeLeft()
    learner.learn("x", 100.0)
    running = [RunningTrial("a", 0.0), RunningTrial("b", 90.0)]
    assert learner.of_all(running, {None: 0}, 2, 95.0) == 95.0
    assert learner.of_all(running, {None: 4}, 2, 95.0) == 250.0
