import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moleflow.errors import InvalidInput
from moleflow.settings.config import Phase, TrainingKnobs, TrialConfig, canonical_json, digest, flatten_config, reach
from moleflow.settings.knob_history import values_before_knob_existed
from moleflow.settings.knobs import Layer, fields, resolve, version_layer


def config(version: str | None = None, **knobs: Any) -> TrialConfig:
    return resolve([*([version_layer(version, "test")] if version else []), Layer("test", knobs)])


# A configuration in which nothing is switched off, so that every knob can reach something.
LIVE: dict[str, Any] = {
    "weights": "random", "projection": 64, "validation_fraction": 0.1, "focal_gamma": 1, "lora.task0": True, "adapter.task0": True,
}  # fmt: skip


def reached(path: str, value: Any, **live: Any) -> set[str]:
    """The phases (and positions) that see the change of one knob."""
    before, after = config(**LIVE | live), resolve([Layer("live", LIVE | live), Layer("change", {path: value})])
    phases: dict[str, tuple[Phase, int]] = {
        "features": ("features", 0), "task 0": ("training", 0), "task 1": ("training", 1), "scoring": ("scoring", 0),
    }  # fmt: skip
    return {name for name, (phase, k) in phases.items() if reach(before, phase, k) != reach(after, phase, k)}


@pytest.mark.parametrize(
    ("path", "value", "live", "positions"),
    [
        ("lora.scaling", "alpha/rank", {"lora.task0": False}, {"task 1"}),
        ("lora.rank", 8, {"lora.task0": False}, {"task 1"}),
        ("adapter.norm", "layer", {"adapter.task0": False}, {"task 1"}),
        ("adapter.norm", "layer", {"adapter.enabled": False}, set()),
        ("adapter.task0_identity", 0.5, {}, {"task 0"}),
        ("training.warmup_epochs", 1, {}, {"task 1"}),
        ("loss.focal_gamma", 2.0, {}, {"task 0", "task 1"}),
    ],
)
def test_a_setting_reaches_the_tasks_that_use_it(
    path: str, value: Any, live: dict[str, Any], positions: set[str]
) -> None:
    assert reached(path, value, **live) == positions


def test_scaling_by_rule_and_by_number_reach_alike() -> None:
    rule, number = config("v2"), config("v2", **{"lora.scaling": 1 / 32})
    assert rule.lora.effective_scaling == number.lora.effective_scaling == 0.03125
    assert config("v1").lora.effective_scaling == 0.015625
    assert [reach(rule, "training", k) for k in (0, 1)] == [reach(number, "training", k) for k in (0, 1)]


def test_v5_and_v7_without_their_loss_train_as_v3_does() -> None:
    v3 = config("v3")
    for same in (config("v7", focal_gamma=0), config("v5", center_weight=0)):
        assert [reach(same, "training", k) for k in (0, 1)] == [reach(v3, "training", k) for k in (0, 1)]
    assert reach(config("v7"), "training", 0) != reach(v3, "training", 0)


def test_v1_and_v2_share_nothing_of_task_0() -> None:
    # v2 gives task 0 an expert; with v1's choice in this, the scaling reaches task 1 only.
    v1, v2 = config("v1"), config("v2", **{"lora.task0": False})
    assert reach(v1, "training", 0) == reach(v2, "training", 0)
    assert reach(v1, "training", 1) != reach(v2, "training", 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 3},
        {"loss": {"focal_gamma": "2"}},
        {"loss": {"focal_gamma": True}},
        {"loss": {"focal_gamma": float("nan")}},
        {"training": {"epochs": 1.5}},
        {"training": {"drop_last": 1}},
        {"data": {"tasks": []}},
        {"data": {"tasks": ["a", "a"]}},
        {"data": {"tasks": ["7", 7]}},
        {"data": {"tasks": [True]}},
        {"data": {"tasks": "leather"}},
        {"data": {"evaluate": "validation"}},
        {"data": {"validation_anomalies": "real"}},
        {"data": {"validation_fraction": 0.2, "validation_real_share": 1.0}},
        {"backbone": {"layers": []}},
        {"backbone": {"neighbourhood": 2}},
        {"lora": {"scaling": "alpha"}},
        {"router": {"shrinkage": 1.5}},
    ],
)
def test_wrong_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrialConfig.model_validate(bad)


@pytest.mark.parametrize(
    ("knob", "value"),
    [("evaluate", "validation"), ("validation_anomalies", "synthetic"), ("validation_anomalies", "real")],
)
def test_what_needs_held_out_images_says_so(knob: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config(**{knob: value})
    said = f"given {value} with data.validation_fraction 0, which holds no image out; set a share above 0, such as 0.2"
    assert str(caught.value) == f"data: {knob}: {said}"
    assert getattr(config(**{knob: value, "validation_fraction": 0.2}).data, knob) == value


def test_added_knobs_are_knobs_with_the_default_that_trials_had_before() -> None:
    assert values_before_knob_existed().items() <= flatten_config(TrialConfig()).items()


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().loss.focal_gamma = 1.0  # type: ignore[misc]


def test_task_names_may_be_numbers() -> None:
    assert config(tasks=["leather", 7]).data.tasks == ("leather", "7")


@pytest.mark.parametrize(
    ("version", "knobs", "parts"),
    [
        ("v3", {"weights": "random"}, ["the backbone's weights are random"]),
        (
            "v1",
            {},
            ["adapter's residual MLP is dead as published", "weight decay alone moves its weights", "the state digest"],
        ),
        ("v3", {"lora.init": "zero"}, ["lora.init zero", "neither ever gets a gradient", "only the task bias learns"]),
        ("v4", {"context_from": "all"}, ["context_from all", "not a likelihood"]),
        (
            "v3",
            {"validation_fraction": 0.2, "validation_anomalies": "synthetic"},
            ["validation anomalies are synthetic", "generated", "none is real"],
        ),
        ("v6", {}, ["patch attention is not invertible"]),
        ("decoflow", {}, ["the mixer is not invertible", "the density is one of the mixed features"]),
        ("v5", {"center_on": "features"}, ["center_on features", "dead", "no gradient reaches the flow"]),
        ("v7", {}, ["focal_form joint", "NLL <= 0 get weight 0"]),
    ],
)
def test_each_flag_is_raised_alone(version: str, knobs: dict[str, Any], parts: list[str]) -> None:
    (flag,) = config(version, **knobs).flags()
    for part in parts:
        assert part in flag


def test_a_flag_is_raised_only_where_its_setting_reaches_anything() -> None:
    assert "weight decay" not in " ".join(config("v1", weight_decay=0.0).flags())
    for version, knobs in (
        ("v3", {}),
        ("v4", {}),
        ("v5", {}),
        ("v1", {"output_init": "random"}),
        ("v7", {"focal_form": "relative"}),
        ("v3", {"context_from": "all"}),
        ("v3", {"validation_fraction": 0.2, "validation_anomalies": "synthetic", "evaluate": "test"}),
        ("v3", {"center_on": "features"}),
        ("v3", {"attention.hidden": 64}),
        ("v3", {"focal_form": "joint"}),
        ("v5", {"center_on": "features", "center_weight": 0.0}),
        ("v1", {"adapter.enabled": False}),
        ("decoflow", {"mixer.kernel": None}),
        ("decoflow", {"mixer.kernel": None, "lora.enabled": False, "lora.init": "zero"}),
        ("decoflow", {"mixer.kernel": None, "adapter.gate": "raw", "gate_init": 0.0}),
    ):
        assert config(version, **knobs).flags() == []


def test_flatten_names_every_knob() -> None:
    assert set(flatten_config(config())) == set(fields())
    assert flatten_config({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_the_canonical_spelling_is_pinned() -> None:
    value = {"b": [1, 2.0, None, True, "ä"], "a": {"d": 1e-5, "c": "x y"}}
    assert canonical_json(value) == '{"a":{"c":"x y","d":1e-05},"b":[1,2.0,null,true,"ä"]}'
    assert digest(value) == hashlib.sha256(canonical_json(value).encode()).hexdigest()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_canonical_json_keeps_the_value_and_forgets_the_order(value: dict[str, Any]) -> None:
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize("knob", ["learning_rate", "focal_gamma", "lora.scaling", "gate_init", "flow.clamp"])
@pytest.mark.parametrize("value", [1e31, 1.7e308])
def test_a_number_that_32_bits_cannot_hold_is_refused(knob: str, value: float) -> None:
    assert config(**{knob: 1e30})
    with pytest.raises(InvalidInput, match=r"given .*e\+(31|308), allowed: numbers from -1e\+30 to 1e\+30"):
        config(**{knob: value})


@pytest.mark.parametrize("knob", ["flow.hidden_ratio", "auxiliary.hidden_share", "scoring.smoothing"])
def test_a_number_that_decides_memory_is_bounded(knob: str) -> None:
    assert config(**{knob: 1024})
    with pytest.raises(InvalidInput, match=r"given 1000000\.?0?, allowed: a number >=? 0 and <= (1024|2048)"):
        config(**{knob: 1_000_000})


def test_lanes_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile: given true with lanes 4, which train uncompiled"):
        TrainingKnobs(compile=True, lanes=4)
    assert TrainingKnobs(compile=True, lanes=1).compile
