import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, canonical_json, digest, flatten_config
from moleflow.settings.knob_history import ADDED, BY_CONTENT, values_before_knob_existed
from moleflow.settings.knobs import Layer, fields, resolve, version_layer
from orchestrator.sweep.expansion import expand, trials_of
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Identities, Inputs, label, short_name, spell

TASKS = ("leather", "grid", "transistor")
INPUTS = Inputs({task: f"digest of {task}" for task in TASKS}, "weights", "images")


def config(**knobs: Any) -> TrialConfig:
    return resolve([Layer("test", knobs)])


def identity(config: TrialConfig, inputs: Inputs = INPUTS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Identities().json(config, inputs))
    return found


def own_id(config: TrialConfig, inputs: Inputs = INPUTS) -> str:
    """The id by its definition: all settings, with contents for paths, without added knobs.

    Knobs that decide how files are read are left out, as contents stand for them.
    """
    settings = config.model_dump() | {"data_digests": [inputs.data[task] for task in config.data.tasks]}
    settings["backbone"]["weights"] = inputs.weights
    for group, names in BY_CONTENT.items():
        settings[group] = {name: of for name, of in settings[group].items() if name not in names}
    for group, added in ADDED.items():
        settings[group] = {name: of for name, of in settings[group].items() if name not in added or of != added[name]}
    if not config.bank.enabled:
        settings["bank"] = {}  # A version has no bank.
    settings = {name: of for name, of in settings.items() if of != {}}  # Groups of added knobs alone.
    return digest(settings)[:12]


def test_an_id_is_pinned() -> None:
    # Results are found by their ids. An added knob belongs in `moleflow.settings.knob_history`.
    assert own_id(config()) == "6c412a173d78"


@pytest.mark.parametrize(
    ("version", "knobs", "recorded"),
    [
        ("v3", {}, "e2599c4c4a25"),
        ("v7", {}, "3ece0362f816"),
        ("v3", {"validation_fraction": 0.2, "validation_seed": 3, "seed": 2}, "4e6790111a4a"),
    ],
)
def test_an_added_knob_changes_no_recorded_id_at_its_default(
    version: str, knobs: dict[str, Any], recorded: str
) -> None:
    layers = [version_layer(version, "test"), Layer("test", knobs)]
    for found in (resolve(layers), resolve([*layers, Layer("said", values_before_knob_existed())])):
        assert own_id(found) == Identities().of(found, INPUTS) == recorded


def test_an_added_knob_changes_the_id_at_any_other_value() -> None:
    for knobs in ({}, {"evaluate": "validation"}, {"validation_anomalies": "real"}, {"validation_real_share": 0.4}):
        found = config(validation_fraction=0.2, **knobs)
        assert Identities().of(found, INPUTS) == own_id(found)
        assert identity(found)["data"].keys() & ADDED["data"].keys() == knobs.keys()
    assert own_id(config(validation_fraction=0.2, evaluate="test")) != own_id(config(validation_fraction=0.2))


def test_knobs_of_a_bank_are_no_part_of_the_id_of_a_version() -> None:
    plain = Identities().of(resolve([version_layer("v3", "test")]), INPUTS)
    with_knobs = resolve([version_layer("v3", "test"), Layer("test", {"bank.patches": 5, "bank.pick": "coreset"})])
    assert Identities().of(with_knobs, INPUTS) == plain == "e2599c4c4a25"


def test_an_id_has_twelve_hex_digits() -> None:
    assert len(own_id(config())) == 12
    assert set(own_id(config())) <= set("0123456789abcdef")


OTHER_VALUES: dict[str, Any] = {
    "data.tasks": ["leather", "grid"],
    "backbone.layers": [2, 3],
    "adapter.hidden": 64,
    "lora.scaling": 0.5,
    "data.evaluate": "test",
    "data.validation_anomalies": "real",
    "data.value_range": "content",
}


def _other(path: str) -> Any:
    """A value of this knob that is not its default."""
    default = fields()[path].default
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    if isinstance(default, bool):
        return not default
    for value in (default + 0.01 if isinstance(default, float) else None, 3, 16, 0.5, "other"):
        try:
            changed = flatten_config(config(**{path: value}))[path]
        except InvalidInput:
            continue
        if changed != default:
            return value
    choices: Any = fields()[path].annotation
    return next(value for value in choices.__args__ if value != default)


READS = {f"{group}.{name}" for group, names in BY_CONTENT.items() for name in names}


@pytest.mark.parametrize("path", [p for p in fields() if p not in {"backbone.weights", "router.kind"} | READS])
def test_every_knob_is_a_part_of_the_id(path: str) -> None:
    held_out: dict[str, Any] = {"validation_fraction": 0.2} if path == "data.validation_anomalies" else {}
    held_out |= {"bank.enabled": True} if path in ("bank.patches", "bank.pick") else {}
    assert own_id(config(**held_out, **{path: _other(path)})) != own_id(config(**held_out))


@pytest.mark.parametrize("knobs", [{"layout": "visa"}, {"normal_names": ["good", "ok"]}])
def test_how_a_folder_is_read_is_no_part_of_the_id(knobs: dict[str, Any]) -> None:
    """The contents found are: a renamed folder and a knob that names it make one trial."""
    found = config(**knobs)
    assert Identities().of(found, INPUTS) == own_id(found) == own_id(config()) == "6c412a173d78"


def test_the_contents_of_files_are_a_part_of_the_id_and_paths_are_not() -> None:
    here = own_id(config(weights="/here/weights.safetensors"))
    assert here == own_id(config(weights="/there/weights.safetensors"))
    assert here != own_id(config(weights="/here/weights.safetensors"), replace(INPUTS, weights="others"))
    changed = replace(INPUTS, data={**INPUTS.data, "grid": "changed"})
    assert own_id(config()) != own_id(config(), changed)
    assert own_id(config()) == own_id(config(), replace(INPUTS, dataset="another name"))
    assert own_id(config()) == own_id(config(), replace(INPUTS, data={**INPUTS.data, "unused": "x"}))


def test_data_digests_stand_in_task_order() -> None:
    turned = config(tasks=["grid", "leather"])
    assert identity(turned)["data_digests"] == ["digest of grid", "digest of leather"]


def test_the_identity_is_plain_and_whole() -> None:
    found = identity(config())
    assert Identities().json(config(), INPUTS) == canonical_json(found)
    assert set(flatten_config(found)) == {*fields(), "data_digests"} - values_before_knob_existed().keys()
    assert found["backbone"]["weights"] == "weights"


def test_a_missing_task_is_named() -> None:
    with pytest.raises(InvalidInput, match="no images of 'wood' were found; there are: leather, grid, transistor"):
        Identities().of(config(tasks=["grid", "wood"]), INPUTS)


KNOBS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from(["v1", "v7", 'ä "quoted"']),
        "seed": st.integers(0, 2**40),
        "focal_gamma": st.floats(0, 10, allow_nan=False),
        "learning_rate": st.floats(1e-8, 1),
        "tasks": st.lists(st.sampled_from(TASKS), min_size=1, unique=True),
        "weights": st.sampled_from(["random", "a.pt", "b.pt"]),
        "layers": st.lists(st.integers(0, 11), min_size=1, max_size=3),
        "gradient_clip": st.one_of(st.none(), st.floats(0.1, 1)),
        "film": st.booleans(),
        "evaluate": st.sampled_from(["all", "test"]),
        "validation_real_share": st.sampled_from([0.3, 0.5]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KNOBS, st.sampled_from([INPUTS, replace(INPUTS, weights="ü")])), min_size=1, max_size=6))
def test_the_fast_ids_are_the_ids(cases: list[tuple[dict[str, Any], Inputs]]) -> None:
    identities = Identities()
    for knobs, inputs in cases:
        assert identities.of(config(**knobs), inputs) == own_id(config(**knobs), inputs)


def test_the_ids_of_a_sweep_are_the_ids() -> None:
    document = {
        "name": "s", "version": "v7", "seeds": 2,
        "grid": {"focal_gamma": [0, 1.5], "version": ["v1", "v7"], "tasks": [["grid"], ["grid", "leather"]], "rank": [2, 3]},
    }  # fmt: skip
    sweep = make_sweep(document, "s.yaml", Path(), data_root=Path("/images"))
    found = trials_of(sweep, expand(sweep).variants, lambda _: INPUTS)
    assert [trial.id for trial in found] == [own_id(trial.config) for trial in found]
    assert len(found) == 32


def test_trials_can_be_sent_to_another_process() -> None:
    sweep = make_sweep(
        {"name": "s", "version": "v7", "grid": {"rank": [2]}}, "s.yaml", Path(), data_root=Path("/images")
    )
    [trial] = trials_of(sweep, expand(sweep).variants, lambda _: INPUTS)
    assert pickle.loads(pickle.dumps(trial)) == trial


def test_short_names() -> None:
    assert short_name("loss.focal_gamma") == "focal_gamma"
    assert short_name("loss.log_det") == "loss.log_det"
    assert short_name("version") == "version"


def test_labels() -> None:
    assert label({"version": "v7", "loss.focal_gamma": 2.0, "seed": 0}) == "v7 focal_gamma=2 seed=0"
    assert label({"loss.focal_gamma": 2.0, "version": "v7"}) == "v7 focal_gamma=2"
    assert label({}) == "base"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2"),
        (0.05, "0.05"),
        (1e-5, "1e-05"),
        (True, "true"),
        (None, "null"),
        (("a", "b"), "a,b"),
        (3, "3"),
        ("joint", "joint"),
    ],
)
def test_values_are_spelled_as_one_types_them(value: object, text: str) -> None:
    assert spell(value) == text


def test_a_list_of_one_class_has_the_id_of_its_name_and_a_joint_task_another() -> None:
    single = [config(tasks=tasks) for tasks in (["leather", "grid"], [["leather"], ["grid"]], [["leather"], "grid"])]
    assert len({Identities().of(found, INPUTS) for found in single}) == 1
    joint = config(tasks=[["leather", "grid"]])
    assert Identities().of(joint, INPUTS) not in {Identities().of(found, INPUTS) for found in single}
    assert identity(joint)["data"]["tasks"] == [["leather", "grid"]]
    assert identity(joint)["data_digests"] == ["digest of leather", "digest of grid"]
    assert label({"data.tasks": joint.data.tasks}) == "tasks=leather+grid"
