"""docs/reference.md is what the definitions of the loader give, whole."""

from __future__ import annotations

import re
from pathlib import Path

from moleflow.settings.knobs import fields
from orchestrator.sweep.file_schema import RandomKeys, Resources, SearchKeys, SweepFile
from orchestrator.sweep.reference import reference_page

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_page_is_made_of_the_definitions():
    assert PAGE.read_text() == reference_page() + "\n", (
        "make it anew: moleflow-sweep schema --markdown > docs/reference.md"
    )


def test_every_key_and_every_knob_has_a_row():
    rows = re.findall(r"^\| `([^`]+)` \|", reference_page(), flags=re.MULTILINE)
    nested = {"random": RandomKeys, "resources": Resources, "search": SearchKeys}
    expected = {*SweepFile.model_fields, *fields()}
    expected |= {f"{key}.{name}" for key, model in nested.items() for name in model.model_fields}
    assert expected <= set(rows)


def test_a_row_keeps_its_cells():
    """A `|` in a text would split a cell in two."""
    for line in reference_page().splitlines():
        if line.startswith("| `"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 7)
