"""The checks before a search starts: its images, its weights and a sample of its space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.host.command_line import arguments
from orchestrator.sweep.sweep import Sweep


@pytest.fixture
def prepared(place: Path) -> Callable[[Sweep], Prepared]:
    return lambda sweep: prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))


def test_every_weight_that_a_choice_may_read_is_known_before_it_is_chosen(sweep_of, prepared) -> None:
    models = ["efficientnet_lite0", "resnet18", "mobilenetv3_small_100"]
    space = {"backbone.model": {"choice": models}, "learning_rate": {"loguniform": [1e-4, 1e-1]}}
    found = prepared(sweep_of(space=space))
    base = found.sample[0].config
    for model in models:
        backbone = base.backbone.model_copy(update={"model": model})
        assert found.inputs.of(base.model_copy(update={"backbone": backbone})).weights


def test_the_impossible_is_left_out_of_the_sample_unless_nothing_else_is_there(sweep_of, prepared) -> None:
    some = {"validation_fraction": {"choice": [0.0, 0.3]}}
    sample = prepared(sweep_of(space=some)).sample
    assert {trial.config.data.validation_fraction for trial in sample} == {0.3}
    none = {"validation_fraction": {"choice": [0.0]}}
    with pytest.raises(InvalidInput, match=r"none of 16 random configurations is possible.*validation_fraction 0"):
        prepared(sweep_of(space=none))


def test_a_password_in_the_command_is_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://someone:secret@host/db"
    monkeypatch.setattr("sys.argv", ["moleflow-sweep", "s.yaml", "--storage", url])
    assert arguments() == ("s.yaml", "--storage", "postgresql+psycopg://someone:***@host/db")
