"""Which code and which packages made a result."""

from __future__ import annotations

import re
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
_PASSWORD = re.compile(r"(://[^:@/\s]*:)[^@\s]*@")


def without_passwords(text: str) -> str:
    """A text in which the passwords of URLs are for nobody to read."""
    return _PASSWORD.sub(r"\1***@", text)


@cache
def git_state() -> tuple[str | None, bool | None]:
    """(commit, whether anything is uncommitted) of the checkout that this package runs from; (None, None) outside one."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None, None
    changed = _git("status", "--porcelain", "--", "moleflow", "orchestrator")
    return commit, None if changed is None else bool(changed)


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages whose code can change a digit."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(*words: str) -> str | None:
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance_facts() -> dict[str, Any]:
    """Both, as the attempts table names them."""
    commit, dirty = git_state()
    return {"git_commit": commit, "git_dirty": dirty, "packages": package_versions()}
