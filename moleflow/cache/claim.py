"""Claims: files that give one worker the exclusive right to a piece of work.

A claim is a small JSON file that is created exclusively, and names its owner. The owner touches it
every few seconds. Another worker takes it over when it is stale:

- its process is gone, which is certain on its own host,
- elsewhere, it was not touched for `STALE_AFTER_S` seconds, or
- an earlier start of the same scheduler job (MOLEFLOW_JOB) left it on another host.

Claims save work; correctness does not rest on them. A result made under a claim is written to a
temporary file and renamed, so a second maker does no harm.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from moleflow import files
from moleflow.owner import JOB_VARIABLE, owner_is_gone, process_identity

HEARTBEAT_S = 5.0
SURE_S = 2 * HEARTBEAT_S
"""Seconds after its last touch for which a claim is certain to be its owner's. Nobody takes over a
claim of another host that was touched less than `WATCHED_S` seconds ago."""
STALE_AFTER_S = 60.0
WATCHED_S = 3 * HEARTBEAT_S
"""Seconds for which a claim of another host is watched, at least, before it counts as stale."""
LOOK_EVERY_S = 1.0
POLL_GROWTH, POLL_AT_MOST_S = 1.2, 1.5


class Heartbeat:
    """One thread that touches claims every few seconds; it lives while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: dict[Path, str | None] = {}
        self._touched: dict[Path, float] = {}
        self._rewritten: set[Path] = set()
        self._none_left = threading.Event()

    def add(self, path: Path, content: str | None, rewrite: bool = False) -> None:
        """Touch a file from now on, for as long as it has this content.

        Args:
            path: the file.
            content: what its owner wrote; another content means that another worker took it over.
            rewrite: write the file again if it was removed.
        """
        with self._lock:
            if not self._contents:
                self._none_left = threading.Event()
                threading.Thread(target=self._beat, args=(self._none_left,), name="heartbeat", daemon=True).start()
            self._contents[path] = content
            self._touched[path] = files.uptime()
            if rewrite:
                self._rewritten.add(path)

    def remove(self, path: Path) -> float:
        """Touch a file no more; returns the seconds since it was last seen with its content."""
        with self._lock:
            self._contents.pop(path, None)
            since = files.uptime() - self._touched.pop(path, -math.inf)
            self._rewritten.discard(path)
            if not self._contents:
                self._none_left.set()
        return since

    def _beat(self, none_left: threading.Event) -> None:
        while not none_left.wait(HEARTBEAT_S):
            with self._lock:
                contents = list(self._contents.items())
            # Outside the lock: a file server that hangs must not keep `remove` waiting.
            for path, content in contents:
                begin, now = files.uptime(), _content(path)
                # A claim that was taken over is left alone. The work goes on: its result is renamed
                # into place all the same.
                if now == content:
                    with contextlib.suppress(OSError):
                        files.touch(path)
                        self._note(path, begin)
                    continue
                self._note(path, -math.inf)
                if now is None and content is not None:
                    self._write_again(path, content)

    def _note(self, path: Path, seen: float) -> None:
        with self._lock:
            if path in self._contents:
                self._touched[path] = seen

    def _write_again(self, path: Path, content: str) -> None:
        # Under the lock: `remove` waits until the file is there, so that its caller can delete it.
        with self._lock, contextlib.suppress(OSError):
            if path in self._rewritten:
                files.create_exclusively(path, content.encode())


class Claim:
    """A held claim; give it back with `release()` or by leaving its `with` block.

    Args:
        path: its file, which this process made.
        content: what the file holds.
        heartbeat: a heartbeat shared by many claims; None starts one of its own.
        rewrite: let the heartbeat write the file again if it was removed. For files that no other
            worker may take over.

    Attributes:
        is_taken_over: true if its holder before died.
    """

    is_taken_over = False

    def __init__(self, path: Path, content: str, heartbeat: Heartbeat | None = None, rewrite: bool = False) -> None:
        self.path = path
        self._content = content
        self._heartbeat = heartbeat or Heartbeat()
        self._heartbeat.add(path, self._content, rewrite)

    def stop(self) -> None:
        """End the heartbeat and keep the file."""
        self._heartbeat.remove(self.path)

    def release(self) -> None:
        """Remove the file, unless another worker has taken the claim over."""
        silent_s = self._heartbeat.remove(self.path)
        if silent_s < SURE_S or _content(self.path) == self._content:
            files.remove(self.path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_claim(path: Path, stale_after: float = STALE_AFTER_S) -> Claim | None:
    """The claim at `path`, or None while a live worker holds it.

    Args:
        path: the file of the claim; its folder is made.
        stale_after: seconds without a heartbeat after which the claim is taken over.

    Raises:
        OSError: the folder cannot be written.
    """
    content = json.dumps({**process_identity(), "token": uuid.uuid4().hex})
    if (claim := _create(path, content)) is not None:
        return claim
    judged = _content(path)
    if judged is None:
        # It was released just now, or this host still believes that there is none, and would ask
        # again and again.
        files.names(path.parent, fresh=True)
        return None
    if not _is_stale(path, judged, stale_after):
        return None
    if not take_over(path, judged, content):
        return None
    claim = Claim(path, content)
    claim.is_taken_over = True
    return claim


def take_over(path: Path, judged: str, content: str, durable: bool = False) -> bool:
    """Replace a file whose owner is gone. Of several that try, one succeeds.

    Args:
        path: the file.
        judged: its content when its owner was found gone.
        content: the new content; no other process writes the same.
        durable: as of `create_exclusively`.

    Raises:
        OSError: the folder cannot be written.
    """
    # It is renamed before it is removed: of several that judged the same, one rename succeeds, and
    # all then race to create it as usual. A slow one may have renamed the file of the new owner
    # instead. It sees that by the content, which it has now for itself, and puts it back.
    with files.temporary_file(path) as grave:
        try:
            files.rename(path, grave)
        except FileNotFoundError:
            return False
        renamed = _content(grave)
        if renamed is not None and renamed != judged:
            # It fails where a third process has made the file meanwhile.
            files.create_exclusively(path, renamed.encode(), durable=durable)
            return False
    return files.create_exclusively(path, content.encode(), durable=durable)


def _create(path: Path, content: str) -> Claim | None:
    created = files.make_folder_if_missing(path.parent, lambda: files.create_exclusively(path, content.encode()))
    return Claim(path, content) if created else None


@contextlib.contextmanager
def exclusive(path: Path, poll: float = 0.2) -> Iterator[None]:
    """Hold the claim at `path` within the block; wait for as long as a live process holds it.

    Args:
        path: the file of the claim.
        poll: seconds between the first two tries; the pauses grow.

    Raises:
        OSError: the folder cannot be written.
    """
    while (claim := try_claim(path)) is None:
        time.sleep(poll)
        poll = min(poll * POLL_GROWTH, max(poll, POLL_AT_MOST_S))
    with claim:
        yield


def is_stale(path: Path, stale_after: float = STALE_AFTER_S) -> bool:
    """True if the holder of the claim file at `path` is gone; False too if there is no such file.

    A claim of another host is never stale at the first look: it must have been watched for
    `WATCHED_S` seconds by this process, since the clock that stamps it may be wrong.

    Args:
        path: the file of the claim.
        stale_after: seconds without a heartbeat after which a holder that cannot be looked up is
            gone.
    """
    content = _content(path)
    return content is not None and _is_stale(path, content, stale_after)


def looks_stale(path: Path, stale_after: float = STALE_AFTER_S) -> bool:
    """As `is_stale`, at the first look and without writing: for showing, not for taking over."""
    content = _content(path)
    status = files.stat_of(path)
    if content is None or status is None:
        return False
    gone = _is_gone(content)
    return time.time() - status.st_mtime > stale_after if gone is None else gone


def wait_for(ready: Callable[[], bool], path: Path, poll: float = 0.05, stale_after: float = STALE_AFTER_S) -> None:
    """Return when `ready()` is true, or when the claim at `path` is free or stale.

    Args:
        ready: called at each look.
        path: the file of the claim.
        poll: seconds to the second look. The pauses grow, so that many workers that wait for hours
            cost a file server little.
        stale_after: seconds without a heartbeat after which the claim is stale.
    """
    while not ready():
        content = _content(path)
        if content is None or _is_stale(path, content, stale_after):
            return
        time.sleep(poll)
        poll = min(poll * POLL_GROWTH, max(poll, POLL_AT_MOST_S))


class _Watch:
    """Remembers since when the claims of other hosts are as they are, by this process's clock."""

    def __init__(self) -> None:
        self._seen: dict[Path, _Look] = {}

    def look(self, path: Path, content: str) -> tuple[float, float] | None:
        """Seconds for which a claim did not change, and its time of change; None if it is gone."""
        now = time.monotonic()
        seen = self._seen.get(path)
        if seen is not None and seen.content == content and now < seen.last + LOOK_EVERY_S:
            return now - seen.since, seen.changed
        status = files.stat_now(path)
        if status is None:
            self._seen.pop(path, None)
            return None
        if seen is None or (seen.content, seen.changed) != (content, status.st_mtime):
            self._seen[path] = seen = _Look(content, status.st_mtime, now, now)
        seen.last = now
        return now - seen.since, seen.changed


@dataclass
class _Look:
    """A claim as it was last seen; `since` and `last` by this process's clock, seconds."""

    content: str
    changed: float
    since: float
    last: float


_WATCH = _Watch()


def _is_stale(path: Path, content: str, stale_after: float) -> bool:
    gone = _is_gone(content)
    if gone is not None:
        return gone
    look = _WATCH.look(path, content)
    if look is None:
        return False
    unchanged, changed = look
    if unchanged >= stale_after:
        return True
    return unchanged >= min(WATCHED_S, stale_after) and files.clock(path.parent) - changed > stale_after


def _is_gone(content: str) -> bool | None:
    """True if the holder has ended, False if it runs, None if only its heartbeat can tell."""
    try:
        holder: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(holder, dict):
        return None
    gone = owner_is_gone(holder)
    job = os.environ.get(JOB_VARIABLE)
    return True if gone is None and job is not None and holder.get("job") == job else gone


def _content(path: Path) -> str | None:
    try:
        return files.read(path).decode(errors="replace")
    except OSError:
        return None
