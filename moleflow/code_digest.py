"""Digests of the code behind a result, by phase.

A digest covers what a phase executes: the syntax trees of its modules and of all they import from
this package. It ignores what cannot change a number: docstrings, comments, layout, descriptions of
knobs, the order of imports, and the names and places of modules. An edited docstring or a moved
module therefore leaves cached features and stages valid. A changed constant or operator never does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeGuard

from moleflow.equal_code import earliest
from moleflow.errors import CodeChanged

Phase = Literal["defects", "features", "training", "bank", "scoring", "rows"]

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).parent

ENTRY_MODULES: Mapping[Phase, str] = MappingProxyType(
    {
        "defects": f"{_PACKAGE}.data.synthetic",
        "features": f"{_PACKAGE}.features.extract",
        "training": f"{_PACKAGE}.training.train_task",
        "bank": f"{_PACKAGE}.models.memory_bank",
        "scoring": f"{_PACKAGE}.training.evaluation",
        "rows": f"{_PACKAGE}.training.sequence",
    }
)
"""The module in which each phase starts; what it imports belongs to the phase."""


def _module_name(path: Path) -> str:
    parts = (_PACKAGE, *path.relative_to(_ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_PATHS = MappingProxyType({_module_name(path): path for path in sorted(_ROOT.rglob("*.py"))})

# Read while the package is being imported: an edit made later is not the code that runs.
SOURCES: Mapping[str, bytes] = MappingProxyType({name: path.read_bytes() for name, path in _PATHS.items()})
"""The source of every module of this package, by dotted name, as this process loaded it."""


@cache
def code_digest(phase: Phase = "rows") -> str:
    """SHA-256, in hex, of the code that a phase executes, or of earlier code with the same digits.

    Args:
        phase: defects (normal image to generated defect), features (image file to stored feature),
            training (features to trained state), bank (features to memory bank and distances),
            scoring (trained state to scores and metrics), or rows (the whole sequence).
    """
    return earliest(own_digest(phase))


def own_digest(phase: Phase) -> str:
    """SHA-256, in hex, of the code that a phase executes."""
    return _LOADED.of(ENTRY_MODULES[phase])


def require_unchanged(*modules: str) -> None:
    """Compare modules that were imported late with the code that this process digested.

    Args:
        modules: dotted names.

    Raises:
        CodeChanged: one of them was edited in between.
    """
    for name in modules:
        path = _PATHS[name]
        if not path.exists() or path.read_bytes() != SOURCES[name]:
            raise CodeChanged(f"{path}: the code changed while this process ran; start the command again")


@cache
def version(package: str) -> str:
    """The version of an installed package.

    Cached: a look-up takes milliseconds, and a package does not change under a process.
    """
    return importlib.metadata.version(package)


class CodeDigests:
    """Digests of modules, each over its own code and all it imports from the package.

    Args:
        sources: {dotted name: source} of every module of the package.
    """

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self._sources = sources
        self._modules = frozenset(sources)
        self._known: dict[str, str] = {}

    def of(self, module: str, importers: tuple[str, ...] = ()) -> str:
        """The digest of a module, in hex.

        Args:
            module: its dotted name.
            importers: the modules that led to it, outermost first.

        Raises:
            ValueError: modules import one another in a circle, or by a relative import.
            SyntaxError: a module is not valid Python.
        """
        if module in importers:
            circle = " -> ".join([*importers[importers.index(module) :], module])
            raise ValueError(f"{circle}: modules import one another in a circle, so no digest is defined")
        if module not in self._known:
            outline = _outline(self._sources[module], self._modules)

            def content(name: str) -> str:
                # Another package counts by name, since its version is in the keys. So does this
                # module: it decides no number, and an entry module may move without a new digest.
                of_phase = name in self._modules and name != __name__
                return self.of(name, (*importers, module)) if of_phase else name

            # Sorted by content, because the order of imports follows the modules' names.
            imports = sorted([local, name, content(source)] for local, name, source in outline.imports)
            spelled = repr((imports, [content(name) for name in outline.references], outline.text))
            self._known[module] = hashlib.sha256(spelled.encode()).hexdigest()
        return self._known[module]


@dataclass
class _Outline:
    """A module without its prose.

    Attributes:
        text: a canonical text of its syntax tree.
        imports: (local name, imported name, module) of each import; the first two are empty where
            a module of this package is imported as a whole, since its name does not count.
        references: modules of this package that `text` refers to by `#` and their position here.
    """

    text: str = ""
    imports: list[tuple[str, str, str]] = field(default_factory=list)
    references: list[str] = field(default_factory=list)


@cache
def _outline(source: bytes, modules: frozenset[str]) -> _Outline:
    tree = ast.parse(source)
    outline, whole = _Outline(), {}
    for node in _executed_imports(tree):
        for alias in node.names:
            local = alias.asname or alias.name
            if isinstance(node, ast.Import):
                target, origin, name = alias.name, alias.name, ""
            elif node.level:
                raise ValueError(f"line {node.lineno}: a relative import; import from {_PACKAGE} by the whole name")
            else:
                target, origin, name = f"{node.module}.{alias.name}", str(node.module), alias.name
            if target in modules:
                whole[local] = target
                outline.imports.append(("", "", target))
            else:
                outline.imports.append((local, name, origin))
    parts: list[str] = []
    _spell(tree, whole, outline.references, parts)
    outline.text = "".join(parts)
    return outline


def _executed_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below `node`, also within functions, but for those made for a type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif _is_for_type_checker(child):
            yield from _executed_imports(ast.Module(child.orelse, []))
        else:
            yield from _executed_imports(child)


def _spell(node: ast.AST, whole: Mapping[str, str], references: list[str], parts: list[str]) -> None:
    """Append a canonical text of a tree to `parts`.

    `ast.dump` would do, but its text differs between versions of Python: absent fields and empty
    lists are left out here.

    Args:
        whole: {local name: module} of the modules of this package that are imported as a whole.
        references: the modules among them that were met so far.
    """
    if isinstance(node, ast.Import | ast.ImportFrom) or _is_string_statement(node):
        return
    if _is_for_type_checker(node):
        for statement in node.orelse:
            _spell(statement, whole, references, parts)
        return
    parts.append(f"({type(node).__name__}")
    for name, value in ast.iter_fields(node):
        items = _without_descriptions(node, value) if isinstance(value, list) else [value]
        if value is None or not items or name == "ctx":
            continue
        parts.append(f" {name}=")
        for item in items:
            if isinstance(item, ast.AST):
                _spell(item, whole, references, parts)
            elif isinstance(node, ast.Name) and item in whole:
                # By position of first use, so that the module's name does not enter the text.
                if whole[item] not in references:
                    references.append(whole[item])
                parts.append(f"#{references.index(whole[item])}")
            else:
                parts.append(repr(item))
    parts.append(")")


def _is_for_type_checker(node: ast.AST) -> TypeGuard[ast.If]:
    """True for `if TYPE_CHECKING:`, whose body is never executed."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_string_statement(node: ast.AST) -> bool:
    """True for a docstring or another statement that is only a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _without_descriptions(node: ast.AST, children: list[ast.AST]) -> Collection[ast.AST]:
    """The children of a node, without the description of a knob where it is a call of `Field`."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field"):
        return children
    return [child for child in children if not (isinstance(child, ast.keyword) and child.arg == "description")]


_LOADED = CodeDigests(SOURCES)
