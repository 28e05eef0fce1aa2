"""The JSON Schema of sweep files, with which editors complete and check them (draft 2020-12)."""

from __future__ import annotations

from typing import Any

from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import NOTES_OPTIONS, base_names, fields, short_names, version_names
from orchestrator.sweep.file_schema import SweepFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def sweep_schema() -> Schema:
    """The schema of a whole sweep file.

    What may stand behind a knob is defined once a place (`value`, `axis`, `condition`, `draw`) and offered under
    every name that the knob has: dotted, short, the notes' option, and nested in its group. The loader checks more: that
    no knob is given twice, that axes which move together are equally long, and whatever spans several keys.
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
    places = (("Random", "knobs", "draws"), ("Report", "baseline", "values"), ("WithoutData", "base", "base"))
    for model, key, place in places:
        definitions[model]["properties"][key] = _described(_ref(place), definitions[model]["properties"][key])
    return {"$schema": DIALECT, "title": "moleflow-sweep: a sweep file", **_without_titles(schema)}


def _knob_definitions() -> dict[str, Schema]:
    whole = TrialConfig.model_json_schema()

    def definition(path: str) -> Schema:
        group, _, name = path.rpartition(".")
        place = whole["$defs"][whole["properties"][group]["$ref"].rpartition("/")[2]] if group else whole
        found: Schema = place["properties"][name]
        return found

    found = {path: definition(path) for path in fields() if path != "seed"}
    found["version"] = {"enum": version_names(), "description": found["version"]["description"]}
    # The loader takes a class folder's number for its name.
    found["data.tasks"] = {**found["data.tasks"], "items": {"type": ["string", "integer"]}}
    return found


def _ref(*names: str) -> Schema:
    return {"$ref": "#/$defs/" + "~1".join(names).replace(" ", "%20")}


def _names() -> dict[str, str]:
    """{name: dotted path} of every name that a knob has outside its group."""
    names = {path: path for path in fields()} | short_names() | NOTES_OPTIONS
    return {name: path for name, path in names.items() if path != "seed"}


def _mapping(place: str) -> Schema:
    """A mapping whose keys are knobs, each holding what its `place` allows."""
    properties = {name: _ref(place, path) for name, path in _names().items()}
    for path in fields():
        group, _, name = path.partition(".")
        if name:
            inside = properties.setdefault(group, {"type": "object", "properties": {}, "additionalProperties": False})
            inside["properties"][name] = _ref(place, path)
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
    """`new` with the description and the default of `old`."""
    return {key: old[key] for key in ("description", "default") if key in old} | new


def _without_titles(value: Any) -> Any:
    """Without pydantic's titles, which only repeat the keys. A property may be called `title`: then it is a mapping."""
    if isinstance(value, dict):
        return {k: _without_titles(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in value] if isinstance(value, list) else value
