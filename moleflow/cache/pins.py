"""Pins: one small file per running sweep that keeps what it uses of a cache from being removed.

    <cache>/pins/<token>.json      the sweep's process, and since when it uses the cache

A pin is kept alive and found dead as a claim is. It protects everything used since its start:
stages and checkpoints, all features of a key of which any were used, since more of them will be
needed, and all generated defects. A use is noted at most once a minute
(`moleflow.cache.entries.mark_used`); `SLACK_S` makes up for that.

Times are compared as the filesystem writes them, never with the clock of the machine that compares.
A pin belongs to its owner. A pin of another machine that was not touched for ten minutes protects
nothing, but its file stays for a day; and a heartbeat that finds its file gone writes it again.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moleflow import files
from moleflow.cache.claim import Claim, is_stale
from moleflow.cache.entries import DEFECTS, CacheEntry
from moleflow.owner import owner_is_gone, process_identity

SLACK_S = 120.0
SILENT_AFTER_S = 600.0
REMOVED_AFTER_S = 86_400.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """A running sweep.

    Attributes:
        who: `<host>:<pid>`.
        since: the start of its use of the cache, in seconds since 1970.
    """

    who: str
    since: float

    @property
    def host(self) -> str:
        """The machine that its process runs on."""
        return self.who.partition(":")[0]


@contextmanager
def pinned(cache: Path) -> Iterator[None]:
    """Pin what the block uses of the cache; one that cannot be written is used without a pin."""
    folder = cache / "pins"
    path, claim = folder / f"{uuid.uuid4().hex}.json", None
    try:
        files.make_folder(folder)
        content = json.dumps({**process_identity(), "since": files.clock(folder)})
        if files.create_exclusively(path, content.encode()):
            claim = Claim(path, content, rewrite=True)
    except OSError as error:
        _LOG.warning("%s: cannot be written (%s); what this sweep uses may be cleared meanwhile", path, error)
    try:
        yield
    finally:
        if claim is not None:
            with suppress(OSError):
                claim.release()


def pins(cache: Path) -> list[Pin]:
    """The pins of live processes, oldest first.

    Pins of dead processes are removed: at once on their own host, elsewhere after a day.
    """
    live, folder = [], cache / "pins"
    for name in files.names(folder):
        path = folder / name
        if path.suffix != ".json":
            continue
        with suppress(OSError):
            pin, gone = _read(path)
            silent_s = (files.age(path) or 0.0) if gone is None else 0.0
            if gone or silent_s > REMOVED_AFTER_S:
                files.remove(path)
            elif silent_s <= SILENT_AFTER_S:
                live.append(pin)
    return sorted(live, key=lambda pin: pin.since)


def pinned_groups(entries: Iterable[CacheEntry], live: Iterable[Pin]) -> set[str]:
    """The groups of entries in use, by a live pin or by a worker that holds a claim in it."""
    entries, live = list(entries), list(live)
    since = min((pin.since for pin in live), default=float("inf")) - SLACK_S
    groups = {entry.group for entry in entries if entry.last_use >= since}
    claims = {claim: entry.group for entry in entries for claim in entry.claims}
    groups |= {group for claim, group in claims.items() if not is_stale(claim)}
    return groups | ({DEFECTS} if live else set())


def _read(path: Path) -> tuple[Pin, bool | None]:
    """A pin from its file, and whether its process has ended; None if nobody here can know."""
    try:
        content = json.loads(files.read(path))
        return Pin(f"{content['host']}:{content['pid']}", float(content["since"])), owner_is_gone(content)
    except (KeyError, TypeError, ValueError):
        # Until it is removed, a pin of other code protects everything.
        return Pin("unknown", 0.0), None
