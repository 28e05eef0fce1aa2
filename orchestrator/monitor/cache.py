"""The texts of `moleflow-sweep cache`: contents and users, budget, evicting and clearing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from moleflow.cache.array_packs import PackFolder
from moleflow.cache.entries import DEFECTS, FEATURES, STAGES, CacheEntry, cache_entries
from moleflow.cache.eviction import VARIABLE, EvictionResult, budget_of, clear_cache, evict, read_size, set_budget
from moleflow.cache.pins import pinned_groups, pins
from moleflow.errors import InvalidInput, counted
from moleflow.suggestions import hint_at
from orchestrator.host.cache_folder import check_folder

PARTS = {"all": None, "features": FEATURES, "stages": STAGES, "defects": DEFECTS}


def check_cache_request(cache: Path, part: str | None, evict: bool, budget: str | None) -> None:
    """Check all options of the command before it does anything.

    Raises:
        InvalidInput: the cache is a file, the part does not exist, or there is no budget to evict
            down to.

    """
    check_folder(cache)
    if part is not None and part not in PARTS:
        raise InvalidInput(f"--clear: given '{part}', allowed: {' | '.join(PARTS)}{hint_at(part, PARTS)}")
    given = budget is not None and not os.environ.get(VARIABLE)
    size = read_size(str(budget), "--budget") if given else budget_of(cache)
    if evict and size is None:
        raise InvalidInput(_no_budget(cache))


def describe_cache(cache: Path) -> list[str]:
    """The cache in lines for people.

    Raises:
        InvalidInput: the stored budget is no size.

    """
    entries, live = cache_entries(cache), pins(cache)
    groups = pinned_groups(entries, live)
    images = sum(len(PackFolder(cache / group).index()) for group in {e.group for e in entries if e.part == FEATURES})
    by_kind = {
        kind: [entry for entry in entries if entry.kind == kind] for kind in ("stages", "checkpoints", "defects")
    }
    lines = [
        f"cache: {cache}",
        f"budget: {_budget(cache, sum(entry.bytes for entry in entries))}",
        f"features: {counted(images, 'image')}, {_held(entry for entry in entries if entry.kind == 'features')}",
        *(f"{kind}: {len(held)}, {_held(held)}" for kind, held in by_kind.items()),
    ]
    if left := [entry for entry in entries if entry.kind == "leftovers"]:
        lines.append(f"half-written: {len(left)}, {_held(left)}")
    if used := [entry for entry in entries if entry.group in groups]:
        lines.append(f"in use: {_size(sum(entry.bytes for entry in used))}{_users(cache)}")
    elif live:
        lines.append(f"in use: nothing yet{_users(cache)}")
    lines += [f"{part}: a link, left alone" for part in (FEATURES, STAGES, DEFECTS) if (cache / part).is_symlink()]
    embedded = [path for path in cache.glob("embedded-*") if path.is_dir()]
    return [*lines, f"embedded images: {', '.join(path.name for path in embedded) or 'not drawn yet'}"]


def set_cache_budget(cache: Path, text: str) -> str:
    """Set the budget, or remove it with `none`; a line for people.

    Raises:
        InvalidInput: the text is no size.
        OSError: the cache cannot be written.

    """
    set_budget(cache, read_size(text, "--budget"))
    above = os.environ.get(VARIABLE)
    return f"budget: set to {text}" + (f"; {VARIABLE} is {above} and stands above it here" if above else "")


def evict_now(cache: Path) -> str:
    """Evict down to the budget; a line for people.

    Raises:
        InvalidInput: there is no budget.

    """
    budget = budget_of(cache)
    if budget is None:
        raise InvalidInput(_no_budget(cache))
    return _result("evicted", evict(cache, budget), cache)


def clear_part(cache: Path, part: str) -> str:
    """Remove the entries of a part (one of `PARTS`) that are not in use; a line for people."""
    return _result("cleared", clear_cache(cache, PARTS[part]), cache)


def _no_budget(cache: Path) -> str:
    return f"--evict: {cache} has no budget; give one with --budget 50GB or {VARIABLE}"


def _result(action: str, done: EvictionResult, cache: Path) -> str:
    removed, stayed = (sum(entry.bytes for entry in some) for some in (done.removed, done.stayed))
    line = f"{action}: {_size(removed)}"
    return line if not done.stayed else f"{line}; {_size(stayed)} in use, left alone{_users(cache)}"


def _users(cache: Path) -> str:
    who = [f"{pin.who} since {_time(pin.since)}" for pin in pins(cache)]
    return f" (by {', '.join(who)})" if who else ""


def _budget(cache: Path, held: int) -> str:
    budget = budget_of(cache)
    if budget is None:
        return f"none, {_size(held)} held"
    source = f" ({VARIABLE})" if os.environ.get(VARIABLE) else ""
    over = f", {_size(held - budget)} over it" if held > budget else ""
    return f"{_size(budget)}{source}, {_size(held)} held{over}"


def _held(entries: Iterable[CacheEntry]) -> str:
    """The size of entries, and the times of their last use."""
    held = list(entries)
    size = _size(sum(entry.bytes for entry in held))
    if not held:
        return size
    first, last = (_time(pick(entry.last_use for entry in held)) for pick in (min, max))
    return f"{size}, last used {first}" + (f" to {last}" if last != first else "")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
