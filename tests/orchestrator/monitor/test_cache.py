"""The command `cache`, and sweeps that run while entries are removed: no digit changes."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest

from moleflow.cache.entries import cache_entries, remove_entry
from moleflow.cache.eviction import VARIABLE, pinned_within_budget
from orchestrator.records.attempts import AttemptFolder
from orchestrator.results.store import ResultStore

RUN = ("sweep.yaml", "--backend", "inline", "--quiet")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def held(cache):
    return sum(entry.bytes for entry in cache_entries(cache))


def age_entries(cache):
    """Date the last use of every entry back by years."""
    for entry in cache_entries(cache):
        os.utime(entry.used, (1e9, 1e9))


def test_entries_are_shown_by_kind(finished, command):
    age_entries(finished / "cache")
    (finished / "cache/stages/ab").mkdir(exist_ok=True)
    (finished / "cache/stages/ab/.abcd.0").write_text("half")
    shown = command("cache").out.splitlines()
    lines = dict(line.split(": ", 1) for line in shown)
    assert lines["cache"] == str(finished / "cache")
    assert lines["budget"].startswith("none, ")
    assert lines["features"].startswith("40 images, ")
    assert "last used 2001-09-0" in lines["features"]
    assert lines["stages"].startswith("8, ")
    assert (lines["checkpoints"], lines["defects"]) == ("0, 0 B", "0, 0 B")
    assert lines["half-written"].startswith("1, 4 B")
    assert "in use" not in lines


def test_a_budget_is_set_and_kept_from_then_on(finished, command):
    cache = finished / "cache"
    age_entries(cache)
    before = held(cache)
    refused = command("cache", "--evict")
    assert (refused.code, refused.out, "has no budget" in refused.err) == (2, "", True)
    set_to = command("cache", "--budget", f"{before - 10_240}B")
    assert set_to.code == 0
    assert ", 10.0 KiB over it" in set_to.out
    assert held(cache) == before
    assert command("cache", "--evict").out.splitlines()[-1].startswith("evicted: ")
    assert before * 0.8 < held(cache) <= before - 10_240
    assert command("cache", "--budget", "1KB", "--evict").code == 0
    assert held(cache) <= 1000
    assert command("cache", "--budget", "none").out.splitlines()[0] == "budget: set to none"
    assert command("cache", "--evict").code == 2


def test_the_variable_s_budget_counts_even_if_another_is_set(finished, command, monkeypatch):
    before = held(finished / "cache")
    monkeypatch.setenv(VARIABLE, "50GB")
    ended = command("cache", "--budget", "none", "--evict")
    assert (ended.code, ended.err, ended.out.splitlines()[-1]) == (0, "", "evicted: 0 B")
    assert held(finished / "cache") == before
    told = command("cache", "--budget", "1KB").out.splitlines()
    assert told[0] == f"budget: set to 1KB; {VARIABLE} is 50GB and stands above it here"
    assert told[2].startswith(f"budget: 46.6 GiB ({VARIABLE}), ")


def test_a_budget_is_not_removed_by_a_command_that_would_evict_down_to_it(finished, command):
    assert command("cache", "--budget", "50GB").code == 0
    refused = command("cache", "--budget", "none", "--evict")
    assert (refused.code, refused.out, "has no budget" in refused.err) == (2, "", True)
    assert "budget: 46.6 GiB, " in command("cache").out


@pytest.mark.parametrize("words", [("--budget", "much"), ("--clear", "results"), ("features",)])
def test_an_invalid_option_removes_nothing(finished, command, words):
    before = held(finished / "cache")
    refused = command("cache", *words)
    assert refused.code == 2
    assert refused.err.startswith("error: ")
    assert held(finished / "cache") == before


@pytest.mark.parametrize(("part", "left"), [("features", "stages"), ("stages", "features")])
def test_a_part_is_cleared(finished, command, part, left):
    assert command("cache", "--clear", part).code == 0
    assert {entry.part for entry in cache_entries(finished / "cache")} == {left}


def test_only_the_cache_that_is_given_is_cleared(finished, command):
    before = held(finished / "cache")
    other = shutil.copytree(finished / "cache", finished / "other")
    ended = command("cache", "--cache", other, "--clear")
    assert (ended.code, f"cache: {other}" in ended.out) == (0, True)
    assert (held(other), held(finished / "cache")) == (0, before)


def test_entries_in_use_are_kept_and_their_user_is_named(finished, command):
    cache = finished / "cache"
    age_entries(cache)
    used = next(entry for entry in cache_entries(cache) if entry.kind == "stages")
    with pinned_within_budget(cache):
        os.utime(used.used)
        assert f"in use: {used.bytes / 1024:.1f} KiB (by " in command("cache").out
        ended = command("cache", "--clear")
        assert ended.code == 0
        assert f"in use, left alone (by {os.uname().nodename}:{os.getpid()} since " in ended.out
        assert [entry.paths for entry in cache_entries(cache)] == [used.paths]
    assert command("cache", "--clear").out.splitlines()[-1].startswith("cleared: ")
    assert held(cache) == 0
    assert len(ResultStore(finished / "results/small").finished()) == 4


def test_a_tiny_budget_changes_no_digit(place, features, small_run, command, digits, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1KB")
    with pinned_within_budget(place / "cache", look_every_s=0.05):
        assert command(*RUN).code == 0
    assert digits(place / "results/small") == digits(small_run / "results/small")
    assert held(place / "cache") <= 1000
    assert list((place / "cache/pins").glob("*.json")) == []


def test_removing_entries_during_a_sweep_changes_no_digit(place, features, small_run, command, digits):
    """Without a pin the least recently used pack or stage is removed, five times in turn."""
    over, removed = threading.Event(), []

    def remove_entries():
        while not over.wait(0.05) and len(removed) < 10:
            wanted = ("features", "stages")[len(removed) % 2]
            found = [entry for entry in cache_entries(place / "cache") if entry.kind == wanted]
            if found and remove_entry(min(found, key=lambda entry: entry.last_use)):
                removed.append(wanted)

    thread = threading.Thread(target=remove_entries)
    thread.start()
    try:
        ended = command(*RUN)
    finally:
        over.set()
        thread.join()
    assert ended.code == 0, ended.err
    assert digits(place / "results/small") == digits(small_run / "results/small")
    assert removed[:2] == ["features", "stages"]
    assert [record.state for record in AttemptFolder(place / "results/small/attempts").all()] == ["finished"] * 4


@pytest.mark.process
def test_clearing_under_a_running_sweep_loses_no_attempt(place, small_run, start, command, digits, wait_until):
    cache = place / "cache"
    with pinned_within_budget(cache):
        run = start(*RUN)
        wait_until(lambda: any(entry.kind == "stages" for entry in cache_entries(cache)))
        stages, most = 0, 0
        while run.process.poll() is None:
            assert command("cache", "--clear").code == 0
            stages = sum(entry.kind == "stages" for entry in cache_entries(cache))
            assert stages >= most
            most = max(most, stages)
            time.sleep(0.05)
        assert run.end().code == 0
    assert digits(place / "results/small") == digits(small_run / "results/small")
    assert [record.state for record in AttemptFolder(place / "results/small/attempts").all()] == ["finished"] * 4
    assert command("cache", "--clear").code == 0
    assert held(cache) == 0
