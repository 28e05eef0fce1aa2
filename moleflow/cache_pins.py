"""Who is using a cache: one small file a running sweep, kept alive and found dead as a claim is.

    <cache>/pins/<token>.json      its process, and since when it uses the cache

A pin holds everything that was used since then: the stages and checkpoints themselves, all features of a key of which any were used,
because more of them will be wanted, and all generated defects. So that clocks of several machines and the minute within which a use is
noted once (`moleflow.holdings.touch`) do no harm, two minutes are added.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moleflow.claim import Claim, create, is_stale, owner
from moleflow.holdings import DEFECTS, Entry

SLACK_S = 120.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """A running sweep: `<host>:<process>`, and since when it uses the cache, in seconds since 1970."""

    who: str
    since: float


@contextmanager
def pinned(cache: Path) -> Iterator[None]:
    """Pin what is used of the cache inside; a cache that cannot be written is used without."""
    folder = cache / "pins"
    path, pin = folder / f"{uuid.uuid4().hex}.json", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if create(path, {**owner(), "since": time.time()}):
            pin = Claim(path)
    except OSError as error:
        _LOG.warning("%s: cannot be written (%s); what is used of the cache may be cleared meanwhile", path, error)
    try:
        yield
    finally:
        if pin is not None:
            with suppress(OSError):
                pin.release()


def pins(cache: Path) -> list[Pin]:
    """The pins of living processes, oldest first; the others are removed."""
    found = []
    for path in (cache / "pins").glob("*.json"):
        with suppress(OSError):
            if is_stale(path):
                path.unlink(missing_ok=True)
            else:
                found.append(_read(path))
    return sorted(found, key=lambda pin: pin.since)


def pinned_groups(found: Iterable[Entry], live: Iterable[Pin]) -> set[str]:
    """The groups of entries that are in use: by pins, or by a worker who makes more of them under a claim."""
    found, live = list(found), list(live)
    since = min((pin.since for pin in live), default=float("inf")) - SLACK_S
    groups = {entry.group for entry in found if entry.last_use >= since}
    claims = {claim: entry.group for entry in found for claim in entry.claims}
    groups |= {group for claim, group in claims.items() if not is_stale(claim)}
    return groups | ({DEFECTS} if live else set())


def _read(path: Path) -> Pin:
    """A pin; one that cannot be read, being written at this moment, holds everything."""
    try:
        content = json.loads(path.read_text())
        return Pin(f"{content['host']}:{content['pid']}", float(content["since"]))
    except (ValueError, KeyError, TypeError):
        return Pin("unknown", 0.0)
