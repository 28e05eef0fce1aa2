"""Safe YAML: no tags, no duplicate keys, numbers as people write them, and limits on its size."""

from __future__ import annotations

import codecs
import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moleflow.errors import InvalidInput
from moleflow.passing_errors import NotAFile, of_present_file, read

LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNPAIRED = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")
_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MOST_CHARACTERS = 1_000_000
MOST_LEVELS = 50
MOST_VALUES = 100_000
"""Values of a text, those of an anchor counted again for each of its aliases."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the numbers of YAML 1.2 and an error for duplicate keys.

    `1e-4` is a number; `01`, `1:30` and `2024-01-01` are texts instead of 1, 90 and a date.
    """

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """Return a text with each pair of surrogates as the character that it means.

        JSON escapes a character beyond 16 bits as a pair. Half of one cannot be stored in a file.
        NUL and a byte order mark inside a text are refused.
        """
        text: str = super().construct_scalar(node)
        for character, name in (("\0", r"\0"), ("\ufeff", "an invisible byte order mark (#xfeff)")):
            if character in text:
                problem = f"{name} inside a text, which no name may hold; remove it"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if not _SURROGATE.search(text):
            return text
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            # Both halves of a whole pair are surrogates too; the first of an unpaired one is shown.
            half = _UNPAIRED.findall(text)[0]
            problem = f"\\u{ord(half):04x} is half of a character; write the character itself, or both halves"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Read a number; -0.0 is 0.0, as both mean one setting and so one trial."""
        return super().construct_yaml_float(node) + 0.0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain name; write it without [ ] { }", key_node.start_mark
                )
            if key_node.value in seen:
                problem = f"the key '{key_node.value}' is given twice; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number of 64 bits: no more fits into Parquet, numpy and torch."""
        text = self.construct_scalar(node)
        # int() refuses thousands of digits, in words of its own.
        if len(text) > len(str(LEAST_INTEGER)) + text.count("_") or not LEAST_INTEGER <= int(text) <= MOST_INTEGER:
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            problem = (
                f"given {shown}, allowed: whole numbers from {LEAST_INTEGER} to {MOST_INTEGER}; "
                "give one of those, or put it in quotes if it is a name"
            )
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return int(text)


_NOT_JSON = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "binary", "set", "omap", "pairs")}
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_JSON
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
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
        InvalidInput: the text is not YAML, uses a tag such as `!!python/object`, gives a key twice,
            or is longer, deeper or larger than the limits above.
    """
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(
            f"{source}: has {len(text):,} characters, allowed: {MOST_CHARACTERS:,}; give a shorter YAML file"
        )
    try:
        _check_size(text, source)
        return yaml.load(text, Loader=_Loader)  # noqa: S506, it is a SafeLoader
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InvalidInput(f"{source}, line {line}: a control character (#x{error.character:02x}); remove it") from None
    except yaml.MarkedYAMLError as error:
        place, problem = _explained(error)
        raise InvalidInput(f"{source}{f', line {place.line + 1}' if place else ''}: {problem}") from None
    except RecursionError:
        raise InvalidInput(f"{source}: {_TOO_DEEP}") from None
    except (ValueError, KeyError):  # A standard tag before a value of another kind.
        raise InvalidInput(
            f"{source}: a tag such as !!int stands before a value of another kind; write plain YAML values, without tags"
        ) from None


_TOO_DEEP = f"is nested too deeply, allowed: {MOST_LEVELS} levels; remove some levels"


def _check_size(text: str, source: str) -> None:
    """Compare a text with the limits, from its events: nothing is built and no alias expanded.

    Raises:
        InvalidInput: it exceeds a limit, or an alias stands inside its own anchor.
    """
    sizes: dict[str, int] = {}
    """Values that each finished anchor stands for."""
    opened: list[tuple[str | None, int]] = []
    """Anchor of each open list or mapping, and the number of values before it."""
    values = 0
    for event in yaml.parse(text, Loader=_Loader):
        mark = event.start_mark
        line = f"{source}, line {mark.line + 1}" if mark else source
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise InvalidInput(f"{line}: *{event.anchor} stands inside &{event.anchor}; write the value out")
            values += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            values += 1
            if len(opened) > MOST_LEVELS:
                raise InvalidInput(f"{line}: {_TOO_DEEP}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes |= {anchor: values - before} if anchor else {}
        if values > MOST_VALUES:
            raise InvalidInput(
                f"{line}: holds more than {MOST_VALUES:,} values, the most allowed (an alias counts as all "
                "that it stands for); write fewer values"
            )


_QUOTES = "needs quotes around it"
# What the parser says, what it means, and whether the place is where it began (or else where it
# ended).
_PROBLEMS: list[tuple[str, str, bool]] = [
    (r"'\\t'", "a tab; YAML is indented with spaces", False),
    (r"constructor for the tag '(.+)'", r"the tag \1; tags are not allowed here, write plain YAML values", False),
    (r"undefined tag handle '(.+)'", r"the tag \1; tags are not allowed here, write plain YAML values", False),
    (r"another document", "a second document begins here with ---; keep one, and remove the ---", False),
    (r"quoted scalar .*(end of stream|document separator)", "a quote is opened here and never closed; close it", True),
    (r"flow sequence .*<stream end>", "a [ is opened here and never closed; close it with ]", True),
    (r"flow mapping .*<stream end>", "a { is opened here and never closed; close it with }", True),
    (r"expected ',' or '(.)'", r"a comma or a \1 is missing here; a text with , [ ] { } in it " + _QUOTES, False),
    (
        r"mapping values are not allowed here",
        f"a colon that no key fits; a text with ': ' in it {_QUOTES}, a space must follow the colon of each key, "
        "and the keys of a group begin in one column",
        False,
    ),
    (r"sequence entries are not allowed", "a - that no list fits; write each entry on a line of its own", False),
    (r"for merging", "<< takes a mapping, or a list of mappings", False),
    (r"duplicate anchor '(.+?)'", r"&\1 is given twice; keep one of them", False),
    (
        r"undefined alias '(.*)'",
        rf"nothing is called &\1 that *\1 could mean; a text that begins with * {_QUOTES}",
        False,
    ),
    (r"scanning an (alias|anchor)", f"a text that begins with * or & {_QUOTES}", True),
    (r"character ('.+') that cannot start", rf"a text that begins with \1 {_QUOTES}", False),
    (r"could not find expected ':'", "a line without a key; a space must follow each colon", True),
    (
        r"<block end>",
        "does not fit the lines above it; check the indentation, and quotes that end too early",
        False,
    ),
    (r"unindent does not match", "the indentation fits none of the lines above", False),
    (r"unknown escape character ('.+')", r"\\ before \1 in double quotes means nothing; use single quotes", False),
    (r"(escape sequence|hexadecimal)", "\\\\ in double quotes has a meaning of its own; use single quotes", False),
]


def _explained(error: yaml.MarkedYAMLError) -> tuple[yaml.Mark | None, str]:
    """The place of the mistake in the file, and what to do."""
    message = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    for pattern, meaning, at_start in _PROBLEMS:
        if match := re.search(pattern, message):
            text = match.expand(meaning).replace("tag:yaml.org,2002:", "!!")
            return (error.context_mark if at_start else error.problem_mark), text
    return error.problem_mark or error.context_mark, error.problem or message


def yaml_text(value: object) -> str:
    """A value as YAML, cut at 80 characters: null, true, .nan, 'a text', [1, 2], {key: value}."""
    text = _flow(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _flow(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_flow(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return repr(value)


def kind(value: object) -> str:
    """The kind of a value, for messages."""
    if isinstance(value, bool):
        return yaml_text(value)
    return {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a mapping"}.get(
        type(value), "null"
    )


def quotes_hint(value: object) -> str:
    """A hint that a name needs quotes, for a value that should be a text; empty for other values.

    YAML reads `no`, `on` and `1e3` without quotes as false, true and 1000.0.
    """
    values = value if isinstance(value, list | tuple) else [value]
    for one in [name for entry in values for name in (entry if isinstance(entry, list | tuple) else [entry])]:
        if one is None or isinstance(one, bool):
            written = {True: "yes, on and true", False: "no, off and false", None: "null and ~"}[one]
            return f"; YAML reads {written} as {_flow(one)}: put such a name in quotes, as in '{written.split()[0].strip(',')}'"
        if isinstance(one, int | float):
            return f"; YAML reads it as the number {_flow(one)}: put the name in quotes, as in '1e3'"
    return ""


def others(path: Path) -> str:
    """A hint for a missing file: the nearest name in its folder, or some YAML files there."""
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {folder} either"
    names = sorted(one.name for one in folder.iterdir() if one.suffix in (".yaml", ".yml"))
    stems = {Path(name).stem: name for name in names}
    near = difflib.get_close_matches(path.stem, stems, n=1)
    if near:
        return f". Did you mean '{folder / stems[near[0]]}'?"
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"; YAML files in {'this folder' if folder == Path() else folder}: {some or 'none'}"


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InvalidInput: the file is missing, or is not text, not YAML or not a mapping.
    """
    try:
        text = _read_text(path)
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file{others(path)}") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path}: is a folder; a YAML file is needed") from None
    except UnicodeDecodeError as error:
        line = bytes(error.object).count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{path}, line {line}: is not a text in {error.encoding} (byte {error.object[error.start]:#04x}); "
            "save the YAML file as UTF-8"
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    value = parse(text, str(path))
    if value is None:
        raise InvalidInput(f"{path}: is empty; a mapping of keys to values is needed")
    if not isinstance(value, dict):
        colon = "; a space must follow each colon" if isinstance(value, str) and ":" in value else ""
        raise InvalidInput(f"{path}: holds {kind(value)}, but a mapping of keys to values is needed{colon}")
    bad = [k for k in value if not isinstance(k, str)]
    if bad:
        raise InvalidInput(f"{path}: the key {yaml_text(bad[0])} is not a name; put it in quotes")
    return value


def _read_text(path: Path) -> str:
    """The text of a regular file that is no longer than the limit; its lines end in a line feed.

    It is UTF-8, or has the mark of UTF-16 or UTF-32 that YAML asks for.

    Raises:
        InvalidInput: it is a pipe or a device, or is longer.
        OSError, UnicodeDecodeError: it cannot be read as text.
    """
    most = 4 * MOST_CHARACTERS  # UTF-8 takes up to four bytes for a character.
    try:
        content = read(path, most + 1)
    except NotAFile as error:
        if path.is_dir():
            raise IsADirectoryError from error
        raise InvalidInput(f"{path}: is a pipe or a device; write the YAML into a file and give that") from None
    if len(content) > most:
        size = of_present_file(path, path.stat).st_size
        raise InvalidInput(
            f"{path}: has {size:,} bytes, allowed: {MOST_CHARACTERS:,} characters; give a shorter YAML file"
        )
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8-sig")
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
