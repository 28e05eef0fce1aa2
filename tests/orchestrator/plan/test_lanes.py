"""Groups of trials that train in lanes, and the trials that wait for them."""

from __future__ import annotations

from pathlib import Path

from orchestrator.execution.backend import SourceSignal
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.plan.lanes import with_lane_mates
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.records.events import Event
from orchestrator.sweep import expansion
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Inputs, Trial

TASKS = ["leather", "grid"]
INPUTS = Inputs({task: f"digest of {task}" for task in TASKS}, "weights", "generated")


def _trials(grid: dict[str, list[object]], seeds: int = 1, lanes: int = 2, **more: object) -> list[Trial]:
    base = {"extends": "demo", "data": {"tasks": TASKS}, "training": {"lanes": lanes}}
    document = {"name": "lanes", "version": "v7", "base": base, "grid": grid, "seeds": seeds, **more}
    sweep = make_sweep(document, "the test", Path(), data_root=None, environment={})
    return with_lane_mates(expansion.trials_of(sweep, expansion.expand(sweep).variants, lambda _: INPUTS))


def _groups(trials: list[Trial]) -> list[set[str]]:
    groups: list[set[str]] = []
    for trial in trials:
        group = {trial.label, *(mate.label for mate in trial.lane_mates)}
        if group not in groups:
            groups.append(group)
    return groups


def _task(trial: Trial, task: int) -> Event:
    return Event("task", trial.id, {"task": task, "tasks": 2})


def test_variants_of_one_seed_that_differ_in_the_loss_fill_the_lanes_in_order() -> None:
    trials = _trials({"focal_gamma": [0, 1, 2]}, seeds=2)
    assert _groups(trials) == [
        {"focal_gamma=0 seed=0", "focal_gamma=1 seed=0"},
        {"focal_gamma=0 seed=1", "focal_gamma=1 seed=1"},
        {"focal_gamma=2 seed=0"},
        {"focal_gamma=2 seed=1"},
    ]


def test_variants_of_other_shapes_or_images_get_lanes_of_their_own() -> None:
    for knob, values in (
        ("lora.rank", [2, 4]),
        ("flow.blocks", [2, 4]),
        ("batch_size", [8, 16]),
        ("image_size", [64, 96]),
    ):
        trials = _trials({knob: values})
        assert [trial.lane_mates for trial in trials] == [(), ()], knob
    for knob, values in (("lora.scaling", [0.5, 1.0]), ("learning_rate", [0.1, 0.2]), ("epochs", [1, 2])):
        first, second = _trials({knob: values})
        assert ([mate.id for mate in first.lane_mates], [mate.id for mate in second.lane_mates]) == (
            [second.id],
            [first.id],
        )


def test_trials_that_train_the_same_stages_take_one_lane() -> None:
    trials = _trials({"image_score": ["max", "top_k"], "focal_gamma": [1, 2]})
    gammas = [
        (trial.config.loss.focal_gamma, [mate.config.loss.focal_gamma for mate in trial.lane_mates]) for trial in trials
    ]
    assert sorted(gammas) == [(1.0, [2.0]), (1.0, [2.0]), (2.0, [1.0]), (2.0, [1.0])]


def test_the_plan_says_how_lanes_are_filled(place, command, edit):
    edit(grid={"focal_gamma": [0, 1, 2]}, base={"extends": "base.yaml", "training": {"lanes": 2}})
    assert "lanes:    4 groups with 8 lanes, 2 of them empty" in command("plan", "sweep.yaml").out
    edit(
        grid={"image_score": ["max", "top_k"], "focal_gamma": [0, 1]},
        base={"extends": "base.yaml", "training.lanes": 2},
    )
    assert "lanes:    2 groups with 4 lanes, all filled" in command("plan", "sweep.yaml").out
    edit()
    assert "lanes:" not in command("plan", "sweep.yaml").out


def test_without_lanes_no_trial_has_mates() -> None:
    assert [trial.lane_mates for trial in _trials({"focal_gamma": [0, 1]}, lanes=1)] == [(), ()]


def test_mates_wait_until_the_last_task_of_their_leader() -> None:
    trials = _trials({"focal_gamma": [0, 1]}, seeds=2)
    first, other = (trial for trial in trials if "focal_gamma=0" in trial.label)
    search = PlannedTrials(trials, stage_tree(trials))
    assert [search.ask(), search.ask(), search.ask()] == [first, other, SourceSignal.WAIT]
    search.on_event(first, _task(first, 0))
    assert search.ask() is SourceSignal.WAIT
    search.on_event(first, _task(first, 1))
    followed = search.ask()
    assert isinstance(followed, Trial)
    assert [mate.id for mate in followed.lane_mates] == [first.id]
    assert search.ask() is SourceSignal.WAIT
    search.tell(other, Event("failed", other.id))
    assert isinstance(search.ask(), Trial)


def test_a_mate_follows_its_leader_where_all_trials_are_queued_at_once() -> None:
    first, second = _trials({"focal_gamma": [0, 1]})
    tree = stage_tree([first, second])
    assert (tree.after(first.id), tree.after(second.id)) == ((), (first.id,))


def test_a_sweep_in_lanes_trains_every_stage_once_and_has_the_digits_of_any_backend(place, command, edit, digits):
    edit(base={"extends": "base.yaml", "training": {"lanes": 2}})
    assert command("run", "sweep.yaml", "--backend", "inline", "--out", "one").code == 0
    trained = len(list((place / "cache" / "stages").rglob("stage.json")))
    for stage in (place / "cache" / "stages").rglob("stage.json"):
        stage.unlink()
    assert command("run", "sweep.yaml", "--backend", "local", "--workers", "2", "--out", "two").code == 0
    assert len(list((place / "cache" / "stages").rglob("stage.json"))) == trained
    assert digits(place / "one") == digits(place / "two")


def test_a_search_refuses_lanes(place, command, edit):
    search = {"space": {"focal_gamma": {"choice": [0, 1]}}, "trials": 2}
    edit(grid=None, report=None, search=search, base={"extends": "base.yaml", "training": {"lanes": 2}})
    ended = command("run", "sweep.yaml", "--backend", "inline")
    assert ended.code == 2
    assert "training.lanes: a search proposes one configuration after another" in ended.err
