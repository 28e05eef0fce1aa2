"""What is tried first: the base, earlier results, the notes' variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from orchestrator.search.initial_trials import BEGUN, enqueue_initial_trials

SPACE = {"focal_gamma": {"uniform": [0, 3]}, "lora_rank": {"choice": [2, 64]}}


def begun(one, near=Path()):
    count = enqueue_initial_trials(one.study, one.space, one.space.sweep.search, near)
    return count, [trial.system_attrs["fixed_params"] for trial in one.trials]


def test_the_base_comes_first_and_once(driven):
    one = driven(space=SPACE)
    assert begun(one) == (1, [{"loss.focal_gamma": 2.0, "lora.rank": "2"}])
    assert begun(one)[0] == 0
    assert begun(driven(space=SPACE))[0] == 0
    assert one.states == ["WAITING"]
    trial = one.ask()
    assert (trial.config.loss.focal_gamma, trial.config.lora.rank) == (2.0, 2)


def test_who_died_while_beginning_is_finished_by_the_next(driven, small_run):
    one = driven(space=SPACE, start_from=[str(small_run / "results" / "small")])
    one.study.enqueue_trial({"loss.focal_gamma": 2.0, "lora.rank": "2"})
    count, queue = begun(one)
    assert count == 2
    assert queue == [{"loss.focal_gamma": 2.0, "lora.rank": "2"}, {"loss.focal_gamma": 0.0, "lora.rank": "2"}]
    assert one.study.user_attrs[BEGUN]


def test_earlier_results_come_next_from_a_folder_seen_from_the_file(driven, small_run):
    one = driven(space=SPACE, start_from=["results/small"])
    count, queue = begun(one, small_run)
    assert count == 2
    assert [settings["loss.focal_gamma"] for settings in queue] == [2.0, 0.0]


def test_earlier_results_come_in_the_order_of_their_validation(driven, searched):
    """Never of their test: those that were tested are no better placed for it."""
    one = driven(
        {"seeds": 1}, space={"learning_rate": {"loguniform": [1e-5, 1]}}, start_from=["results/search"], trials=20
    )
    _, queue = begun(one, searched.folder)
    order = sorted(searched.worth, key=lambda rate: searched.worth[rate], reverse=True)
    first = one.space.base()["training.learning_rate"]
    assert [settings["training.learning_rate"] for settings in queue] == [first, *(r for r in order if r != first)]


def test_the_notes_variants_are_tried_as_far_as_the_space_has_them(driven):
    one = driven(space=SPACE, published=True, trials=50)
    count, queue = begun(one)
    assert count == len(queue) > 1
    assert any(settings.get("lora.rank") == "64" for settings in queue)
    assert all(q.keys() <= {"loss.focal_gamma", "lora.rank"} for q in queue)
    assert all(0 <= q.get("loss.focal_gamma", 0) <= 3 for q in queue)
    one.run(lambda _: 0.5)  # Optuna takes them all without a warning.


def test_no_more_is_queued_than_the_budget_has(driven):
    assert begun(driven(space=SPACE, published=True, trials=1))[0] == 1


def test_a_folder_without_results_is_a_mistake(driven, tmp_path):
    with pytest.raises(InvalidInput, match=r"search\.start_from: .*nowhere: no results there"):
        begun(driven(start_from=["nowhere"]), tmp_path)
