"""The schema, checked by a small validator of its keywords; an unknown keyword fails the test."""

import json
import operator
import re
from pathlib import Path
from typing import Any

import pytest

from moleflow.settings.knobs import NOTES_OPTIONS, base_names, fields, short_names, version_names
from moleflow.settings.yaml_reader import parse, read_mapping
from orchestrator.sweep.json_schema import sweep_schema

SCHEMA = sweep_schema()
FILES = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int, "number": (int, float),
}  # fmt: skip
NOTES = {"description", "default", "title", "$schema", "$defs"}


def target(reference: str) -> Any:
    name = reference.removeprefix("#/$defs/").replace("%20", " ").replace("~1", "/")
    return SCHEMA["$defs"][name]


def is_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def faults(value: Any, schema: Any, where: str = "") -> list[str]:
    found: list[str] = []
    for key, rule in schema.items():
        if key in NOTES or key in ("properties", "additionalProperties"):
            continue
        if key == "$ref":
            found += faults(value, target(rule), where)
        elif key == "anyOf":
            found += [] if any(not faults(value, option, where) for option in rule) else [f"{where}: fits nothing"]
        elif key == "type":
            kinds = rule if isinstance(rule, list) else [rule]
            found += [] if any(is_type(value, kind) for kind in kinds) else [f"{where}: is no {rule}"]
        elif key == "enum":
            found += [] if value in rule else [f"{where}: not in {rule}"]
        elif key == "const":
            found += [] if value == rule else [f"{where}: not {rule}"]
        elif key == "items":
            found += (
                [f for n, item in enumerate(value) for f in faults(item, rule, f"{where}[{n}]")]
                if isinstance(value, list)
                else []
            )
        elif key == "required":
            found += [f"{where}: lacks {name}" for name in rule if name not in value]
        elif key in ("minItems", "maxItems", "minProperties"):
            size = len(value) if isinstance(value, list | dict) else rule
            found += [f"{where}: {key}"] if (size < rule if key.startswith("min") else size > rule) else []
        elif key == "pattern":
            found += [] if not isinstance(value, str) or re.search(rule, value) else [f"{where}: does not match {rule}"]
        elif key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
            fits = {
                "minimum": operator.ge,
                "exclusiveMinimum": operator.gt,
                "maximum": operator.le,
                "exclusiveMaximum": operator.lt,
            }
            found += [] if not isinstance(value, int | float) or fits[key](value, rule) else [f"{where}: {key}"]
        else:
            raise AssertionError(f"{where}: a keyword that this validator does not know: {key}")
    if isinstance(value, dict) and "properties" in schema:
        for name, inner in value.items():
            if name in schema["properties"]:
                found += faults(inner, schema["properties"][name], f"{where}.{name}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{where}: unknown {name}")
    return found


def whole(text: str) -> list[str]:
    return faults({"name": "s", **parse(text, "test")}, SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_sweep_is_valid(path: Path) -> None:
    assert faults(read_mapping(path), SCHEMA) == []


@pytest.mark.parametrize(
    "text",
    [
        "base: {extends: demo, loss: {focal_gamma: 2}, lr: 1e-3, tasks: [a, 7]}",
        "base: bases/own.yaml",
        "zip: {rank: [1, 2], lora.scaling: [alpha/rank, 0.5]}",
        "grid: {loss: {focal_gamma: [0, 1]}, version: [v1, v7]}",
        "list: [{version: v3}, {train_images: null}]",
        "random: {count: 3, knobs: {lr: {loguniform: [1e-5, 1e-3]}, rank: {integer: [1, 4]}, focal_form: {choice: [joint]}}}",
        "exclude: [{rank: '>= 3', focal_form: [joint, relative]}]\nwhen: {focal_form: {focal_gamma: '> 0'}}",
        "seeds: 3\nretries: 0\nreport: {baseline: {version: v3}}\nwithout_data: {base: efficientnet, seeds: [1]}",
        "resources: {gpus: 0.5, cpus: 2, mem_gb: 1, time_min: 5, trials_per_gpu: 2}",
    ],
)
def test_keys_that_the_loader_takes_are_valid(text: str) -> None:
    assert whole(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "grids: {}", "grid: {focal_gama: [1]}", "grid: {focal_gamma: []}", "grid: {focal_gamma: [two]}", "grid: {focal_gamma: [-1]}",
        "grid: {seed: [1]}", "grid: {focal_form: [jiont]}", "grid: {version: [v44]}", "version: v9", "base: vit", "base: {version: v3}",
        "seeds: 0", "seeds: []", "name: ../x", "resources: {gpu: 1}", "random: {knobs: {rank: {integer: [1, 2]}}}",
        "random: {count: 1, knobs: {rank: {unifrom: [1, 2]}}}", "exclude: [{}]", "when: {nothing: {rank: 1}}", "grid: {loss: {rank: [1]}}",
        "grid: {log_det: [per_patch]}", "list: [3]", "report: {baselin: {}}",
    ],
)  # fmt: skip
def test_errors_are_invalid(text: str) -> None:
    assert whole(text)


def test_every_name_of_every_knob_completes_with_its_meaning() -> None:
    offered = SCHEMA["$defs"]["axes"]["properties"]
    for name, path in {**{p: p for p in fields()}, **short_names(), **NOTES_OPTIONS}.items():
        if path == "seed":
            assert name not in offered
            continue
        definition = target(target(offered[name]["$ref"])["items"]["$ref"])
        assert definition["description"] == fields()[path].description
    assert target("value/version")["enum"] == version_names()
    assert SCHEMA["$defs"]["base"]["anyOf"][0]["enum"] == base_names()
    assert set(offered["loss"]["properties"]) == {
        path.partition(".")[2] for path in fields() if path.startswith("loss.")
    }


def test_it_is_json_and_every_reference_resolves() -> None:
    text = json.dumps(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    assert len(references) > 200
    for reference in references:
        assert isinstance(target(reference), dict)


def test_it_repeats_no_key_as_a_title() -> None:
    def titles(value: Any) -> int:
        if isinstance(value, dict):
            return isinstance(value.get("title"), str) + sum(map(titles, value.values()))
        return sum(map(titles, value)) if isinstance(value, list) else 0

    assert titles(SCHEMA) == 1, "the schema's own"
