"""Who is using a cache: one small file a running sweep, kept alive and found dead as a claim is.

    <cache>/pins/<token>.json      its process, and since when it uses the cache
    <cache>/pins/now               touched to learn what time it is by the clock of the filesystem

A pin holds everything that was used since then: the stages and checkpoints themselves, all features of a key of which any were used,
because more of them will be wanted, and all generated defects. So that the minute within which a use is noted once
(`moleflow.cache.entries.touch`) does no harm, two minutes are added.

Times are compared with each other as the filesystem writes them, never with the clock of the machine that looks. And a pin is its
owner's: one of another machine that nobody has touched for a minute holds nothing, but its file stays for a day, and a heartbeat that
finds its file gone writes it again.
"""

from __future__ import annotations

import json
import logging
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moleflow.cache.claim import Claim, create_json, is_stale, process_identity
from moleflow.cache.entries import DEFECTS, CacheEntry

SLACK_S = 120.0
REMOVED_AFTER_S = 86_400.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """A running sweep: `<host>:<process>`, and since when it uses the cache, in seconds since 1970."""

    who: str
    since: float

    @property
    def host(self) -> str:
        """The machine that its process runs on."""
        return self.who.partition(":")[0]


@contextmanager
def pinned(cache: Path) -> Iterator[None]:
    """Pin what is used of the cache inside; a cache that cannot be written is used without."""
    folder = cache / "pins"
    path, pin = folder / f"{uuid.uuid4().hex}.json", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if create_json(path, {**process_identity(), "since": filesystem_time(folder)}):
            pin = Claim(path, rewrite=True)
    except OSError as error:
        _LOG.warning("%s: cannot be written (%s); what is used of the cache may be cleared meanwhile", path, error)
    try:
        yield
    finally:
        if pin is not None:
            with suppress(OSError):
                pin.release()


def pins(cache: Path) -> list[Pin]:
    """The pins of living processes, oldest first; those of dead ones are removed, at once on their own host, elsewhere after a day."""
    found, folder = [], cache / "pins"
    paths = list(folder.glob("*.json"))
    now = filesystem_time(folder) if paths else 0.0
    for path in paths:
        with suppress(OSError):
            pin = _read(path)
            if not is_stale(path, now=now):
                found.append(pin)
            elif pin.host == socket.gethostname() or is_stale(path, REMOVED_AFTER_S, now):
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda pin: pin.since)


def filesystem_time(folder: Path) -> float:
    """What time it is by the clock that stamps the files in a folder, in seconds since 1970; ours where nothing can be written there."""
    probe = folder / "now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()


def pinned_groups(found: Iterable[CacheEntry], live: Iterable[Pin]) -> set[str]:
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
