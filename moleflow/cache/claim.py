"""One piece of work, one worker: an exclusive claim that outlives no dead process.

A claim is a small file made with O_EXCL, which local and network filesystems honour alike. Its owner touches it every few seconds;
a claim that nobody has touched for `stale_after` seconds, or whose process on this host is gone, may be taken over. Where a scheduler
names the job at hand (MOLEFLOW_JOB), so may one that an earlier start of the same job on another host left behind. Claims save
work, they do not guard correctness: whatever is made under one is written beside and renamed, so a second maker does no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
POLL_GROWTH, POLL_AT_MOST_S = 1.2, 1.5
JOB_VARIABLE = "MOLEFLOW_JOB"


class Heartbeat:
    """Touches the claims that it keeps alive every few seconds, from one thread that lives while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Path, str | None] = {}
        self._rewritten: set[Path] = set()
        self._none_left = threading.Event()

    def keep(self, path: Path, content: str | None, rewrite: bool = False) -> None:
        """Touch the file at `path` from now on, for as long as it holds `content`; where it is gone, write it again if asked to."""
        with self._lock:
            if not self._kept:
                self._none_left = threading.Event()
                threading.Thread(target=self._beat, args=(self._none_left,), name="heartbeat", daemon=True).start()
            self._kept[path] = content
            if rewrite:
                self._rewritten.add(path)

    def leave(self, path: Path) -> None:
        """Touch it no more."""
        with self._lock:
            self._kept.pop(path, None)
            self._rewritten.discard(path)
            if not self._kept:
                self._none_left.set()

    def _beat(self, none_left: threading.Event) -> None:
        while not none_left.wait(HEARTBEAT_S):
            with self._lock:
                kept = list(self._kept.items())
            for path, content in kept:
                # If it was taken over the work goes on: its result is renamed into place all the same.
                if _content(path) == content:
                    with contextlib.suppress(OSError):
                        os.utime(path)
                elif content is not None and not path.exists():
                    self._write_again(path, content)

    def _write_again(self, path: Path, content: str) -> None:
        with (
            self._lock,
            contextlib.suppress(OSError),
        ):  # Whoever leaves it meanwhile waits, and removes what was written.
            if path in self._rewritten:
                create_exclusively(path, content)


class Claim:
    """A held claim; release it with `release()` or by leaving its `with` block.

    Args:
        path: its file, which this process made.
        content: what stands in it; None = what does now.
        heartbeat: what keeps it alive, for those who hold many; None = one of its own.
        rewrite: whether the heartbeat writes the file again where somebody removed it; for what is nobody else's to take.

    """

    def __init__(
        self, path: Path, content: str | None = None, heartbeat: Heartbeat | None = None, rewrite: bool = False
    ) -> None:
        self.path = path
        self._content = _content(path) if content is None else content
        self._heartbeat = heartbeat or Heartbeat()
        self._heartbeat.keep(path, self._content, rewrite)

    def stop(self) -> None:
        """End the heartbeat and leave the file where it is."""
        self._heartbeat.leave(self.path)

    def release(self) -> None:
        """Give the claim back, unless somebody has taken it over."""
        self.stop()
        if _content(self.path) == self._content:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_claim(path: Path, stale_after: float = STALE_AFTER_S) -> Claim | None:
    """The claim at `path`, or None while a live worker holds it.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**process_identity(), "token": uuid.uuid4().hex}
    if create_json(path, record):
        return Claim(path)
    if not is_stale(path, stale_after):
        return None
    # Of several that find it stale, one renames it away; all then race for O_EXCL as usual. Who was slow may have renamed the new
    # holder's claim instead, and puts it back.
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return None
    try:
        if not is_stale(grave, stale_after):
            with contextlib.suppress(FileExistsError):
                os.link(grave, path)
            return None
    finally:
        grave.unlink(missing_ok=True)
    return Claim(path) if create_json(path, record) else None


@contextlib.contextmanager
def exclusive(path: Path, poll: float = 0.2) -> Iterator[None]:
    """Do what stands inside while nobody else does, waiting for as long as a live process holds the claim at `path`.

    Raises:
        OSError: the folder cannot be written.
    """
    while (claim := try_claim(path)) is None:
        time.sleep(poll)
    with claim:
        yield


def _content(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def is_stale(path: Path, stale_after: float = STALE_AFTER_S, now: float | None = None) -> bool:
    """Whether the holder of the claim file at `path` is gone; a claim that is not there is not stale.

    Args:
        now: the time by which its age is taken, in seconds since 1970; None = this host's clock.
    """
    try:
        age = (time.time() if now is None else now) - path.stat().st_mtime
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return False
    try:
        holder = json.loads(text)
    except ValueError:
        holder = None
    if not isinstance(holder, dict):
        return age > stale_after
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        return not process_alive(holder["pid"], holder.get("started"))
    job = os.environ.get(JOB_VARIABLE)
    return age > stale_after or (job is not None and holder.get("job") == job)


def process_alive(pid: int, started: object = None) -> bool:
    """Whether process `pid` runs on this host; `started` (its start tick) tells it from a later process of the same number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return started is None or process_started(pid) in (None, started)


def process_started(pid: int) -> str | None:
    """The start tick of a process since boot where /proc tells it, else None; a zombie counts as ended (tick '')."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] == "Z" else fields[19]


def process_identity() -> dict[str, str | int | None]:
    """Who this process is, as claims and attempt records write it."""
    return {**_process(os.getpid()), "job": os.environ.get(JOB_VARIABLE)}


@cache
def _process(pid: int) -> dict[str, str | int | None]:
    return {"host": socket.gethostname(), "pid": pid, "started": process_started(pid)}


def create_json(path: Path, record: Mapping[str, Any]) -> bool:
    """Write `record` as JSON to a file that must not exist yet; False when it does. Of several that try, one succeeds.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    return create_exclusively(path, json.dumps(record))


def create_exclusively(path: Path, text: str) -> bool:
    """The same with a text.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
    except OSError:
        path.unlink(missing_ok=True)  # A full disk; an empty file would look like a claim for a minute.
        raise
    return True


def wait_for(ready: Callable[[], bool], path: Path, poll: float = 0.05, stale_after: float = STALE_AFTER_S) -> None:
    """Return when `ready()` holds, or when the claim at `path` is free or stale and trying it again makes sense.

    Args:
        poll: seconds after which it looks again at first; then ever more slowly, so that many who wait for hours cost a file server little.
    """
    while not ready() and path.exists() and not is_stale(path, stale_after):
        time.sleep(poll)
        poll = min(poll * POLL_GROWTH, max(poll, POLL_AT_MOST_S))
