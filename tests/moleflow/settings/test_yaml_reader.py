import os
from pathlib import Path
from typing import Any

import pytest

from moleflow.errors import InvalidInput
from moleflow.settings.yaml_reader import MOST_CHARACTERS, parse, quotes_hint, read_mapping, yaml_text

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-.5e3", -500.0), ("1.", 1.0), (".5", 0.5), ("+2", 2), ("-3", -3), ("0", 0), ("1_000", 1000),
        (".inf", float("inf")), ("true", True), ("null", None), ("~", None),
        ("01", "01"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45"), ("1.2.3", "1.2.3"), ("0x1f", "0x1f"),
        ("9223372036854775807", 9223372036854775807), ("-9_223_372_036_854_775_808", -9223372036854775808),
        ("alpha/(2*rank)", "alpha/(2*rank)"), ("{a: [1, b]}", {"a": [1, "b"]}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(text: str, value: Any) -> None:
    found = parse(text, "s")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: !!python/object:os.system {}", "tags are not allowed"),
        ("!!python/object/apply:os.system [ls]", "tags are not allowed"),
        ("!own 3", "tags are not allowed"),
        ("!!timestamp 2024-01-01", "tags are not allowed"),
        ("!!set {a, b}", "tags are not allowed"),
        ("9223372036854775808", "s, line 1: given 9223372036854775808, allowed: whole numbers from -922"),
        ("a: 1\nb: [1, -9223372036854775809]", "s, line 2: given -9223372036854775809, allowed: whole numbers from"),
        ("a: {1000000000000000000000: b}", "or put it in quotes if it is a name"),
        ("9" * 5000, f"given {'9' * 37}..., allowed"),
        ("!!int [1]", "s, line 1: expected a scalar node"),
        ("!!int two", "a tag such as !!int stands before a value of another kind; write plain YAML values"),
        ("!!bool two", "a tag such as !!int"),
        ("!!binary two", "line 1: the tag !!binary; tags are not allowed here"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice; keep one of them"),
        ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
        ("? [a, b]\n: 1", "a key must be a plain name"),
        ("a: [1", "s, line 1: a [ is opened here and never closed"),
        ("a: {b: 1", "s, line 1: a { is opened here and never closed"),
        ("a: [1\nb: 2", "s, line 2: a comma or a ] is missing here"),
        ("a: b: c", "s, line 1: a colon that no key fits; a text with ': ' in it needs quotes around it"),
        ("[" * 5000, "is nested too deeply"),
        ("a: 1\n---\nb: 2", "s, line 2: a second document begins here with ---"),
        ("b: 1\na: 'x\nc: 2\n", "s, line 2: a quote is opened here and never closed"),
        ("a: *b", "nothing is called &b that *b could mean; a text that begins with * needs quotes"),
        ("a: *.png", "a text that begins with * or & needs quotes"),
        ("a: @b", "a text that begins with '@' needs quotes"),
        ("a: 1\nb: \x07", "s, line 2: a control character (#x07); remove it"),
        ("a: 1\nname:s\nb: 2", "s, line 2: a line without a key; a space must follow each colon"),
        ("a:\n  b: 1\n c: 2", "s, line 3: does not fit the lines above it; check the indentation"),
        ('a: "\\q"', "\\ before 'q' in double quotes means nothing; use single quotes"),
        ("a: - b", "a - that no list fits"),
        (BOMB, "s, line 6: holds more than 100,000 values, the most allowed (an alias counts"),
        (MERGES, "s, line 6: holds more than 100,000 values"),
        ('a: 1\nb: "\\ud83c"', r"s, line 2: \ud83c is half of a character; write the character itself, or both halves"),
        (r'"\ud83c\udf89\udf89"', r"\udf89 is half of a character"),
        (r'{"\ud83c": 1}', r"\ud83c is half of a character"),
        (r'"a\0b"', r"\0 inside a text, which no name may hold; remove it"),
        ("a: &a\n  <<: *a", "s, line 2: *a stands inside &a; write the value out"),
        ("a: &a [*a]", "s, line 1: *a stands inside &a; write the value out"),
        ("a: &a {b: {c: *a}}", "s, line 1: *a stands inside &a"),
        ("[" * 10_000 + "]" * 10_000, "s, line 1: is nested too deeply, allowed: 50 levels; remove some levels"),
        ("".join(f"{' ' * n}a:\n" for n in range(60)), "s, line 51: is nested too deeply"),
        ("# " + "x" * MOST_CHARACTERS, "s: has 1,000,002 characters, allowed: 1,000,000; give a shorter YAML file"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text: str, part: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse(text, "s")
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_has_to_hold_a_mapping_of_names(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: 1\nb: {c: ü}\n", encoding="utf-8")
    assert read_mapping(path) == {"a": 1, "b": {"c": "ü"}}
    for text, part in (
        ("- 1", "holds a list"),
        ("a:b", "holds a text, .*a space must follow each colon"),
        ("", "is empty"),
        ("1: a", "the key 1 is not a name"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=part):
            read_mapping(path)
    with pytest.raises(InvalidInput, match="no such file"):
        read_mapping(tmp_path / "missing.yaml")
    with pytest.raises(InvalidInput, match="is a folder; a YAML file is needed"):
        read_mapping(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes("name: größe\r\nb: 1\r\n".encode(encoding))
    assert read_mapping(path) == {"name": "größe", "b": 1}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (
            "a: 1\nb: größe\n".encode("latin-1"),
            r", line 2: is not a text in utf-8 \(byte 0xf6\); save the YAML file as",
        ),
        ("b: größe\n".encode("utf-16-le"), ", line 1: is not a text in utf-8"),
        ("b: grosse\n".encode("utf-16-le"), ", line 1: a control character"),
        (b"\x89PNG\xa6", "is not a text in utf-8"),
        (b"\xff\xfe\x00", "is not a text in utf-16"),
        (b"a: 1\xef\xbb\xbf\n", ", line 1: an invisible byte order mark .* inside a text"),
        (b"a: b\0c\n", ", line 1: a control character"),
    ],
)
def test_another_encoding_is_refused_in_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=part) as refused:
        read_mapping(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["-0.0", "-0.", "-.0", "-0e3", "-1e-400", "-0"])
def test_there_is_one_zero(text: str) -> None:
    assert str(parse(text, "s")) in ("0", "0.0")


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse(r'"\ud83c\udf89"', "s") == "🎉"
    assert parse(r'{"\ud83c\udf89": 1}', "s") == {"🎉": 1}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (["a", False], "; YAML reads no, off and false as false: put such a name in quotes, as in 'no'"),
        (True, "; YAML reads yes, on and true as true: put such a name in quotes, as in 'yes'"),
        ([["a", None]], "; YAML reads null and ~ as null: put such a name in quotes, as in 'null'"),
        ((1000.0,), "; YAML reads it as the number 1000.0: put the name in quotes, as in '1e3'"),
        (["a", "no"], ""),
    ],
)
def test_names_that_yaml_reads_as_something_else_get_a_hint(value: Any, hint: str) -> None:
    assert quotes_hint(value) == hint


def test_a_few_aliases_are_read() -> None:
    assert parse("a: &x [1]\nb: &y [*x, *x]\nc: [*y, *x]", "s") == {"a": [1], "b": [[1], [1]], "c": [[[1], [1]], [1]]}


def test_only_a_regular_file_of_limited_size_is_read(tmp_path: Path) -> None:
    """A pipe without a writer would block for ever, and /dev/zero never ends."""
    pipe, large = tmp_path / "pipe.yaml", tmp_path / "large.yaml"
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.write(b"#")
        file.truncate(100_000_000)
    for path, part in (
        (pipe, "pipe.yaml: is a pipe or a device; write the YAML into a file and give that"),
        (Path("/dev/zero"), "/dev/zero: is a pipe or a device"),
        (large, "large.yaml: has 100,000,000 bytes, allowed: 1,000,000 characters; give a shorter YAML file"),
    ):
        with pytest.raises(InvalidInput) as error:
            read_mapping(path)
        assert part in str(error.value)


def test_the_place_of_a_missing_file_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "gamma.yaml").touch()
    for name, said in (
        ("gama.yaml", rf"no such file\. Did you mean '{tmp_path}/gamma.yaml'\?"),
        ("other.yaml", f"no such file; YAML files in {tmp_path}: gamma.yaml"),
        ("none/x.yaml", f"no such file; there is no folder {tmp_path}/none either"),
    ):
        with pytest.raises(InvalidInput, match=said):
            read_mapping(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (float("nan"), ".nan"),
        (-float("inf"), "-.inf"),
        (0.5, "0.5"),
        ("two", "'two'"),
        ((1, None), "[1, null]"),
        ({"a": [False, "x"]}, "{a: [false, 'x']}"),
        ("x" * 100, "'" + "x" * 76 + "..."),
    ],
)
def test_values_are_shown_as_a_file_has_them(value: object, text: str) -> None:
    assert yaml_text(value) == text
