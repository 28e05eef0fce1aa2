"""The initial trials: the base, earlier results, the notes' variants."""

from __future__ import annotations

from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from orchestrator.search.initial_trials import QUEUED, enqueue_initial_trials

SPACE = {"focal_gamma": {"uniform": [0, 3]}, "lora_rank": {"choice": [2, 64]}}


def begun(one, near=Path()):
    count = enqueue_initial_trials(one.study, one.space, near)
    return count, [trial.system_attrs["fixed_params"] for trial in one.trials]


def test_the_base_comes_first_and_once(driven):
    one = driven(space=SPACE)
    assert begun(one) == (1, [{"loss.focal_gamma": 2.0, "lora.rank": "2"}])
    assert begun(one)[0] == 0
    assert begun(driven(space=SPACE))[0] == 0
    assert one.states == ["WAITING"]
    trial = one.ask()
    assert (trial.config.loss.focal_gamma, trial.config.lora.rank) == (2.0, 2)


RATE = "training.learning_rate"
RATES = {"learning_rate": {"loguniform": [1e-5, 1]}}


def test_a_driver_completes_the_queue_that_a_dead_one_left_half_full(driven, add, stored):
    add({}, settings={RATE: 0.5}, split="validation")
    folder = stored().folder
    one = driven(space=RATES, start_from=[str(folder)])
    base = one.space.parameters(one.space.base())
    one.study.enqueue_trial(base)
    assert begun(one) == (2, [base, {RATE: 0.5}])
    assert one.study.user_attrs[QUEUED]


@pytest.mark.parametrize(("direction", "order"), [("maximize", [0.03, 0.02, 0.01]), ("minimize", [0.01, 0.02, 0.03])])
def test_earlier_results_come_by_their_mean_validation_metric(driven, add, stored, direction, order):
    """A folder's relative path starts from the given folder. Test metrics must not count."""
    add({}, 0, image=(0.9, 0.9), settings={RATE: 0.01}, split="validation")
    add({}, 1, image=(0.1, 0.1), settings={RATE: 0.01}, split="validation")  # Their mean is 0.5.
    add({}, 0, image=(0.6, 0.6), settings={RATE: 0.02}, split="validation")
    add({}, 0, image=(0.7, 0.7), settings={RATE: 0.03}, split="validation")
    add({}, 0, image=(1.0, 1.0), settings={RATE: 0.04}, split="test")
    folder = stored().folder
    one = driven(space=RATES, start_from=[folder.name], trials=20, objectives={"image_auroc": direction})
    _, queue = begun(one, folder.parent)
    assert [parameters[RATE] for parameters in queue[1:]] == [*order, 0.04]


def test_a_folder_gives_at_most_ten_configurations(driven, add, stored):
    for number in range(1, 12):
        add({}, image=(number / 20, number / 20), settings={RATE: number / 100}, split="validation")
    one = driven(space=RATES, start_from=[str(stored().folder)], trials=50)
    _, queue = begun(one)
    assert [parameters[RATE] for parameters in queue[1:]] == [number / 100 for number in range(11, 1, -1)]


def test_the_notes_variants_are_tried_with_the_knobs_of_the_space(driven):
    one = driven(space=SPACE, published=True, trials=50)
    count, queue = begun(one)
    assert count == len(queue) > 1
    assert any(settings.get("lora.rank") == "64" for settings in queue)
    assert all(q.keys() <= {"loss.focal_gamma", "lora.rank"} for q in queue)
    assert all(0 <= q.get("loss.focal_gamma", 0) <= 3 for q in queue)
    one.run(lambda _: 0.5)  # Optuna takes them all without a warning.


def test_no_more_is_queued_than_the_budget_has(driven):
    assert begun(driven(space=SPACE, published=True, trials=1))[0] == 1


def test_a_folder_without_results_is_an_error(driven, tmp_path):
    with pytest.raises(InvalidInput, match=r"search\.start_from: .*nowhere: no results there"):
        begun(driven(start_from=["nowhere"]), tmp_path)
