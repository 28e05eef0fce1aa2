from pathlib import Path
from typing import Any

import pytest

from moleflow.documents import parse, read_mapping
from moleflow.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-.5e3", -500.0), ("1.", 1.0), (".5", 0.5), ("+2", 2), ("-3", -3), ("0", 0), ("1_000", 1000),
        (".inf", float("inf")), ("true", True), ("null", None), ("~", None),
        ("01", "01"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45"), ("1.2.3", "1.2.3"), ("0x1f", "0x1f"),
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
        ("!!int two", "not a plain YAML value"),
        ("!!bool two", "not a plain YAML value"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice"),
        ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
        ("? [a, b]\n: 1", "a key must be a plain name"),
        ("a: [1", "s, line 1"),
        ("a: b: c", "s, line 1"),
        ("[" * 5000, "not a plain YAML value"),
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
    for text, part in (("- 1", "holds list"), ("", "is empty"), ("1: a", "the key 1 is not a name")):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=part):
            read_mapping(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="is no text; a YAML file is needed"):
        read_mapping(path)
    with pytest.raises(InvalidInput, match="no such file"):
        read_mapping(tmp_path / "missing.yaml")
    with pytest.raises(InvalidInput, match="is a folder, and a YAML file is needed"):
        read_mapping(tmp_path)
