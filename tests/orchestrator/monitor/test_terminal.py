"""The console: colours are its own, control characters of others are dropped."""

from __future__ import annotations

import io

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.monitor.terminal import Printable, printable_console, show_markdown

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31mb\u202ec"


def terminal() -> tuple[object, io.StringIO]:
    console = printable_console()
    console.file, console._force_terminal, console._color_system = (page := io.StringIO()), True, None
    return console, page


def test_what_is_printed_has_no_control_character_of_others():
    console, page = terminal()
    table = Table()
    table.add_row(Text(HOSTILE))
    for renderable in (HOSTILE, Text(HOSTILE), table, Group(HOSTILE, Text(HOSTILE))):
        console.print(renderable)
    show_markdown(f"# {HOSTILE}\n\n| a |\n|---|\n| {HOSTILE} |\n", console)
    text = page.getvalue()
    assert text.count("a[2J]0;owned31mbc") == 5
    assert not any(sign in text for sign in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e"))


def test_the_live_picture_has_none_either():
    console, page = terminal()
    with Live(console=console, get_renderable=lambda: Printable(Text(HOSTILE)), auto_refresh=False) as live:
        live.refresh()
        console.print(HOSTILE)
    text = page.getvalue()
    assert "a[2J]0;owned31mbc" in text
    assert "\x1b[?25l" in text  # The cursor is hidden by rich.
    assert not any(sign in text for sign in ("\x1b[2J", "owned\x07", "\x9b", "\u202e"))


def test_numbers_stay_whole_and_what_does_not_fit_stands_below_under_the_first_column():
    head = "| Variant | 95 % interval | Image AUROC | Pixel AUROC | Oracle | Verdict |\n|---|---:|---:|---:|---:|---|\n"
    row = "| long_name=0.001 | +0.0009 to +0.0819 | 0.8812 ± 0.0138 | 0.9043 ± 0.0020 | 0.8812 ± 0.0138 | undecided |\n"
    for width in (40, 60, 80, 200):
        console, page = terminal()
        console._width = width
        show_markdown(head + row, console)
        lines = page.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        for number in ("+0.0009 to +0.0819", "0.8812 ± 0.0138", "0.9043 ± 0.0020"):
            assert number in page.getvalue()
        assert (sum("Variant" in line for line in lines) > 1) == (width < 110)


def test_sentences_break_between_numbers_and_never_within_an_interval():
    text = "A difference of +0.0414 (95 % interval -0.0693 to +0.1522 over 3 seeds, held for all 7 comparisons)."
    for width in range(30, 80, 3):
        console, page = terminal()
        console._width = width
        show_markdown(text, console)
        assert "-0.0693 to +0.1522" in page.getvalue()
        assert "3 seeds" in page.getvalue()
        assert "\ue000" not in page.getvalue()


def test_a_number_wider_than_a_column_of_words_stays_whole_too():
    """Side by side they would take 99 columns."""
    number = "+0.0009 to +0.0819 in 12 of 12 runs"
    console, page = terminal()
    console._width = 80
    show_markdown(
        f"| Variant | One | Two |\n|---|---:|---:|\n| long_variant_name=0.1 | {number} | {number} |\n", console
    )
    lines = page.getvalue().splitlines()
    assert sum(number in line for line in lines) == 2
    assert sum("long_variant_name=0.1" in line for line in lines) == 2


def test_words_that_rich_would_replace_stay_as_they_are():
    console, page = terminal()
    console.print("gamma=[b]2[/b] :smile: seed=0")
    assert page.getvalue() == "gamma=[b]2[/b] :smile: seed=0\n"
