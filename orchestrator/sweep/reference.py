"""The page docs/reference.md: every key and knob, from the definitions that the loader checks."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from moleflow.settings.knobs import NO_KNOB, NOTES_OPTIONS, allowed, fields, short_names, version_settings
from orchestrator.sweep.file_schema import SweepFile, models_in
from orchestrator.sweep.trial import spell

HEAD = """# Reference: every key and every knob

`moleflow-sweep schema --markdown` prints this page from the definitions that the loader checks.
[sweep-file.md](sweep-file.md) explains the keys.

## Keys of a sweep file

| key | allowed | default |
|---|---|---|"""
KNOBS = """
## Knobs

A knob may be written by its short name. The column "versions" lists the versions that change
its default.

| knob | short | allowed | default | versions | meaning |
|---|---|---|---|---|---|"""
OPTIONS = """
## The notes' option names

Options of the notes' scripts that have another name here, or none. The others are short names
above.

| option of the notes | here |
|---|---|"""


def reference_page() -> str:
    """Return the page as Markdown."""
    keys = [f"| {' | '.join(map(_cell, row))} |" for row in _keys(SweepFile, "")]
    knobs = [f"| {' | '.join(map(_cell, row))} |" for row in _knobs()]
    options = [f"| `--{option}` | `{path}` |" for option, path in NOTES_OPTIONS.items()]
    options += [f"| `--{option}` | no knob: {instead} |" for option, instead in NO_KNOB.items()]
    return "\n".join([HEAD, *keys, KNOBS, *knobs, OPTIONS, *options])


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, allowed, default) of a mapping's keys, each followed by the keys nested in it."""
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else _default(field.default)
        yield f"`{prefix}{name}`", field.description or "", default
        for nested in models_in(field.annotation):
            yield from _keys(nested, f"{prefix}{name}.")


def _knobs() -> Iterator[tuple[str, ...]]:
    short = {path: name for name, path in short_names().items()}
    versions = version_settings()
    for path, field in fields().items():
        set_by = {version: settings.get(path, field.default) for version, settings in versions.items()}
        setters = [f"{version}: {spell(value)}" for version, value in set_by.items() if value != field.default]
        name = f"`{short[path]}`" if short.get(path, path) != path else ""
        default, meaning = spell(field.default), field.description or ""
        yield f"`{path}`", name, allowed(path), default, ", ".join(setters), meaning


def _default(value: object) -> str:
    if isinstance(value, BaseModel) or value in ([], {}, ""):
        return ""
    return ", ".join(f"{key}: {spell(of)}" for key, of in value.items()) if isinstance(value, dict) else spell(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
