"""The commands schema and knobs."""

from __future__ import annotations

import json
from typing import Annotated

import typer


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


def knobs() -> None:
    """List every knob: path, short name, allowed values, default and meaning.

    For instance:

      moleflow-sweep knobs | grep -A1 gamma
    """
    from moleflow.settings.knobs import NOTES_OPTIONS, allowed, fields
    from orchestrator.sweep.trial import short_name, spell

    for path, field in fields().items():
        name = short_name(path)
        print(f"{path}" + (f"  (short: {name})" if name != path else ""))
        print(f"    {allowed(path)}; default {spell(field.default)}; {field.description}")
    print("\nOption names of the update notes that are knobs here:")
    for option, path in NOTES_OPTIONS.items():
        print(f"    --{option}: {path}")
