"""Paths with a home folder and environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from moleflow.settings.paths import expand_path

HAS = {"SCRATCH": "/fast/me", "RUN_2": "second", "TILDE": "~", "COST": "5$", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$SCRATCH/mvtec", "/fast/me/mvtec"),
        ("${SCRATCH}/mvtec", "/fast/me/mvtec"),
        ("a/$RUN_2/b", "a/second/b"),
        ("a${RUN_2}b", "asecondb"),
        ("a/b", "a/b"),
        ("a/~b", "a/~b"),
        ("a$$SCRATCH", "a$SCRATCH"),
        ("a$", "a$"),
        ("a$1", "a$1"),
        ("$TILDE/a", "~/a"),
        ("$COST/a", "5$/a"),
    ],
)
def test_variables_are_filled_in_once(text: str, path: str) -> None:
    assert expand_path(text, "s", HAS) == Path(path)


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a$b")
    monkeypatch.setenv("SCRATCH", "x")
    assert expand_path("~/mvtec/$SCRATCH", "s") == Path("/home/a$b/mvtec/x")
    assert expand_path("~", "s") == Path("/home/a$b")


@pytest.mark.parametrize("text", ["$NOPE/mvtec", "a/${NOPE}", "$EMPTY/mvtec", "~no_such_user/mvtec"])
def test_what_cannot_be_filled_in_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        expand_path(text, "sweep.yaml: data", HAS)
    assert str(refused.value).startswith(f"sweep.yaml: data: {text}: ")
    assert "write the path out" in str(refused.value)
