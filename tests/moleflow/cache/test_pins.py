"""Pins as another machine sees them: by the filesystem's clock, never of a live owner."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import moleflow.cache.claim
from moleflow import files
from moleflow.cache.entries import CacheEntry
from moleflow.cache.pins import Pin, pinned, pinned_groups, pins


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moleflow.cache.claim, "HEARTBEAT_S", 0.01)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine."""
    monkeypatch.setattr(socket, "gethostname", lambda: "another")


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


@pytest.mark.parametrize("ahead", [-70.0, 70.0, 1e6])
def test_the_clock_of_the_machine_that_looks_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    clock = time.time
    with pinned(tmp_path):
        elsewhere(monkeypatch)
        monkeypatch.setattr(time, "time", lambda: clock() + ahead)
        (pin,) = pins(tmp_path)
        assert abs(pin.since - clock()) < 60
        assert len(list((tmp_path / "pins").glob("*.json"))) == 1


@pytest.mark.parametrize(("before", "pinned_then"), [(119, True), (121, False)])
def test_a_use_up_to_two_minutes_before_a_sweep_began_counts(tmp_path: Path, before: float, pinned_then: bool) -> None:
    """A use is noted once a minute, so an entry may have been used after the time that is noted."""
    entry = CacheEntry("features", "features/ab", (), tmp_path, 1, last_use=1000.0 - before)
    live = [Pin("host:1", 1000.0), Pin("host:2", 2000.0)]
    assert pinned_groups([entry], live) == {"synthetic"} | ({"features/ab"} if pinned_then else set())
    assert pinned_groups([entry], []) == set()


def test_a_heartbeat_writes_its_pin_again(tmp_path: Path) -> None:
    with pinned(tmp_path):
        (path,) = (tmp_path / "pins").glob("*.json")
        text = path.read_text()
        path.unlink()
        assert soon(path.exists)
        assert soon(lambda: path.read_text() == text)
    assert list((tmp_path / "pins").glob("*.json")) == []
    time.sleep(0.1)
    assert pins(tmp_path) == []


def test_a_silent_pin_of_another_machine_holds_nothing_and_is_removed_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may only have been kept from writing; it pins again once it writes."""
    path = tmp_path / "pins" / "a.json"
    path.parent.mkdir()
    path.write_text('{"host": "another", "pid": 1, "since": 5}')
    assert len(pins(tmp_path)) == 1
    for age, there in ((610, True), (86_000, True), (87_000, False)):
        os.utime(path, (time.time() - age,) * 2)
        assert pins(tmp_path) == []
        assert path.exists() == there
        if there:
            path.touch()
            assert len(pins(tmp_path)) == 1


def test_where_no_time_can_be_learned_our_own_clock_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> float:
        raise OSError(30, "Read-only file system", str(folder))

    with pinned(tmp_path):
        monkeypatch.setattr(files, "_touch_probe", refuse)
        assert len(pins(tmp_path)) == 1
