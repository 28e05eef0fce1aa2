"""Tasks of one class or several, as `data.tasks` lists them."""

from __future__ import annotations

from typing import Any

import pytest

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve
from moleflow.settings.task_list import (
    classes_in_order,
    classes_of_task,
    has_joint_task,
    sequence_text,
    task_name,
)


def config(tasks: Any) -> TrialConfig:
    return resolve([Layer("test", {"tasks": tasks})])


def test_names_and_classes() -> None:
    tasks = (("bolt", "nut"), "seal")
    assert [classes_of_task(task) for task in tasks] == [("bolt", "nut"), ("seal",)]
    assert [task_name(task) for task in tasks] == ["bolt+nut", "seal"]
    assert classes_in_order(tasks) == ("bolt", "nut", "seal")
    assert sequence_text([["bolt", "nut"], "seal"]) == "bolt+nut -> seal"
    assert has_joint_task(tasks)
    assert not has_joint_task(("bolt", ("nut",)))


def test_a_list_of_one_class_is_its_name() -> None:
    assert config([["bolt"], ["nut", 7]]).data.tasks == ("bolt", ("nut", "7"))
    assert config([["bolt"], ["nut"]]) == config(["bolt", "nut"])
    assert config([["bolt", "nut"], "seal"]).data.classes == ("bolt", "nut", "seal")


@pytest.mark.parametrize("tasks", [[["bolt", "nut"], "bolt"], [["bolt", "bolt"]], ["nut", ["bolt", "nut"]]])
def test_a_class_belongs_to_one_task(tasks: Any) -> None:
    with pytest.raises(InvalidInput, match=r"tasks: '(bolt|nut)' is given twice; name each class once") as refused:
        config(tasks)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("tasks", [[[], "bolt"], [["bolt", True]], [[["bolt", "nut"]]], "bolt", [["bolt", None]], []])
def test_other_lists_are_refused_in_one_line(tasks: Any) -> None:
    with pytest.raises(InvalidInput, match=r"test: data.tasks: given .*, allowed: a list of names") as refused:
        config(tasks)
    assert "\n" not in str(refused.value)


def test_a_configuration_survives_json() -> None:
    joint = config([["bolt", "nut"], "seal"])
    assert TrialConfig.model_validate_json(joint.model_dump_json()) == joint
    assert TrialConfig.model_validate(joint.model_dump(mode="json")) == joint
