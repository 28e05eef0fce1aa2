"""Reading YAML the safe way: no tags, no duplicate keys, numbers as people write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from moleflow.errors import InvalidInput


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but numbers are YAML 1.2's and a key given twice is an error.

    So `1e-4` is a number, and `01`, `1:30` and `2024-01-01` are texts instead of 1, 90 and a date.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", key_node.start_mark)
            if key_node.value in seen:
                problem = f"the key '{key_node.value}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_NOT_JSON = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "binary", "set", "omap", "pairs")}
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_JSON
}
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
_NUMBERS = {
    "int": r"^[-+]?(0|[1-9][0-9_]*)$",
    "float": r"^([-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+|[-+]?(\d+\.\d*|\.\d+)|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in _REPLACED]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list("-+.0123456789"))


def parse(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        InvalidInput: the text is not YAML, uses a tag such as `!!python/object`, or gives a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, it is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = (getattr(error, "problem", None) or str(error)).replace("\n", " ")
        if "'\\t'" in problem:
            problem = "a tab; YAML is indented with spaces"
        if "could not determine a constructor for the tag" in problem:
            problem += "; tags are not allowed here, write plain YAML values"
        raise InvalidInput(f"{source}{where}: {problem}") from None
    except (ValueError, KeyError, RecursionError) as error:
        # A standard tag on a value that is none of its kind (`!!int foo`), or nesting without end.
        raise InvalidInput(f"{source}: not a plain YAML value ({error})") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InvalidInput: no such file, not text, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path}: is a folder, and a YAML file is needed") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: is no text; a YAML file is needed") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    value = parse(text, str(path))
    if value is None:
        raise InvalidInput(f"{path}: is empty; a mapping of keys to values is needed")
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: holds {type(value).__name__}, but a mapping of keys to values is needed")
    bad = [k for k in value if not isinstance(k, str)]
    if bad:
        raise InvalidInput(f"{path}: the key {bad[0]!r} is not a name; put it in quotes")
    return value
