"""Provenance of results: the commit of the code, and the versions of packages."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "FrEIA",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "pillow",
    "safetensors",
    "pydantic",
)
ROOT = Path(__file__).parents[2]
"""The checkout, or the folder of installed packages, that this package lies in."""


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the running code and whether it has changed; (None, None) outside a checkout."""
    return checkout_state(ROOT)


def checkout_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of a checkout, and whether its packages have uncommitted changes.

    None stands for what git does not tell.
    """
    # Without .git here, git would describe any repository further up, such as the user's own.
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit is None:
        return None, None
    changes = _git(root, "status", "--porcelain", "--", "moleflow", "orchestrator")
    return commit, None if changes is None else bool(changes)


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages whose code can change a digit."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def provenance_facts() -> dict[str, Any]:
    """Commit, uncommitted changes and package versions, by their names in the attempts table."""
    commit, dirty = git_state()
    return {"git_commit": commit, "git_dirty": dirty, "packages": package_versions()}


def _git(root: Path, *words: str) -> str | None:
    """The output of a git command in `root`; None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
