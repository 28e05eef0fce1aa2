"""The budget of a cache, and eviction: the least recently used entries go first, pinned ones never.

    <cache>/budget.json      the budget: {"bytes": N}

The environment variable MOLEFLOW_CACHE_BUDGET overrides the file. Without either there is no budget
and nothing is ever removed: free space on a disk says little under quotas or on a shared disk.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moleflow import files
from moleflow.cache.claim import try_claim
from moleflow.cache.entries import CacheEntry, cache_entries, remove_entry
from moleflow.cache.pins import pinned, pinned_groups, pins
from moleflow.cache.protect_planned import protect_planned_stages
from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig

VARIABLE = "MOLEFLOW_CACHE_BUDGET"
LOOK_EVERY_S = 60.0
# Pause between two checks of the budget: at least this many times as long as a check.
LOOK_SHARE = 20.0
LEAVE_WITHIN_S = 5.0
# Pause between two listings of the pins while entries are removed, in seconds and in listings.
PINS_EVERY_S, PINS_SHARE = 1.0, 5.0

_LOG = logging.getLogger(__name__)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class EvictionResult:
    """The outcome of an eviction.

    Attributes:
        removed: entries that are gone.
        stayed: entries that should go but stay: in use, used meanwhile, or another user's.
    """

    removed: tuple[CacheEntry, ...]
    stayed: tuple[CacheEntry, ...]


def read_size(text: str, source: str) -> int | None:
    """Bytes in a size such as 50GB or 1.5TiB; None for `none`.

    Args:
        text: a number with a unit, or `none`.
        source: the option or variable that the text was given as, for the message.

    Raises:
        InvalidInput: the text is neither.
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
    """The budget of a cache in bytes; None without a budget.

    Raises:
        InvalidInput: the variable or the file holds no size.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return read_size(given, VARIABLE)
    path = cache / "budget.json"
    try:
        size = json.loads(files.read(path))["bytes"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        size = None
    if not isinstance(size, int):
        raise InvalidInput(f'{path}: not {{"bytes": N}}; set the budget again: moleflow-sweep cache --budget 50GB')
    return size


def set_budget(cache: Path, size: int | None) -> None:
    """Set the budget of a cache in bytes, for all who use it from now on; None removes it.

    Raises:
        OSError: the cache cannot be written.
    """
    path = cache / "budget.json"
    if size is None:
        files.remove(path)
        return
    files.make_folder(cache)
    files.write_atomically(path, json.dumps({"bytes": size}).encode())


def evict(cache: Path, budget: int) -> EvictionResult:
    """Remove entries until at most `budget` bytes are left, or nothing but entries in use.

    Leftovers go first, then the least recently used entries. Several processes may evict at once:
    they remove the same entries, each once.
    """
    entries = cache_entries(cache)
    order = sorted(entries, key=lambda entry: (entry.kind != "leftovers", entry.last_use))
    return _remove(cache, entries, order, sum(entry.bytes for entry in entries) - budget)


def clear_cache(cache: Path, part: str | None = None) -> EvictionResult:
    """Remove every entry that is not in use.

    Args:
        cache: the cache's folder.
        part: only entries in this folder of the cache; None = all.
    """
    entries = cache_entries(cache)
    return _remove(cache, entries, [entry for entry in entries if part in (None, entry.part)])


def _remove(
    cache: Path, entries: Iterable[CacheEntry], candidates: Iterable[CacheEntry], excess: float = math.inf
) -> EvictionResult:
    """Remove unpinned candidates, one after the other, until `excess` bytes are gone."""
    pinned = _PinnedGroups(cache, entries)
    removed: list[CacheEntry] = []
    stayed: list[CacheEntry] = []
    for entry in candidates:
        if excess <= 0:
            break
        if not pinned.includes(entry) and remove_entry(entry):
            removed.append(entry)
            excess -= entry.bytes
        else:
            stayed.append(entry)
            if entry.kind == "leftovers":
                # It changed since it was listed: another eviction is removing it, or a writer is
                # about to rename it. No other entry has to go in its place.
                excess -= entry.bytes
    return EvictionResult(tuple(removed), tuple(stayed))


class _PinnedGroups:
    """The groups in use while entries are removed, also by a sweep that starts meanwhile."""

    def __init__(self, cache: Path, entries: Iterable[CacheEntry]) -> None:
        self._cache = cache
        self._first = pins(cache)
        self._groups = pinned_groups(entries, self._first)
        self._due = time.monotonic() + PINS_EVERY_S

    def includes(self, entry: CacheEntry) -> bool:
        """True if the entry is in use."""
        if time.monotonic() >= self._due and entry.group not in self._groups:
            self._update()
        return entry.group in self._groups

    def _update(self) -> None:
        start = time.monotonic()
        live = pins(self._cache)
        # Only for a new sweep: listing the entries that it uses takes a while.
        if any(pin not in self._first for pin in live):
            self._groups |= pinned_groups(cache_entries(self._cache), live)
        now = time.monotonic()
        self._due = now + max(PINS_EVERY_S, PINS_SHARE * (now - start))


@contextmanager
def pinned_within_budget(
    cache: Path, look_every_s: float = LOOK_EVERY_S, needs: Iterable[TrialConfig] = ()
) -> Iterator[None]:
    """Pin what the block uses of a cache, and keep the cache within its budget.

    The budget is checked in a thread, and once more at the end. One process at a time evicts, and
    the pause between two checks is at least twenty times as long as a check.

    Args:
        cache: the cache's folder.
        look_every_s: seconds between two checks, at least.
        needs: configurations that are going to run; their stored stages count as used from the
            start.

    Raises:
        InvalidInput: the budget is not a size.
    """
    budget_of(cache)
    over = threading.Event()
    checks = threading.Thread(target=_check, args=(cache, look_every_s, over, needs), name="cache budget", daemon=True)
    checks.start()
    try:
        with pinned(cache):
            yield
    finally:
        over.set()
        # Not for ever: a check of a large cache on a slow filesystem takes minutes. The thread is a
        # daemon, and the entries that it has not removed by then stay.
        checks.join(LEAVE_WITHIN_S)
        _evict_excess(cache)


def _check(cache: Path, every_s: float, over: threading.Event, needs: Iterable[TrialConfig]) -> None:
    protect_planned_stages(cache, needs)
    pause, stamp = every_s, cache / "pins" / "looked"
    while not over.wait(pause):
        start = time.monotonic()
        try:
            recent = time.time() - stamp.stat().st_mtime < every_s / 2
        except OSError:
            recent = False
        if not recent:  # Else another process has just checked.
            _evict_excess(cache, stamp)
        pause = max(every_s, LOOK_SHARE * (time.monotonic() - start))


def _evict_excess(cache: Path, stamp: Path | None = None) -> None:
    """Evict what exceeds the budget, unless another process is doing so."""
    try:
        budget = budget_of(cache)
        claim = None if budget is None else try_claim(cache / "pins" / "evicting")
        if budget is not None and claim is not None:
            with claim:
                evict(cache, budget)
                if stamp is not None:
                    stamp.touch()
    except (OSError, InvalidInput) as error:  # No reason to lose a trial.
        _LOG.warning("%s: not kept within its budget: %s", cache, error)
