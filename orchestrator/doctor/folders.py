"""Checks of the folders for results and cache, and of the checkout that the code runs from."""

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
    """Check that a folder can be written or created, and that its disk has space.

    Args:
        name: the name of the finding.
        place: the folder.
        option: the option that gives another folder.

    """
    nearest = place.absolute()  # The folder itself, or the nearest one above that exists.
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return Finding(name, "lacks", f"{place}: {nearest} is a file", f"{option} FOLDER")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(name, "lacks", f"{place}: {nearest} cannot be written", f"{option} FOLDER")
    free_gb = shutil.disk_usage(nearest).free / 1e9
    text = f"{place}: {free_gb:.1f} GB free"
    if free_gb < LITTLE_GB:
        return Finding(name, "note", f"{text}, which is little", f"free some, or {option} FOLDER")
    return Finding(name, "ok", text)


def cache_budget(cache: Path) -> Finding:
    """Check the budget of the cache."""
    try:
        size = budget_of(cache)
    except InvalidInput as error:
        return Finding("budget", "lacks", str(error), "moleflow-sweep cache --budget 50GB")
    if size is None:
        text = "none: the cache grows until the disk is full"
        return Finding("budget", "note", text, f"moleflow-sweep cache --budget 50GB, or {VARIABLE}")
    return Finding("budget", "ok", f"{size / 1e9:.1f} GB" + (f" ({VARIABLE})" if os.environ.get(VARIABLE) else ""))


def find_checkout() -> Finding:
    """Check the git commit that results are marked with."""
    commit, changed = git_state()
    if commit is None:
        text = "not a git checkout, or no git: results are marked with the code digest, but with no commit"
        return Finding("code", "note", text)
    if changed:
        text = f"git {commit[:12]} with uncommitted changes; results are marked so"
        return Finding("code", "note", text, "git status")
    return Finding("code", "ok", f"git {commit[:12]}")
