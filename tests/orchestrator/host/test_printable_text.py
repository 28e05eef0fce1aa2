"""Control characters are shown and not obeyed."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from orchestrator.host.printable_text import printable, single_line, without_controls


@pytest.mark.parametrize("text", ["ä ± → ∅ \U0001f600", "tab\tand\nline", "plain \\u001b"])
def test_text_without_control_characters_stays(text):
    assert printable(text) == without_controls(text) == text


def test_each_control_character_is_shown_as_json_writes_it():
    """So a JSON document that is printed stays one, and reads back the same."""
    text = "a\x1b[2J\x07\r\x7f\x9b31m\u202eb\u2066\ud800"
    assert printable(text) == "a\\u001b[2J\\u0007\\u000d\\u007f\\u009b31m\\u202eb\\u2066\\ud800"
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text
    assert without_controls(text) == "a[2J31mb"


def test_every_control_character_of_unicode_is_one_but_tab_and_newline():
    """Those that turn the order of characters around belong to them."""
    every = [chr(number) for number in range(sys.maxunicode + 1)]
    turns = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    kinds = ("Cc", "Cs", "Zl", "Zp")
    controls = {one for one in every if unicodedata.category(one) in kinds or unicodedata.bidirectional(one) in turns}
    marks = {unicodedata.lookup(f"{name} MARK") for name in ("ARABIC LETTER", "LEFT-TO-RIGHT", "RIGHT-TO-LEFT")}
    assert set(every) - set(without_controls("".join(every))) == (controls | marks) - {"\t", "\n"}


def test_a_line_cannot_be_forged():
    assert single_line(" a\n  finished\x85b\u2028c\x1c d\x1b ") == "a finished b c d\\u001b"
