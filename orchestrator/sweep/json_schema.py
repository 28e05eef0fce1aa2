"""The JSON Schema of sweep files (draft 2020-12), by which editors complete and check them."""

from __future__ import annotations

from typing import Any

from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import NOTES_OPTIONS, base_names, fields, short_names, version_names
from orchestrator.sweep.file_schema import RandomKeys, ReportKeys, SweepFile, WithoutData

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def sweep_schema() -> Schema:
    """Return the schema of a sweep file.

    Each knob has one definition for each use (`value`, `axis`, `condition`, `draw`). Every name of
    the knob refers to it: dotted, short, the notes' option, and nested in its group. The loader
    checks more than the schema, such as lists of a zip with different lengths.
    """
    schema = SweepFile.model_json_schema()
    definitions = schema["$defs"]
    for path, definition in _knob_definitions().items():
        definitions[f"value/{path}"] = definition
        definitions[f"axis/{path}"] = _axis(path)
        definitions[f"condition/{path}"] = {"anyOf": [_ref("value", path), _axis(path), _ref("comparison")]}
        definitions[f"draw/{path}"] = _draw(path)
    definitions["comparison"] = {"type": "string", "pattern": r"^(>=|<=|>|<|!=)\s*.+$"}
    definitions["base"] = {
        "description": "a base that comes with the project, or the path of a .yaml file",
        "anyOf": [{"enum": base_names()}, {"type": "string", "pattern": r"\.ya?ml$"}],
    }
    definitions["values"] = _mapping("value")
    definitions["axes"] = _mapping("axis")
    definitions["condition"] = _mapping("condition") | {"minProperties": 1}
    definitions["draws"] = _mapping("draw") | {"minProperties": 1}
    definitions["base settings"] = _mapping("value")
    definitions["base settings"]["properties"]["extends"] = _ref("base")
    del definitions["base settings"]["properties"]["version"]

    properties = schema["properties"]
    properties["version"] |= {"anyOf": [_ref("value", "version"), {"type": "null"}]}
    properties["base"]["anyOf"] = [_ref("base"), _ref("base settings")]
    for key in ("grid", "zip"):
        properties[key] = _described(_ref("axes"), properties[key])
    properties["list"]["items"] = _ref("values")
    properties["exclude"]["items"] = _ref("condition")
    named = {name: _ref("condition") for name in _names()}
    properties["when"] = _described(
        {"type": "object", "properties": named, "additionalProperties": False}, properties["when"]
    )
    for model, key, use in (
        (RandomKeys, "knobs", "draws"),
        (ReportKeys, "baseline", "values"),
        (WithoutData, "base", "base"),
    ):
        of_model = definitions[model.__name__]["properties"]
        of_model[key] = _described(_ref(use), of_model[key])
    of_tasks = definitions[WithoutData.__name__]["properties"]
    of_tasks["tasks"] = _described(_ref("axis", "data.tasks"), of_tasks["tasks"])
    return {"$schema": DIALECT, "title": "moleflow-sweep: a sweep file", **_without_titles(schema)}


def _knob_definitions() -> dict[str, Schema]:
    whole = TrialConfig.model_json_schema()
    definitions: dict[str, Schema] = {}
    for path in fields():
        group, _, name = path.rpartition(".")
        model = whole["$defs"][whole["properties"][group]["$ref"].rpartition("/")[2]] if group else whole
        definitions[path] = model["properties"][name]
    del definitions["seed"]
    definitions["version"] = {"enum": version_names(), "description": definitions["version"]["description"]}
    # YAML reads a class folder such as 7 as a number, which the loader takes for its name.
    one_class: Schema = {"type": ["string", "integer"]}
    one_task: Schema = {"anyOf": [one_class, {"type": "array", "minItems": 1, "items": one_class}]}
    definitions["data.tasks"] = {**definitions["data.tasks"], "items": one_task}
    return definitions


def _ref(*names: str) -> Schema:
    # A JSON pointer writes the `/` of a name as ~1, and a URI a space as %20.
    return {"$ref": "#/$defs/" + "~1".join(names).replace(" ", "%20")}


def _names() -> dict[str, str]:
    """Return {name: dotted path} of every name that a knob has outside its group."""
    names = {path: path for path in fields()} | short_names() | NOTES_OPTIONS
    return {name: path for name, path in names.items() if path != "seed"}


def _mapping(use: str) -> Schema:
    """Return the schema of a mapping from knobs to values of one use."""
    properties = {name: _ref(use, path) for name, path in _names().items()}
    for path in fields():
        group, _, name = path.partition(".")
        if name:
            inside = properties.setdefault(group, {"type": "object", "properties": {}, "additionalProperties": False})
            inside["properties"][name] = _ref(use, path)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _axis(path: str) -> Schema:
    return {"type": "array", "minItems": 1, "items": _ref("value", path)}


def _draw(path: str) -> Schema:
    def one(kind: str, values: Schema) -> Schema:
        return {"type": "object", "properties": {kind: values}, "required": [kind], "additionalProperties": False}

    def ends(kind: str) -> Schema:
        return {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}

    ranges = [one("uniform", ends("number")), one("loguniform", ends("number")), one("integer", ends("integer"))]
    return {"anyOf": [one("choice", _axis(path)), *ranges]}


def _described(new: Schema, old: Schema) -> Schema:
    """Return `new` with the description and the default of `old`."""
    return {key: old[key] for key in ("description", "default") if key in old} | new


def _without_titles(value: Any) -> Any:
    """Remove pydantic's titles, which repeat the keys; a property named `title` stays."""
    if isinstance(value, dict):
        return {k: _without_titles(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in value] if isinstance(value, list) else value
