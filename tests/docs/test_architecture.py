"""docs/architecture.md is a true map: it names every room and every module, and nothing that is not
there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("moleflow", "orchestrator")


def section(start: str, end: str) -> str:
    return PAGE[PAGE.index(start) : PAGE.index(end)]


def test_the_map_names_every_module() -> None:
    """The drawings of the embedded images count as one entry, `data/embedded/`."""
    listed = {
        "moleflow": section("### moleflow/", "### orchestrator/"),
        "orchestrator": section("### orchestrator/", "## Invariants"),
    }
    for package in PACKAGES:
        modules = {
            path.relative_to(ROOT / package).as_posix()
            for path in (ROOT / package).rglob("*.py")
            if not path.name.startswith("__") and "embedded" not in path.parts and path.parent != ROOT / package
        }
        assert set(re.findall(r"`([a-z_/]+/[a-z_0-9]+\.py)`", listed[package])) == modules


def test_the_map_names_every_room() -> None:
    tables = section("## The rooms", "## The files")
    named = {
        name.rstrip("/") for row in re.findall(r"^\| (.*?) \|", tables, re.M) for name in re.findall(r"`(.*?)`", row)
    }
    rooms = {
        path.name
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("__")
        and (path.suffix == ".py" or any(path.rglob("*.yaml")) or any(path.rglob("*.py")))
    }
    assert named == rooms
