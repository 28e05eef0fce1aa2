"""The progress of a sweep: running trials, activity in words, the best result."""

from __future__ import annotations

from orchestrator.monitor.progress import STARTS, SweepProgress
from orchestrator.monitor.snapshot import ProgressSnapshot, summary_line
from orchestrator.records.events import Event


def test_the_best_finished_trial_is_shown():
    progress = SweepProgress({"a": "first", "b": "second"})
    for now, (trial, auroc) in enumerate((("a", 0.75), ("b", None), ("b", 0.5))):
        progress.on_event(Event("started", trial), now)
        progress.on_event(Event("finished", trial, {"image_auroc": auroc}), now + 0.5)
    snapshot = progress.snapshot(9.0, {"finished": 2}, 0)
    assert (snapshot.best, snapshot.over, snapshot.left_s) == (("first", 0.75), True, 0.0)
    assert summary_line(snapshot) == "2 finished  1,200 trials/h  best so far: test image AUROC 0.7500 (first)"


def test_a_pruned_trial_counts_for_the_speed():
    progress = SweepProgress({})
    progress.on_event(Event("started", "a"), 0.0)
    progress.on_event(Event("pruned", "a"), 36.0)
    assert summary_line(progress.snapshot(36.0, {"pruned": 1}, 0)) == "1 pruned  100 trials/h"


def test_the_time_left_is_unknown_before_the_first_epoch():
    progress = SweepProgress({})
    progress.on_event(Event("started", "a"), 0.0)
    assert progress.snapshot(5.0, {"running": 1}, 0).eta == "ETA …"


def test_known_running_trials_replace_those_of_the_events():
    progress = SweepProgress({"a": "first", "b": "second"})
    progress.on_event(Event("started", "a", {"worker": "local-7-0"}), 0.0)
    assert progress.workers == ["local-7-0"]
    assert (progress.is_running("a"), progress.is_running("b")) == (True, False)
    assert [row.label for row in progress.snapshot(1.0, {}, 0).rows] == ["first"]
    silent = progress.snapshot(1.0, {}, 0, alive=["b"])
    assert [row.label for row in silent.rows] == ["second"]
    assert (silent.over, silent.left_s) == (False, None)


def test_a_retried_trial_waits_again():
    progress = SweepProgress({}, {"a": 10.0, "b": 20.0})
    progress.learn(Event("finished", "b", {"seconds": 20.0}))
    assert progress.snapshot(0.0, {}, 2).left_s == 30.0
    progress.on_event(Event("started", "a"), 0.0)
    progress.on_event(Event("failed", "a"), 1.0, over=False)
    assert progress.snapshot(1.0, {}, 2).left_s == 30.0
    progress.on_event(Event("failed", "a"), 1.0)
    assert progress.snapshot(1.0, {}, 1).left_s == 20.0


def test_a_trial_that_another_run_holds_still_waits():
    progress = SweepProgress({}, {"a": 10.0, "b": 20.0})
    progress.learn(Event("finished", "b", {"seconds": 20.0}))
    progress.on_event(Event("held", "a"), 0.0, over=False)
    # a has half the steps of b, which took 20 s: 10 s, and 20 s for b.
    assert progress.snapshot(0.0, {}, 2).left_s == 30.0


def test_the_worker_s_own_duration_counts_more_than_the_time_between_events():
    progress = SweepProgress({})
    for trial, facts in (("a", {"seconds": 10.0}), ("b", {})):
        progress.on_event(Event("started", trial), 0.0)
        progress.on_event(Event("finished", trial, facts), 30.0)
    # 10 s by the worker of a, 30 s between the events of b: 20 s on average.
    assert progress.snapshot(30.0, {}, 1).left_s == 20.0


def test_work_is_shared_among_as_many_trials_as_ran_at_once_lately():
    progress = SweepProgress({})
    progress.learn(Event("finished", "x", {"seconds": 60.0}))
    for trial in "abc":
        progress.on_event(Event("started", trial), 0.0)
    for trial in "abc":
        progress.on_event(Event("failed", trial), 0.0)
    assert progress.snapshot(0.0, {}, 6).left_s == 120.0
    # The last trial has nobody to share its work with.
    assert progress.snapshot(0.0, {}, 1).left_s == 60.0
    for n in range(STARTS):
        progress.on_event(Event("started", f"alone {n}"), 0.0)
        progress.on_event(Event("failed", f"alone {n}"), 0.0)
    assert progress.snapshot(0.0, {}, 6).left_s == 360.0


def test_more_trials_than_the_plan_knows_are_of_the_common_kind():
    progress = SweepProgress({}, {"a": 10.0})
    progress.learn(Event("finished", "a", {"seconds": 20.0}))
    # One of 10 steps takes 20 s; the two unknown ones take the mean of all, 20 s each.
    assert progress.snapshot(0.0, {}, 3).left_s == 60.0


def test_the_time_left_is_empty_at_the_end_and_open_at_first():
    assert ProgressSnapshot({}, over=True).eta == ""
    assert ProgressSnapshot({}).eta == "ETA …"


def test_a_trial_s_activity_is_known_between_its_events():
    progress = SweepProgress({"a": "first"})
    facts = {"task": 0, "tasks": 2, "task_name": "bolt", "epochs": 2, "loss": 0.5}
    events = (
        ("started", {}),
        ("features", {"done": 3, "total": 9}),
        ("features", {"done": 9, "total": 9}),
        ("epoch", facts | {"epoch": 1}),
        ("epoch", facts | {"epoch": 2}),
        ("features", {"done": 4, "total": 4}),
        ("task", {"task": 0, "tasks": 2, "task_name": "bolt"}),
        ("features", {"done": 9, "total": 9}),
        ("task", {"task": 1, "tasks": 2, "task_name": "cloth", "image_auroc": 0.5}),
    )
    shown = []
    for now, (kind, told) in enumerate(events):
        progress.on_event(Event(kind, "a", told), now)
        row = progress.snapshot(now, {}, 0).rows[0]
        shown.append((row.activity, row.share))
    assert shown == [
        ("starting", None),
        ("features 3/9", None),
        ("training", None),
        ("bolt  epoch 1/2  loss 0.5", 0.25),
        ("bolt  scoring", 0.5),
        ("scoring", 0.5),
        ("training", 0.5),
        ("training", 0.5),
        ("cloth  done  image AUROC 0.5000", 1.0),
    ]


def test_a_trial_without_progress_is_shown_as_stalled_from_half_of_the_time_on() -> None:
    progress = SweepProgress({})
    progress.on_event(Event("started", "a", {"worker": "w", "stall_min": 60}), 0.0)
    progress.on_event(Event("step", "a", {"worker": "w", "doing": "scoring"}), 100.0)

    def activity(now: float) -> str:
        return progress.snapshot(now, {"running": 1}, 0).rows[0].activity

    assert activity(1899.0) == "starting"
    assert activity(1900.0) == "stalled: no progress for 30 min (resources.stall_min: 60)"
    progress.on_event(Event("step", "a", {"worker": "w", "doing": "waiting"}), 1901.0)
    assert activity(1902.0) == "starting"


def test_the_best_is_judged_by_validation_images_where_there_are_any():
    progress = SweepProgress({})
    progress.learn(Event("finished", "a", {"image_auroc": 0.99}))
    progress.learn(Event("finished", "b", {"image_auroc": 0.7, "validation": {"image_auroc": 0.8}}))
    progress.learn(Event("finished", "c", {"image_auroc": 0.98, "validation": {"image_auroc": 0.6}}))
    progress.learn(Event("finished", "d", {"image_auroc": 0.97}))
    snapshot = progress.snapshot(0.0, {}, 0)
    assert snapshot.best_so_far == "best so far: validation image AUROC 0.8000 (b)"


def test_a_search_never_shows_test_images():
    progress = SweepProgress({}, is_search=True)
    progress.learn(Event("finished", "a", {"image_auroc": 0.99}))
    assert progress.snapshot(0.0, {}, 0).best_so_far == ""
