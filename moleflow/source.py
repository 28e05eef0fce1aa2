"""What code this is, and what it stands on."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path
from types import MappingProxyType

from moleflow.errors import CodeChanged

_ROOT = Path(__file__).parent
# As they are when this module is imported, with the others: whatever is edited later is not the code that runs.
_FILES = MappingProxyType(
    {
        path.relative_to(_ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(_ROOT.rglob("*.py"))
        if path.is_file()
    }
)


@cache
def code_digest(*names: str) -> str:
    """SHA-256 over the Python source of `moleflow`, or over some of its files: results of other code are stale.

    Args:
        names: of files, relative to the package; none = all of them.
    """
    total = hashlib.sha256()
    for name in names or _FILES:
        total.update(f"{name}\0{_FILES[name]}\0".encode())
    return total.hexdigest()


def require_unchanged(*names: str) -> None:
    """Compare files that were imported late with what the digests of this process were taken of.

    Raises:
        CodeChanged: one of them was edited in between.
    """
    for name in names:
        path = _ROOT / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != _FILES[name]:
            raise CodeChanged(f"{path}: the code changed while this process ran; start again")


@cache
def version(package: str) -> str:
    """The version of an installed package; looking it up takes milliseconds, and a package does not change under a process."""
    return importlib.metadata.version(package)
