"""Where things go: results, cache, and the checkout that the code runs from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moleflow.cache.eviction import VARIABLE, budget_of
from moleflow.errors import InvalidInput
from orchestrator.doctor.finding import Finding
from orchestrator.host.provenance import git_state

LITTLE_GB = 2.0


def free_space(name: str, place: Path, option: str) -> Finding:
    """Whether a folder can be written, or made, and how much room its disk has.

    Args:
        name: of the finding.
        place: the folder.
        option: what gives another one.

    """
    there = place.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return Finding(name, "lacks", f"{place}: {there} is a file", f"{option} FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "lacks", f"{place}: {there} cannot be written", f"{option} FOLDER")
    free = shutil.disk_usage(there).free / 1e9
    said = f"{place}: {free:.1f} GB free"
    if free < LITTLE_GB:
        return Finding(name, "note", f"{said}, which is little", f"free some, or {option} FOLDER")
    return Finding(name, "ok", said)


def cache_budget(cache: Path) -> Finding:
    """What the cache may hold."""
    try:
        size = budget_of(cache)
    except InvalidInput as error:
        return Finding("budget", "lacks", str(error), "moleflow-sweep cache --budget 50GB")
    if size is None:
        said = "none: the cache grows as long as the disk holds it"
        return Finding("budget", "note", said, f"moleflow-sweep cache --budget 50GB, or {VARIABLE}")
    return Finding("budget", "ok", f"{size / 1e9:.1f} GB" + (f" ({VARIABLE})" if os.environ.get(VARIABLE) else ""))


def find_checkout() -> Finding:
    """The commit that results are marked with."""
    commit, changed = git_state()
    if commit is None:
        return Finding(
            "code", "note", "not a git checkout, or no git: results carry a digest of the code, and no commit"
        )
    if changed:
        said = f"git {commit[:12]} with uncommitted changes, which results say"
        return Finding("code", "note", said, "git status")
    return Finding("code", "ok", f"git {commit[:12]}")
