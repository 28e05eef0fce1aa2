"""Which training steps are a trial's own."""

from __future__ import annotations

from moleflow.settings.config import TrialConfig
from orchestrator.plan.cost_estimate import ImageCounts
from orchestrator.plan.steps_to_train import steps_to_train
from orchestrator.sweep.trial import Inputs, Trial

TASKS = ("leather", "grid", "transistor")
IMAGES = {name: ImageCounts(10, 4) for name in TASKS}


def trial(name, tasks=TASKS, **loss):
    config = TrialConfig()
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"tasks": tasks, "train_images": None, "validation_fraction": 0.0}),
            "loss": config.loss.model_copy(update=loss),
            "training": config.training.model_copy(update={"epochs": 3, "batch_size": 4, "drop_last": False}),
        }
    )
    return Trial(name, config, {}, Inputs(dict.fromkeys(TASKS, "d"), "w", "images"))


def test_the_first_through_a_stage_trains_it():
    first, same_start, other = trial("a"), trial("b", TASKS[:2]), trial("c", focal_gamma=2.0)
    assert steps_to_train([first, same_start, other], IMAGES) == {"a": 27.0, "b": 0.0, "c": 27.0}
    assert steps_to_train([first, other], IMAGES, there=[same_start]) == {"a": 9.0, "c": 27.0}


def test_of_more_epochs_only_the_added_ones():
    three = trial("a", TASKS[:1])
    training = three.config.training.model_copy(update={"schedule": "constant"})
    three, five = (
        Trial(
            name,
            three.config.model_copy(update={"training": training.model_copy(update={"epochs": n})}),
            {},
            three.inputs,
        )
        for name, n in (("a", 3), ("b", 5))
    )
    assert steps_to_train([five, three], IMAGES) == {"a": 9.0, "b": 6.0}
    assert steps_to_train([five], IMAGES) == {"b": 15.0}
