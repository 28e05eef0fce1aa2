"""From names and layers to one checked configuration.

A *layer* is a mapping of knobs with the name of its source. A knob may be nested
(`loss: {focal_gamma: 2}`), dotted (`loss.focal_gamma: 2`), short if that is unambiguous
(`focal_gamma: 2`), or one of the update notes' option names (`center_loss_weight: 0.05`). Later
layers
win: defaults < version < base < factors < `--set`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.paths import expand_path
from moleflow.settings.yaml_reader import others, read_mapping, yaml_text
from moleflow.suggestions import hint_at

VERSIONS = Path(__file__).parents[1] / "versions"

# The notes' command-line options as {name: knob}.
NOTES_OPTIONS: dict[str, str] = {
    "center_loss_weight": "loss.center_weight",
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "task_classes": "data.tasks",
    "img_size": "data.image_size",
    "msk_size": "data.mask_size",
    "backbone_name": "backbone.model",
    "num_epochs": "training.epochs",
    "lr": "training.learning_rate",
    "num_coupling_layers": "flow.blocks",
    "clamp_alpha": "flow.clamp",
    "use_cpcf": "flow.cpcf",
    "cpcf_context_kernel": "flow.context_kernel",
    "use_spatial_lora": "lora.spatial",
    "sc_lora_grid_size": "lora.grid_size",
    "use_patch_attention": "attention.enabled",
}
# Options of the notes without a knob, as {name: what to do}.
NO_KNOB: dict[str, str] = {
    "use_focal_loss": "set loss.focal_gamma: 0 is the plain NLL",
    "cpcf_use_attention": "set flow.context to attention, conv or mean",
    "run_diagnostics": "reports are made by `moleflow-sweep report DIR`",
    "data_path": "give the images' folder with --data or MOLEFLOW_DATA",
}


@dataclass(frozen=True)
class Layer:
    """Settings as a user wrote them, and their source.

    Attributes:
        source: the file or option, for messages.
        settings: nested or dotted names and values.
    """

    source: str
    settings: Mapping[str, Any]


@cache
def fields() -> dict[str, FieldInfo]:
    """Every knob as {dotted path: field}."""

    def walk(model: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
        found: dict[str, FieldInfo] = {}
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= walk(kind, f"{prefix}{name}.")
            else:
                found[prefix + name] = field
        return found

    return walk(TrialConfig, "")


@cache
def _sections() -> frozenset[str]:
    return frozenset(path.split(".")[0] for path in fields() if "." in path)


@cache
def short_names() -> dict[str, str]:
    """{short name: dotted path} of the knobs whose last name is unique."""
    owners: dict[str, list[str]] = {}
    for path in fields():
        owners.setdefault(path.split(".")[-1], []).append(path)
    return {name: paths[0] for name, paths in owners.items() if len(paths) == 1}


def knob(name: str, source: str) -> str:
    """The dotted path of a knob.

    Args:
        name: a dotted path, a short name, or an option of the notes.
        source: the file or option that contains it, for messages.

    Raises:
        InvalidInput: no knob has that name, or several do.
    """
    bare = name.removeprefix("--").replace("-", "_")
    if bare in fields():
        return bare
    if bare in short_names():
        return short_names()[bare]
    if bare in NOTES_OPTIONS:
        return NOTES_OPTIONS[bare]
    if bare in NO_KNOB:
        raise InvalidInput(f"{source}: '{name}' is not a knob here: {NO_KNOB[bare]}")
    several = sorted(path for path in fields() if path.split(".")[-1] == bare)
    if several:
        raise InvalidInput(f"{source}: '{name}' could be any of {', '.join(several)}; write the whole path")
    near = hint_at(bare, [*fields(), *short_names(), *NOTES_OPTIONS])
    raise InvalidInput(f"{source}: unknown knob '{name}'{near or '; `moleflow-sweep knobs` lists them all'}")


def flatten_layer(layer: Layer) -> dict[str, Any]:
    """A layer's settings as {dotted path: value}, every name resolved.

    Raises:
        InvalidInput: an unknown or ambiguous name, or one knob given under two names.
    """
    flat: dict[str, Any] = {}
    names: dict[str, str] = {}

    def walk(settings: Mapping[str, Any], prefix: str) -> None:
        for key, value in settings.items():
            name = f"{prefix}{key}"
            if name in _sections():
                if not isinstance(value, Mapping):
                    raise InvalidInput(
                        f"{layer.source}: {name}: given {yaml_text(value)}, but it is a group of knobs: {name}: {{knob: value}}"
                    )
                walk(value, f"{name}.")
                continue
            path = knob(name, layer.source)
            if path in flat:
                twice = f"(as '{names[path]}' and as '{name}')"
                raise InvalidInput(f"{layer.source}: {path} is given twice {twice}; keep one of them")
            flat[path], names[path] = value, name

    walk(layer.settings, "")
    return flat


def resolve(layers: Sequence[Layer]) -> TrialConfig:
    """The configuration that the layers make; the last layer wins.

    Raises:
        InvalidInput: an unknown knob, a wrong type or value, or an impossible combination.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for path, value in flatten_layer(layer).items():
            merged[path], sources[path] = value, layer.source
    nested: dict[str, Any] = {}
    for path, value in merged.items():
        *groups, last = path.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    try:
        return TrialConfig.model_validate(nested)
    except ValidationError as error:
        raise InvalidInput(_explain(error, sources)) from None


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    """The first problem in one line: the path, the value given, the values allowed."""
    first = error.errors(include_url=False)[0]
    parts = [str(p) for p in first["loc"]]
    path = next(
        (".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in fields()), ".".join(parts)
    )
    source = f"{sources[path]}: " if path in sources else ""
    if path not in fields():
        reason: str = first["msg"].removeprefix("Value error, ")
        return f"{source}{path}: {reason}" if path else reason  # Without a path: of several groups.
    given = first["input"]
    hint = hint_at(given, choices(path)) if isinstance(given, str) else ""
    return f"{source}{path}: given {yaml_text(given)}, allowed: {allowed(path)}{hint}"


@cache
def _json_schema() -> Mapping[str, Any]:
    return TrialConfig.model_json_schema()


def _schema(path: str) -> Mapping[str, Any]:
    section, _, name = path.rpartition(".")
    schema = _json_schema()
    properties: Mapping[str, Any] = schema["properties"]
    if section:
        properties = schema["$defs"][properties[section]["$ref"].split("/")[-1]]["properties"]
    found: Mapping[str, Any] = properties[name]
    return found


def choices(path: str) -> list[str]:
    """The words among a knob's allowed values."""
    schema = _schema(path)
    options = [schema, *schema.get("anyOf", [])]
    return [
        str(v)
        for option in options
        for v in [*option.get("enum", []), *([option["const"]] if "const" in option else [])]
    ]


def allowed(path: str) -> str:
    """The values that a knob takes, as a text."""

    def one(option: Mapping[str, Any]) -> str:
        if "enum" in option:
            return " | ".join(str(v) for v in option["enum"])
        if "const" in option:
            return str(option["const"])
        kind = {
            "number": "a number",
            "integer": "a whole number",
            "string": "a text",
            "boolean": "true | false",
            "null": "null",
        }.get(option.get("type", ""), "")
        if option.get("type") == "array":
            items = option.get("items", {})
            words = {"integer": "whole numbers", "string": "names"}
            of_tasks = "anyOf" in items
            kind = "a list of " + ("names" if of_tasks else words.get(items.get("type"), "values"))
            least, most = option.get("minItems"), option.get("maxItems")
            kind += f" ({least})" if least and least == most else f" (at least {least})" if least else ""
            kind += "; a list in a name's place is one task of several classes" if of_tasks else ""
        signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
        limits = [f"{sign} {option[key]:g}" for key, sign in signs.items() if key in option]
        return f"{kind} {' and '.join(limits)}".strip()

    schema = _schema(path)
    return " | ".join(one(option) for option in schema.get("anyOf", [schema]))


def version_names() -> list[str]:
    """The names of all versions, sorted: the notes' own, v1 to v7, before the others."""
    names = [path.stem for path in VERSIONS.glob("*.yaml")]
    return sorted(names, key=lambda name: (not name.startswith("v"), name))


def version_layer(name: str, source: str) -> Layer:
    """The method knobs of a version.

    Args:
        name: the version.
        source: the file or option that names it, for messages.

    Raises:
        InvalidInput: there is no such version.
    """
    if name not in version_names():
        raise InvalidInput(
            f"{source}: unknown version '{name}'; allowed: {', '.join(version_names())}{hint_at(name, version_names())}"
        )
    settings = {k: v for k, v in read_mapping(VERSIONS / f"{name}.yaml").items() if k != "about"}
    return Layer(f"version {name}", settings | {"version": name})


@cache
def version_explanations() -> dict[str, str]:
    """Return {version: its file's first sentence, up to a colon, without the full stop}."""
    texts = {name: " ".join(str(read_mapping(VERSIONS / f"{name}.yaml")["about"]).split()) for name in version_names()}
    return {name: re.split(r"\.(?: |$)|: ", text)[0] for name, text in texts.items()}


def method_knobs() -> list[str]:
    """The knobs that at least one version file sets."""
    return _set_by([version_layer(name, "versions") for name in version_names()])


def _set_by(layers: Sequence[Layer]) -> list[str]:
    return sorted({path for layer in layers for path in flatten_layer(layer)} - {"version"})


@cache
def version_settings() -> Mapping[str, Mapping[str, Any]]:
    """{version: {dotted path: value}} of the method knobs."""
    layers = {name: version_layer(name, "versions") for name in version_names()}
    paths = _set_by([*layers.values()])
    found = {name: flatten_config(resolve([layer])) for name, layer in layers.items()}
    return {name: {path: flat[path] for path in paths} for name, flat in found.items()}


def base_layers(name: str, version: str, source: str, folder: Path | None = None) -> list[Layer]:
    """The settings of a base, after those of the base that it extends.

    Args:
        name: a name from `moleflow/versions/base/`, or the path of a YAML file, relative to
            `folder`.
        version: the version whose `per_version` settings are added.
        source: the file or option that names the base, for messages.
        folder: the folder of the file that names the base; None = the current one.

    Raises:
        InvalidInput: there is no such base, or bases extend one another in a circle.
    """
    layers: list[Layer] = []
    seen: list[str] = []
    while name:
        if name in seen:
            circle = " -> ".join([*seen, name])
            raise InvalidInput(f"{source}: the bases {circle} extend one another in a circle; remove one `extends`")
        seen.append(name)
        path = _base_path(name, source, folder)
        settings = read_mapping(path)
        per_version = settings.pop("per_version", {})
        settings.pop("about", None)
        parent = settings.pop("extends", "")
        if not isinstance(parent, str):
            raise InvalidInput(
                f"{path}: extends: given {yaml_text(parent)}, allowed: a base's name or the path of a .yaml file"
            )
        if not isinstance(per_version, dict) or not all(isinstance(v, dict) for v in per_version.values()):
            raise InvalidInput(
                f"{path}: per_version: given {yaml_text(per_version)}, allowed: {{version: {{knob: value}}}}"
            )
        for key in per_version:
            if key not in version_names():
                known = f"allowed: {', '.join(version_names())}{hint_at(key, version_names())}"
                raise InvalidInput(f"{path}: per_version: unknown version '{key}'; {known}")
        own = [Layer(f"base {name}", settings)]
        if version in per_version:
            own.append(Layer(f"base {name}, per_version.{version}", per_version[version]))
        layers = own + layers
        name, folder, source = parent, path.parent, f"{path}: extends"
    return layers


def base_names() -> list[str]:
    """The names of the bases that come with the project, sorted."""
    return sorted(path.stem for path in (VERSIONS / "base").glob("*.yaml"))


def _base_path(name: str, source: str, folder: Path | None) -> Path:
    if name in base_names():
        return VERSIONS / "base" / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = (folder or Path()) / expand_path(name, source)
        if not path.exists():
            raise InvalidInput(f"{source}: {name}: no such file{others(path)}")
        return path
    raise InvalidInput(
        f"{source}: unknown base '{name}'; allowed: {', '.join(base_names())}, or the path of a .yaml file"
        f"{hint_at(name, base_names())}"
    )
