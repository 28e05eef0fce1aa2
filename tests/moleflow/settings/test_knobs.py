import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from moleflow.errors import InvalidInput
from moleflow.settings.config import MOST_FLOAT, digest, flatten_config
from moleflow.settings.knobs import (
    NO_KNOB,
    NOTES_OPTIONS,
    Layer,
    allowed,
    base_layers,
    base_names,
    choices,
    fields,
    flatten_layer,
    knob,
    resolve,
    short_names,
    version_layer,
    version_names,
)
from moleflow.settings.yaml_reader import parse

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "reference.md"
# Every option that the update notes show in a command.
OF_THE_NOTES = (
    "use_cpcf", "use_spatial_lora", "sc_lora_grid_size", "cpcf_context_kernel", "cpcf_use_attention", "center_loss_weight",
    "use_patch_attention", "use_focal_loss", "focal_gamma", "run_diagnostics",
)  # fmt: skip


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as error:
        resolve([Layer("here", settings)])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_knob_has_several_names() -> None:
    for name in (
        "loss.center_weight",
        "center_weight",
        "center_loss_weight",
        "--center_loss_weight",
        "--center-loss-weight",
    ):
        assert knob(name, "s") == "loss.center_weight"


def test_short_names_are_unambiguous() -> None:
    ambiguous = {path for path in fields() if short_names().get(path.rpartition(".")[2]) != path}
    assert ambiguous == {
        "lora.task0", "adapter.task0", "loss.log_det", "scoring.log_det", "adapter.enabled", "attention.enabled", "adapter.hidden",
        "attention.hidden", "lora.enabled", "bank.enabled",
    }  # fmt: skip
    with pytest.raises(InvalidInput, match=r"'log_det' could be any of loss\.log_det, scoring\.log_det"):
        knob("log_det", "s")


def test_no_notes_option_hides_a_knob() -> None:
    assert not set(NOTES_OPTIONS) & (set(fields()) | set(short_names()))
    assert set(NOTES_OPTIONS.values()) <= set(fields())


@pytest.mark.parametrize("option", OF_THE_NOTES)
def test_every_option_of_the_notes_is_answered(option: str) -> None:
    for spelled in (option, f"--{option}"):
        try:
            assert knob(spelled, "s") in fields()
        except InvalidInput as error:
            assert "is not a knob here" in str(error)  # noqa: PT017


def test_the_documentation_has_the_counterpart_of_every_option() -> None:
    rows = dict(re.findall(r"^\| `--(\w+)` \| (.+) \|$", DOCUMENTATION.read_text(), flags=re.MULTILINE))
    expected = {name: f"`{path}`" for name, path in NOTES_OPTIONS.items()}
    expected |= {name: f"no knob: {what}" for name, what in NO_KNOB.items()}
    assert rows == expected
    assert set(OF_THE_NOTES) <= set(rows) | short_names().keys()


def test_later_layers_win() -> None:
    config = resolve(
        [version_layer("v7", "s"), Layer("a", {"focal_gamma": 1, "rank": 4}), Layer("b", {"loss": {"focal_gamma": 3}})]
    )
    assert (config.version, config.loss.focal_gamma, config.lora.rank) == ("v7", 3.0, 4)
    assert config.adapter.film is True


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"focal_gama": 2}, ["here: unknown knob 'focal_gama'", "Did you mean 'focal_gamma'?"]),
        ({"loss": {"focal_gama": 2}}, ["'loss.focal_gama'", "Did you mean 'loss.focal_gamma'?"]),
        ({"loss": 2}, ["loss", "given 2", "a group of knobs"]),
        ({"focal_gamma": "two"}, ["here: loss.focal_gamma: given 'two', allowed: a number >= 0"]),
        (
            {"focal_form": "jiont"},
            ["loss.focal_form: given 'jiont', allowed: joint | per_dim | relative", "Did you mean 'joint'?"],
        ),
        ({"layers": [1, "a"]}, ["backbone.layers: given 'a'", "a list of whole numbers (at least 1)"]),
        ({"tasks": []}, ["data.tasks: given ", "(at least 1)"]),
        ({"tasks": ["a", "a"]}, ["data", "'a' is given twice; name each class once"]),
        ({"lora.scaling": "alpha/rnk"}, ["alpha/(2*rank) | alpha/rank | a number > 0", "Did you mean 'alpha/rank'?"]),
        ({"train_images": 1}, ["a whole number >= 2 | null"]),
        ({"focal_gamma": 1, "loss": {"focal_gamma": 1}}, ["loss.focal_gamma is given twice"]),
        ({"data_path": "x"}, ["is not a knob here", "--data"]),
    ],
)
def test_mistakes_get_one_clear_line(settings: dict[str, Any], parts: list[str]) -> None:
    message = refused(settings)
    for part in parts:
        assert part in message, message


def test_a_fault_of_several_groups_is_one_clear_line() -> None:
    message = refused({"lora.enabled": False, "adapter.enabled": False})
    assert message.startswith("lora.enabled: given false without adapters and auxiliary couplings")
    assert resolve([Layer("here", {"lora.enabled": False})]).lora.enabled is False
    assert resolve([Layer("here", NOTHING_TRAINS_LATER | {"couplings": 1})]).auxiliary.couplings == 1


def test_the_layer_of_the_wrong_value_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^second: training\.epochs: given 0"):
        resolve([Layer("first", {"epochs": 3}), Layer("second", {"epochs": 0})])


def test_the_versions_of_this_release() -> None:
    assert version_names() == ["v1", "v2", "v3", "v4", "v4.1", "v5", "v6", "v7", "decoflow"]
    with pytest.raises(InvalidInput, match=r"unknown version 'v33'.*Did you mean 'v3'"):
        version_layer("v33", "s")


@pytest.mark.parametrize("name", version_names())
def test_a_version_sets_method_knobs_only_and_all_of_the_same(name: str) -> None:
    flat = flatten_layer(version_layer(name, "s"))
    assert flat.pop("version") == name
    own = {"mixer", "auxiliary"} if name == "decoflow" else set()
    assert {path.partition(".")[0] for path in flat} == {"lora", "adapter", "attention", "flow", "loss"} | own
    assert {
        "lora.scaling",
        "lora.task0",
        "adapter.task0",
        "adapter.norm",
        "loss.focal_gamma",
        "loss.center_weight",
    } <= set(flat)
    assert flatten_config(resolve([version_layer(name, "s")]))["version"] == name


def test_what_builds_on_what() -> None:
    def method(name: str) -> dict[str, Any]:
        flat = flatten_config(resolve([version_layer(name, "s")]))
        return {path: value for path, value in flat.items() if path != "version"}

    def changed(old: str, new: str) -> set[str]:
        return {path for path, value in method(new).items() if value != method(old)[path]}

    assert changed("v1", "v2") == {"lora.scaling", "lora.task0"}
    assert changed("v2", "v3") == {
        f"adapter.{name}" for name in ("task0", "norm", "film", "gate", "gate_init", "hidden")
    }
    assert changed("v3", "v5") == {"loss.center_weight"}
    assert changed("v3", "v7") == {"loss.focal_gamma"}


@pytest.mark.parametrize("base", base_names())
@pytest.mark.parametrize("version", version_names())
def test_every_base_stands_under_every_version(base: str, version: str) -> None:
    layers = base_layers(base, version, "s")
    config = resolve([version_layer(version, "s"), *layers])
    assert config.version == version
    # A base sets no method knob. Otherwise a table over versions would compare bases too.
    if base == "published" or (base, version) == ("decoflow_visa", "decoflow"):
        return  # These ask for the authors' own settings of a version, in so many words.
    method = {path: value for path, value in flatten_config(config).items() if path.startswith(("lora.", "adapter."))}
    assert method == {
        path: value for path, value in flatten_config(resolve([version_layer(version, "s")])).items() if path in method
    }


def test_published_differs_between_versions_and_vit_b16_does_not() -> None:
    sizes = {v: resolve(base_layers("published", v, "s")).data.image_size for v in version_names()}
    others = dict.fromkeys(("decoflow", "v1", "v4", "v4.1", "v5", "v6", "v7"), 224)
    assert sizes == {"v2": 518, "v3": 518, **others}
    assert len({flatten_config(resolve(base_layers("vit_b16", v, "s"))).__repr__() for v in version_names()}) == 1


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return name


def test_bases_extend_one_another(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "low.yaml", "extends: demo\nrank: 3\nalpha: 3\nper_version: {v7: {alpha: 7}}")
    name = write(tmp_path, "top.yaml", "extends: deep/low.yaml\nrank: 4\nabout: a test")
    config = resolve(base_layers(name, "v7", "s", tmp_path))
    assert (config.lora.rank, config.lora.alpha) == (4, 7.0)
    assert config.backbone.model == "efficientnet_lite0"
    assert resolve(base_layers(name, "v3", "s", tmp_path)).lora.alpha == 3.0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("extends: own.yaml", "extend one another in a circle"),
        ("extends: 3", "extends: given 3"),
        ("extends: dmo", "unknown base 'dmo'; allowed: .*Did you mean 'demo'"),
        ("extends: missing.yaml", "no such file"),
        ("per_version: 3", "per_version: given 3"),
        ("per_version: {v7: 3}", "per_version: given"),
        ("per_version: {v77: {rank: 3}}", "unknown version 'v77'; allowed: v1, .*Did you mean 'v7'"),
    ],
)
def test_mistakes_in_a_base(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InvalidInput, match=part):
        base_layers(write(tmp_path, "own.yaml", text), "v7", "s", tmp_path)


def tasks() -> st.SearchStrategy[list[Any]]:
    """Lists of tasks with one class or more, no class twice."""
    names = st.lists(st.text("abc", min_size=1), min_size=1, max_size=6, unique=True)
    return names.flatmap(lambda of: st.integers(0, len(of)).map(lambda n: [*of[:n], of[n:]] if len(of) - n > 1 else of))


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """The values that a JSON schema of a knob allows."""
    if "anyOf" in schema:
        return st.one_of([values(option) for option in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:  # data.value_range: two rising numbers.
        return st.lists(st.integers(0, 65_535), min_size=2, max_size=2, unique=True).map(sorted)
    if schema["type"] == "array":
        if "anyOf" in schema["items"]:
            return tasks()
        return st.lists(values(schema["items"]), min_size=schema["minItems"], max_size=4, unique=True)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    ends = {"exclude_min": "exclusiveMinimum" in schema, "exclude_max": "exclusiveMaximum" in schema}
    return {
        "boolean": st.booleans(),
        "null": st.none(),
        "string": st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1),
        "integer": st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high),
        # YAML's -0.0 is read as 0.0.
        "number": st.floats(
            -MOST_FLOAT if low is None else low, MOST_FLOAT if high is None else high, allow_nan=False, **ends
        ).map(lambda value: value + 0.0),
    }[schema["type"]]


HELD_OUT = ("data.evaluate", "data.validation_anomalies")
NOTHING_TRAINS_LATER = {"lora.enabled": False, "adapter.enabled": False}
ANY_SETTINGS = st.fixed_dictionaries(
    {},
    optional={path: values(TypeAdapter(field.rebuild_annotation()).json_schema()) for path, field in fields().items()},
).map(
    # Scoring of validation images needs held-out ones, and each task something to train. Lanes are
    # not compiled.
    lambda chosen: {
        path: value
        for path, value in chosen.items()
        if (chosen.get("data.validation_fraction") or path not in HELD_OUT)
        and not (path == "lora.enabled" and NOTHING_TRAINS_LATER.items() <= chosen.items())
        and not (path == "training.lanes" and chosen.get("training.compile"))
    }
)


@settings(max_examples=60, deadline=None)
@given(version=st.sampled_from(version_names()), chosen=ANY_SETTINGS)
def test_what_was_resolved_resolves_to_itself(version: str, chosen: dict[str, Any]) -> None:
    config = resolve([version_layer(version, "s"), Layer("s", chosen)])
    dumped = config.model_dump(mode="json")
    read = parse(json.dumps(dumped), "s")
    for again in (dumped, config.model_dump(), flatten_config(config), read):
        assert resolve([version_layer("v1", "s"), Layer("again", again)]) == config
    assert digest(read) == digest(dumped)
    for path, value in chosen.items():
        assert flatten_config(dumped)[path] == value


@pytest.mark.parametrize("path", list(fields()))
def test_every_knob_says_what_it_is_and_what_it_may_be(path: str) -> None:
    assert fields()[path].description
    assert allowed(path)


def test_choices() -> None:
    assert choices("lora.scaling") == ["alpha/(2*rank)", "alpha/rank"]
    assert choices("backbone.neighbourhood") == ["1", "3", "5"]
    assert choices("training.epochs") == []
