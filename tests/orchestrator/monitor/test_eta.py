"""The time left and the speed, on simulated sweeps."""

from __future__ import annotations

import heapq

import pytest

from orchestrator.monitor.eta import LATEST, LATEST_ENDS, LATEST_EPOCHS, LATEST_WITHOUT_PLAN, PAUSE_S, Speed, TimeLeft
from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.running_trial import RunningTrial
from orchestrator.records.events import Event

TASKS, EPOCHS, SCORING_S, EPOCH_S, TAKEN_S = 4, 10, 5.0, 6.0, 1.0


def timeline(start, reused):
    """The events of one trial that loads its first `reused` tasks, with their times."""
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
    """All events of a sweep in order; workers take the trials one after another."""
    free = [0.0] * workers
    events = []
    for number, reused in enumerate(reused_by_trial):
        own = [(at, kind, str(number), facts) for at, kind, facts in timeline(heapq.heappop(free), reused)]
        heapq.heappush(free, own[-1][0])
        events += own
    return sorted(events, key=lambda event: event[0])


def estimates(reused_by_trial, workers, steps):
    """(share of time, true, estimated, usual time left) at each end of a trial but the last."""
    total = len(reused_by_trial)
    progress = SweepProgress({}, steps)
    events = simulated(reused_by_trial, workers)
    end, over, shares, moments = events[-1][0], set(), {}, []
    for now, kind, trial, facts in events:
        progress.on_event(Event(kind, trial, facts), now)
        if kind == "epoch":
            shares[trial] = (facts["task"] * EPOCHS + facts["epoch"]) / (TASKS * EPOCHS)
        elif kind == "task":
            shares[trial] = (facts["task"] + 1) / TASKS
        elif kind == "finished":
            over.add(trial)
            shares.pop(trial)
            running = len(shares)
            left = progress.snapshot(now, {}, total - len(over) - running).left_s
            done = len(over) + sum(shares.values())
            if len(over) < total:
                moments.append((now / end, end - now, left, now * (total - done) / done))
    return moments


# Four trials train everything; each of the other 36 loads three of four tasks.
REUSING = [0] * 4 + [3] * 36
STEPS = {str(n): float(EPOCHS * (TASKS - reused)) for n, reused in enumerate(REUSING)}


def mean_error(moments, which):
    return sum(abs(moment[which] - moment[1]) / moment[1] for moment in moments[:-2]) / len(moments[:-2])


@pytest.mark.parametrize(("steps", "times_better"), [(STEPS, 5), ({}, 1.5)])
def test_the_estimate_beats_the_share_of_work_done_if_trials_reuse_stages(steps, times_better):
    moments = estimates(REUSING, 2, steps)
    assert times_better * mean_error(moments, 2) < mean_error(moments, 3)
    late = [moment for moment in moments if 0.5 < moment[0] < 0.95]
    assert late
    assert max(abs(left - true) / true for _, true, left, _ in late) < 0.15


def test_with_a_plan_the_estimate_is_right_once_both_kinds_have_finished():
    moments = estimates(REUSING, 2, STEPS)
    seen = [moment for moment in moments[5:] if moment[1] > 100]
    assert max(abs(left - true) / true for _, true, left, _ in seen) < 0.1
    # Before a short trial has ended only the steps tell. The usual estimate takes all for slow.
    _, true, left, usual = moments[1]
    assert abs(left - true) / true < 0.35
    assert usual > 2 * true


def test_the_estimate_converges_without_reuse():
    moments = estimates([0] * 20, 4, {})
    assert max(abs(left - true) / true for _, true, left, _ in moments if true > 0) < 0.05


def send(trial, kind, now, **facts):
    return trial.on_event(Event(kind, trial.trial_id, facts), now)


def test_the_pace_is_that_of_the_epochs_that_the_trial_trains_itself():
    trial = RunningTrial("a", 0.0)
    send(trial, "task", 1.0, task=0, tasks=2)
    assert (trial.share, trial.left_s(1.0), trial.own_share) == (0.5, None, 0.0)
    send(trial, "features", 101.0, done=4, total=4)
    assert send(trial, "epoch", 111.0, task=1, tasks=2, epoch=1, epochs=4, loss=1.0) == 1
    assert (trial.left_s(111.0), trial.left_s(115.0), trial.own_share) == (30.0, 26.0, 0.25)
    # The log lacks one epoch: two epochs in 20 s.
    assert send(trial, "epoch", 131.0, task=1, tasks=2, epoch=3, epochs=4, loss=1.0) == 2
    assert trial.share == 7 / 8
    assert trial.left_s(131.0) == 10.0
    assert trial.left_s(1000.0) == 0.0


def test_the_first_epoch_of_the_next_task_is_one_epoch():
    trial = RunningTrial("a", 0.0)
    send(trial, "epoch", 10.0, task=0, tasks=3, epoch=4, epochs=4, loss=1.0)
    assert (trial.trained, trial.ahead) == (1, 8)
    send(trial, "task", 12.0, task=0, tasks=3)
    assert (trial.ahead, trial.share) == (8, 1 / 3)
    send(trial, "epoch", 20.0, task=1, tasks=3, epoch=1, epochs=4, loss=1.0)
    assert (trial.trained, trial.ahead, trial.own_share) == (2, 7, 2 / 9)


def test_an_unknown_kind_lies_on_the_line_through_the_known_ones():
    steps = {"none": 0.0, "few": 10.0, "many": 30.0, "new": 20.0}
    learner = TimeLeft(steps)
    assert learner.of_all([], {20.0: 1}, 1, 0.0) is None
    learner.learn("few", 20.0)
    # One kind is known: in proportion to its steps.
    assert learner.of_all([], {20.0: 1}, 1, 0.0) == 40.0
    learner.learn("many", 40.0)
    assert learner.of_all([], {20.0: 1}, 1, 0.0) == pytest.approx(30.0)
    assert learner.of_all([], {0.0: 1}, 1, 0.0) == pytest.approx(10.0)
    assert learner.of_all([], {20.0: 6}, 3, 0.0) == pytest.approx(60.0)
    learner.learn("none", 1.0)
    # A known kind takes its own mean, not the line's.
    assert learner.of_all([], {0.0: 1}, 1, 0.0) == 1.0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # Slope 2, intercept -10. Through the origin: (10*10 + 20*30) / (100 + 400) = 1.4.
        ({10.0: 10.0, 20.0: 30.0}, 1.4 * 30),
        # Slope -1 becomes 0, and the intercept is the mean.
        ({10.0: 30.0, 20.0: 20.0}, 25.0),
    ],
)
def test_slope_and_intercept_of_the_line_are_never_negative(seconds, expected):
    learner = TimeLeft({str(kind): kind for kind in seconds} | {"new": 30.0})
    for kind, taken in seconds.items():
        learner.learn(str(kind), taken)
    assert learner.of_all([], {30.0: 1}, 1, 0.0) == pytest.approx(expected)


def test_the_line_weighs_kinds_by_their_trials():
    learner = TimeLeft({"a": 10.0, "b": 20.0, "c": 30.0, "new": 40.0})
    for trial, seconds in (("a", 10.0), ("b", 30.0), ("c", 30.0), ("c", 30.0)):
        learner.learn(trial, seconds)
    # Weights 1, 1, 2: x = 22.5, y = 25, slope (187.5 - 12.5 + 75) / (156.25 + 6.25 + 112.5).
    assert learner.of_all([], {40.0: 1}, 1, 0.0) == pytest.approx(25 + 10 / 11 * 17.5)


@pytest.mark.parametrize(("steps", "latest"), [({"x": 5.0}, LATEST), ({}, LATEST_WITHOUT_PLAN)])
def test_only_the_latest_trials_of_a_kind_count(steps, latest):
    learner = TimeLeft(steps)
    learner.learn("x", 1000.0)
    for _ in range(latest):
        learner.learn("x", 10.0)
    assert learner.of_all([], {learner.kind("x"): 1}, 1, 0.0) == 10.0


def test_running_trials_count_before_the_first_has_finished():
    learner, trial = TimeLeft(), RunningTrial("a", 0.0)
    send(trial, "epoch", 10.0, task=0, tasks=1, epoch=1, epochs=4, loss=1.0)
    # 10 s so far and three epochs of 10 s: 40 s a trial. The running one has 30 s left.
    assert learner.of_each([trial], 10.0) == [30.0]
    assert learner.of_all([trial], {None: 1}, 1, 10.0) == 70.0


def test_pace_and_kind_are_weighted_by_the_share_of_own_epochs():
    learner, trial = TimeLeft(), RunningTrial("a", 0.0)
    learner.learn("x", 100.0)
    send(trial, "epoch", 10.0, task=0, tasks=1, epoch=1, epochs=4, loss=1.0)
    # A quarter of 30 s by its pace and three quarters of 90 s by its kind.
    assert learner.of_each([trial], 10.0) == [0.25 * 30 + 0.75 * 90]


def test_a_trial_that_takes_longer_than_its_kind_has_no_less_than_nothing_left():
    learner, trial = TimeLeft(), RunningTrial("a", 0.0)
    learner.learn("x", 100.0)
    assert learner.of_each([trial], 150.0) == [0.0]
    assert learner.of_all([trial], {None: 1}, 1, 150.0) == 100.0


def test_the_sweep_takes_at_least_as_long_as_its_longest_running_trial():
    learner = TimeLeft()
    learner.learn("x", 100.0)
    running = [RunningTrial("a", 0.0), RunningTrial("b", 90.0)]
    assert learner.of_all(running, {None: 0}, 2, 95.0) == 95.0
    assert learner.of_all(running, {None: 4}, 2, 95.0) == 250.0


def test_the_speed_is_that_of_the_latest_trials_and_epochs():
    speed = Speed()
    assert (speed.trials_an_hour(5.0), speed.epochs_a_second(5.0)) == (None, None)
    speed.record(0.0)
    for n in range(1, 2 * LATEST_ENDS):
        speed.record(10.0 * n, trials=1, epochs=5)
    now = 10.0 * (2 * LATEST_ENDS - 1)
    assert (speed.trials_an_hour(now), speed.epochs_a_second(now)) == (360.0, 0.5)
    # The latest 20 of them took 200 s; 200 s later they took 400 s.
    assert speed.trials_an_hour(now + 200) == 180.0
    for n in range(LATEST_EPOCHS):
        speed.record(now + n + 1, epochs=1)
    assert speed.epochs_a_second(now + LATEST_EPOCHS) == 1.0


def test_the_speed_starts_anew_after_a_pause():
    speed = Speed()
    speed.record(0.0)
    speed.record(10.0, trials=1, epochs=1)
    speed.record(10.0 + PAUSE_S, trials=1)
    assert speed.trials_an_hour(10.0 + PAUSE_S) == 2 * 3600 / (10 + PAUSE_S)
    later = 11.0 + 2 * PAUSE_S
    speed.record(later, trials=1)
    assert (speed.trials_an_hour(later), speed.trials_an_hour(later + 36)) == (None, 100.0)
    assert speed.epochs_a_second(later) is None
    # The first epoch only marks the start of the time, and the one before the pause is forgotten.
    speed.record(later + 10, epochs=1)
    assert speed.epochs_a_second(later + 10) is None
    speed.record(later + 12, epochs=4)
    assert speed.epochs_a_second(later + 12) == 2.0
