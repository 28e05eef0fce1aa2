"""Digests of the code behind a result, by phase.

A digest covers what a phase executes: the syntax trees of its modules and of everything they import
from this package. It ignores what cannot change a number: docstrings, comments, layout, descriptions
of knobs, and the names and places of modules. So prose and moves leave features and stages valid;
a changed constant or operator never does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from moleflow.errors import CodeChanged

Phase = Literal["defects", "features", "training", "scoring", "rows"]

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).parent
# The modules in which a phase starts; what they import belongs to it.
_ENTRY = MappingProxyType(
    {
        "defects": f"{_PACKAGE}.data.synthetic",
        "features": f"{_PACKAGE}.features.extract",
        "training": f"{_PACKAGE}.training.train_task",
        "scoring": f"{_PACKAGE}.training.evaluation",
        "rows": f"{_PACKAGE}.training.sequence",
    }
)


def _module_name(path: Path) -> str:
    parts = (_PACKAGE, *path.relative_to(_ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Read when this module is imported, together with the others: an edit made later is not the code that runs.
_SOURCES = MappingProxyType(
    {_module_name(path): path.read_bytes() for path in sorted(_ROOT.rglob("*.py")) if path.is_file()}
)
_PATHS = MappingProxyType({_module_name(path): path for path in sorted(_ROOT.rglob("*.py"))})


@cache
def code_digest(phase: Phase = "rows") -> str:
    """SHA-256, in hex, of the code that a phase executes.

    Args:
        phase: defects (generated defects for validation), features (image file to stored feature), training (features to trained state),
            scoring (trained state to scores and metrics), or rows (a whole sequence, all three).
    """
    return _digest(_ENTRY[phase])


def require_unchanged(*modules: str) -> None:
    """Compare modules that were imported late with the code that this process digested.

    Args:
        modules: dotted names.

    Raises:
        CodeChanged: one of them was edited in between.
    """
    for name in modules:
        path = _PATHS[name]
        if not path.exists() or path.read_bytes() != _SOURCES[name]:
            raise CodeChanged(f"{path}: the code changed while this process ran; start again")


@cache
def version(package: str) -> str:
    """The version of an installed package.

    Cached: a look-up takes milliseconds, and a package does not change under a process.
    """
    return importlib.metadata.version(package)


@cache
def _digest(module: str) -> str:
    """The digest of a module and of all it imports from this package (a Merkle tree)."""
    tree = ast.parse(_SOURCES[module])
    modules, names = {}, []
    for node in _imports(tree):
        for alias in node.names:
            source = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            target, local = f"{source}{alias.name}", alias.asname or alias.name
            if target in _SOURCES:
                modules[local] = _digest(target)
            elif source.rstrip(".") in _SOURCES:
                names.append([local, alias.name, _digest(source.rstrip("."))])
            else:
                names.append([local, target, ""])  # Another package: its version is in the keys.
    parts: list[str] = []
    _spell(tree, modules, parts)
    # Sorted: the order of imports follows the modules' names.
    return hashlib.sha256(repr((sorted(names), sorted(modules.values()), "".join(parts))).encode()).hexdigest()


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below `node` that is executed, which those for a type checker are not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        else:
            yield from _imports(child)


def _spell(node: ast.AST, modules: dict[str, str], parts: list[str]) -> None:
    """Append a canonical text of a tree to `parts`.

    `ast.dump` would do, but its text differs between versions of Python: absent fields and empty
    lists are left out here.
    """
    if isinstance(node, ast.Import | ast.ImportFrom) or _is_prose(node):
        return
    parts.append(f"({type(node).__name__}")
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or name == "ctx":
            continue
        parts.append(f" {name}=")
        if isinstance(value, list):
            for item in value:
                if isinstance(item, ast.AST):
                    _spell(item, modules, parts)
                else:
                    parts.append(repr(item))
        elif isinstance(value, ast.AST):
            _spell(value, modules, parts)
        elif isinstance(node, ast.Name) and value in modules:
            parts.append(modules[value])  # An imported module, by content.
        else:
            parts.append(repr(value))
    parts.append(")")


def _is_prose(node: ast.AST) -> bool:
    """Say whether a node is a docstring or the description of a knob."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.keyword) and node.arg == "description"
