"""How much a cache may hold: beyond it, what was used least recently goes, but nothing that a running sweep uses.

    <cache>/budget.json      what `set_budget` was given: {"bytes": N}

The environment variable MOLEFLOW_CACHE_BUDGET stands above the file. Without either there is no budget and nothing is ever removed:
how much of a disk is free says little where quotas hold or the disk is shared.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moleflow.cache.claim import try_claim
from moleflow.cache.entries import CacheEntry, cache_entries, remove_entry
from moleflow.cache.pins import pinned, pinned_groups, pins
from moleflow.cache.protect_planned import protect_planned_stages
from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from moleflow.settings.config import TrialConfig

VARIABLE = "MOLEFLOW_CACHE_BUDGET"
LOOK_EVERY_S = 60.0
LOOK_SHARE = 20.0  # Times as long as a look took, the next one waits.
LEAVE_WITHIN_S = 5.0
PINS_EVERY_S, PINS_SHARE = 1.0, 5.0  # How often pins are listed while entries are removed.

_LOG = logging.getLogger(__name__)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class EvictionResult:
    """What was taken away, and what had to stay of what was to go: in use, used meanwhile, or not ours to remove."""

    removed: tuple[CacheEntry, ...]
    stayed: tuple[CacheEntry, ...]


def read_size(text: str, source: str) -> int | None:
    """Bytes in a size such as 50GB or 1.5TiB; None for `none`.

    Args:
        source: what the text was given as, for the message.

    Raises:
        InvalidInput: it is neither.
    """
    if text.strip().lower() == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([a-z]+)", text.strip(), re.IGNORECASE | re.ASCII)
    if found is None or found[2].upper() not in _UNITS:
        raise InvalidInput(
            f"{source}: given '{text}', allowed: a number with a unit, such as 500MB, 50GB or 1.5TiB, or none"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


def budget_of(cache: Path) -> int | None:
    """The budget of a cache in bytes, or None where it has none.

    Raises:
        InvalidInput: the variable or the file holds no size.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return read_size(given, VARIABLE)
    path = cache / "budget.json"
    try:
        size = json.loads(path.read_text())["bytes"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        size = None
    if not isinstance(size, int):
        raise InvalidInput(f'{path}: holds no {{"bytes": N}}; set it anew: moleflow-sweep cache --budget 50GB')
    return size


def set_budget(cache: Path, size: int | None) -> None:
    """Give a cache a budget in bytes, for all who use it from now on, or take it away.

    Raises:
        OSError: the cache cannot be written.
    """
    path = cache / "budget.json"
    if size is None:
        path.unlink(missing_ok=True)
        return
    cache.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"bytes": size}).encode())


def evict(cache: Path, budget: int) -> EvictionResult:
    """Remove what was used least recently, leftovers first, until at most `budget` bytes are left or all that is left is in use.

    Several may do this at once: they take away the same entries, each once.
    """
    found = cache_entries(cache)
    used = _PinnedGroups(cache, found)
    excess = sum(entry.bytes for entry in found) - budget
    removed: list[CacheEntry] = []
    stayed: list[CacheEntry] = []
    for entry in sorted(found, key=lambda entry: (entry.kind != "leftovers", entry.last_use)):
        if excess <= 0:
            break
        if not used.holds(entry) and remove_entry(entry):
            removed.append(entry)
            excess -= entry.bytes
        else:
            stayed.append(entry)
    return EvictionResult(tuple(removed), tuple(stayed))


def clear_cache(cache: Path, part: str | None = None) -> EvictionResult:
    """Remove everything that is not in use.

    Args:
        part: only what lies in this folder of the cache.
    """
    found = cache_entries(cache)
    used = _PinnedGroups(cache, found)
    removed: list[CacheEntry] = []
    stayed: list[CacheEntry] = []
    for entry in found:
        if part in (None, entry.part):
            gone = not used.holds(entry) and remove_entry(entry)
            (removed if gone else stayed).append(entry)
    return EvictionResult(tuple(removed), tuple(stayed))


class _PinnedGroups:
    """What is in use while entries are removed: a sweep that starts in the middle of that counts from then on."""

    def __init__(self, cache: Path, found: Iterable[CacheEntry]) -> None:
        self._cache = cache
        self._first = self._live = pins(cache)
        self._groups = pinned_groups(found, self._live)
        self._due = time.monotonic() + PINS_EVERY_S

    def holds(self, entry: CacheEntry) -> bool:
        """Whether the entry is in use."""
        if time.monotonic() >= self._due and entry.group not in self._groups:
            self._look()
        return entry.group in self._groups

    def _look(self) -> None:
        start = time.monotonic()
        self._live = pins(self._cache)
        if any(pin not in self._first for pin in self._live):  # What it uses by now: listing that takes a while.
            self._groups |= pinned_groups(cache_entries(self._cache), self._live)
        now = time.monotonic()
        self._due = now + max(PINS_EVERY_S, PINS_SHARE * (now - start))


@contextmanager
def pinned_within_budget(
    cache: Path, look_every_s: float = LOOK_EVERY_S, needs: Iterable[TrialConfig] = ()
) -> Iterator[None]:
    """Pin what is used of a cache inside, and keep the cache within its budget: now and then, and at the end.

    Args:
        needs: configurations that are going to run; their stages that are stored count as used from the start.

    Of all processes that use a cache one looks at a time, and a look's pause is at least twenty times as long as the look.

    Raises:
        InvalidInput: what stands as the budget is no size.
    """
    budget_of(cache)
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(cache, look_every_s, over, needs), name="cache budget", daemon=True)
    looking.start()
    try:
        with pinned(cache):
            yield
    finally:
        over.set()
        looking.join(LEAVE_WITHIN_S)
        _keep(cache)


def _look(cache: Path, every_s: float, over: threading.Event, needs: Iterable[TrialConfig]) -> None:
    protect_planned_stages(cache, needs)
    pause, stamp = every_s, cache / "pins" / "looked"
    while not over.wait(pause):
        start = time.monotonic()
        try:
            recent = time.time() - stamp.stat().st_mtime < every_s / 2
        except OSError:
            recent = False
        if not recent:
            _keep(cache, stamp)
        pause = max(every_s, LOOK_SHARE * (time.monotonic() - start))


def _keep(cache: Path, stamp: Path | None = None) -> None:
    """Evict what is beyond the budget, unless somebody else is at it."""
    try:
        budget = budget_of(cache)
        claim = None if budget is None else try_claim(cache / "pins" / "evicting")
        if budget is not None and claim is not None:
            with claim:
                evict(cache, budget)
                if stamp is not None:
                    stamp.touch()
    except (OSError, InvalidInput) as error:  # Worth no trial.
        _LOG.warning("%s: not kept within its budget: %s", cache, error)
