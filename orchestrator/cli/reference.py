"""The commands schema and knobs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from moleflow.errors import InvalidInput


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page: every key and every knob.")] = False,
) -> None:
    """Print the JSON Schema of sweep files, for editors that complete YAML.

    For instance:

      moleflow-sweep schema > sweep.schema.json
      moleflow-sweep schema --markdown
    """
    from orchestrator.sweep.json_schema import sweep_schema
    from orchestrator.sweep.reference import reference_page

    print(reference_page() if markdown else json.dumps(sweep_schema(), indent=1))


def knobs(
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="WORD", help="Only knobs with this word in the name or the meaning.", show_default=False
        ),
    ] = None,
) -> None:
    """List every knob: path, short name, allowed values, default and meaning.

    For instance:

      moleflow-sweep knobs focal
    """
    from moleflow.settings.knobs import NOTES_OPTIONS, allowed, fields
    from moleflow.suggestions import hint_at
    from orchestrator.sweep.trial import short_name, spell

    asked = (word or "").lower()
    chosen = {path: field for path, field in fields().items() if asked in f"{path} {field.description}".lower()}
    options = {option: path for option, path in NOTES_OPTIONS.items() if asked in option or path in chosen}
    if not chosen and not options:
        near = hint_at(asked, fields()) or "; without a word, all are listed"
        raise InvalidInput(f"knobs: no name and no meaning has '{word}'{near}")
    for path, field in chosen.items():
        name = short_name(path)
        print(f"{path}" + (f"  (short: {name})" if name != path else ""))
        print(f"    {allowed(path)}; default {spell(field.default)}; {field.description}")
    if options:
        print("\nOption names of the update notes that are knobs here:")
    for option, path in options.items():
        print(f"    --{option}: {path}")
