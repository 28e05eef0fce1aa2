"""What events add up to: states aside, who runs, how fast, the best so far."""

from __future__ import annotations

from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.snapshot import ProgressSnapshot, duration_text, summary_line
from orchestrator.monitor.speed import LATEST_TRIALS, PAUSE_S, Speed
from orchestrator.records.events import Event


def test_the_best_is_the_best_that_finished():
    heard = SweepProgress({"a": "first", "b": "second"})
    for now, (trial, auroc) in enumerate((("a", 0.75), ("b", None), ("b", 0.5))):
        heard.hear(Event("started", trial), now)
        heard.hear(Event("finished", trial, {"image_auroc": auroc}), now + 0.5)
    scene = heard.scene(9.0, {"finished": 2}, 0)
    assert (scene.best, scene.over, scene.left_s) == (("first", 0.75), True, 0.0)
    assert summary_line(scene) == "2 finished  1,200 trials/h  best so far: image AUROC 0.7500 (first)"


def test_who_runs_is_told_by_whoever_knows_better():
    heard = SweepProgress({"a": "first", "b": "second"})
    heard.hear(Event("started", "a", {"worker": "local-7-0"}), 0.0)
    assert heard.workers == ["local-7-0"]
    assert [line.label for line in heard.scene(1.0, {}, 0).lines] == ["first"]
    assert [line.label for line in heard.scene(1.0, {}, 0, alive=["b"]).lines] == ["second"]


def test_a_trial_that_is_tried_again_waits_again():
    heard = SweepProgress({}, {"a": 10.0, "b": 20.0})
    heard.learn(Event("finished", "b", {"seconds": 20.0}))
    assert heard.scene(0.0, {}, 2).left_s == 30.0
    heard.hear(Event("started", "a"), 0.0)
    heard.hear(Event("failed", "a"), 1.0, over=False)
    assert heard.scene(1.0, {}, 2).left_s == 30.0
    heard.hear(Event("failed", "a"), 1.0)
    assert heard.scene(1.0, {}, 1).left_s == 20.0


def test_speeds_are_those_of_the_latest_and_begin_anew_after_a_pause():
    speed = Speed()
    assert (speed.trials_an_hour(5.0), speed.epochs_a_second(5.0)) == (None, None)
    speed.note(0.0)
    for n in range(1, 2 * LATEST_TRIALS):
        speed.note(10.0 * n, trials=1, epochs=5)
    now = 10.0 * (2 * LATEST_TRIALS - 1)
    assert (speed.trials_an_hour(now), speed.epochs_a_second(now)) == (360.0, 0.5)
    assert speed.trials_an_hour(now + 200) == 180.0
    speed.note(now + 2 * PAUSE_S, trials=1)
    assert speed.trials_an_hour(now + 2 * PAUSE_S + 36) == 100.0


def test_times_are_spelled_in_two_units():
    assert [duration_text(s) for s in (0, 59.6, 200, 7500)] == ["0 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]
    assert ProgressSnapshot({}, over=True).eta == ""


def test_a_line_says_what_a_trial_is_at_also_where_nothing_is_told():
    heard = SweepProgress({"a": "first"})
    facts = {"task": 0, "tasks": 2, "task_name": "bolt", "epochs": 2, "loss": 0.5}
    seen = []
    for now, (kind, told) in enumerate(
        (
            ("started", {}),
            ("features", {"done": 3, "total": 9}),
            ("features", {"done": 9, "total": 9}),
            ("epoch", facts | {"epoch": 1}),
            ("epoch", facts | {"epoch": 2}),
            ("features", {"done": 4, "total": 4}),
            ("task", {"task": 0, "tasks": 2, "task_name": "bolt"}),
            ("features", {"done": 9, "total": 9}),
        )
    ):
        heard.hear(Event(kind, "a", told), now)
        seen.append(heard.scene(now, {}, 0).lines[0].told)
    assert seen == [
        "starting",
        "features 3/9",
        "training",
        "bolt  epoch 1/2  loss 0.5",
        "bolt  scoring",
        "scoring",
        "bolt  done",
        "training",
    ]
