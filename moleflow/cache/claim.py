"""Claims: files that give one worker the exclusive right to a piece of work.

A claim is a small JSON file made with O_EXCL, which local and network filesystems honour alike. Its
owner touches it every few seconds. Another worker takes it over when it is stale:

- its process on this host is gone,
- it was not touched for `STALE_AFTER_S` seconds, or
- an earlier start of the same scheduler job (MOLEFLOW_JOB) left it on another host.

Claims save work; correctness does not rest on them. A result made under a claim is written to a
temporary file and renamed, so a second maker does no harm.
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

import psutil

HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
POLL_GROWTH, POLL_AT_MOST_S = 1.2, 1.5
JOB_VARIABLE = "MOLEFLOW_JOB"
# The kernel gives the time of boot in whole seconds and may round it up once and down another time.
_SAME_START_S = 1.5


class Heartbeat:
    """One thread that touches claims every few seconds; it lives while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: dict[Path, str | None] = {}
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
            if rewrite:
                self._rewritten.add(path)

    def remove(self, path: Path) -> None:
        """Touch a file no more."""
        with self._lock:
            self._contents.pop(path, None)
            self._rewritten.discard(path)
            if not self._contents:
                self._none_left.set()

    def _beat(self, none_left: threading.Event) -> None:
        while not none_left.wait(HEARTBEAT_S):
            with self._lock:
                contents = list(self._contents.items())
            # Outside the lock: a file server that hangs must not keep `remove` waiting.
            for path, content in contents:
                # A claim that was taken over is left alone. The work goes on: its result is renamed
                # into place all the same.
                if _content(path) == content:
                    with contextlib.suppress(OSError):
                        os.utime(path)
                elif content is not None and not path.exists():
                    self._write_again(path, content)

    def _write_again(self, path: Path, content: str) -> None:
        # Under the lock: `remove` waits until the file is there, so that its caller can delete it.
        with self._lock, contextlib.suppress(OSError):
            if path in self._rewritten:
                create_exclusively(path, content)


class Claim:
    """A held claim; give it back with `release()` or by leaving its `with` block.

    Args:
        path: its file, which this process made.
        content: what the file holds; None reads it.
        heartbeat: a heartbeat shared by many claims; None starts one of its own.
        rewrite: let the heartbeat write the file again if it was removed. For files that no other
            worker may take over.

    """

    def __init__(
        self, path: Path, content: str | None = None, heartbeat: Heartbeat | None = None, rewrite: bool = False
    ) -> None:
        self.path = path
        self._content = _content(path) if content is None else content
        self._heartbeat = heartbeat or Heartbeat()
        self._heartbeat.add(path, self._content, rewrite)

    def stop(self) -> None:
        """End the heartbeat and keep the file."""
        self._heartbeat.remove(self.path)

    def release(self) -> None:
        """Remove the file, unless another worker has taken the claim over."""
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

    Args:
        path: the file of the claim; its folder is made.
        stale_after: seconds without a heartbeat after which the claim is taken over.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**process_identity(), "token": uuid.uuid4().hex}
    if create_json(path, record):
        return Claim(path)
    if not is_stale(path, stale_after):
        return None
    # A stale claim is renamed before it is removed: of several workers that found it stale, one
    # rename succeeds, and all then race for O_EXCL as usual. A slow worker may have renamed the
    # claim of the new holder instead. It sees that by the content, which it has now for itself, and
    # puts it back.
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return None
    try:
        if not is_stale(grave, stale_after):
            # A link and no rename: it fails where a third worker has made the claim meanwhile.
            with contextlib.suppress(FileExistsError):
                os.link(grave, path)
            return None
    finally:
        grave.unlink(missing_ok=True)
    return Claim(path) if create_json(path, record) else None


@contextlib.contextmanager
def exclusive(path: Path, poll: float = 0.2) -> Iterator[None]:
    """Hold the claim at `path` within the block; wait for as long as a live process holds it.

    Args:
        path: the file of the claim.
        poll: seconds between two tries.

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
    """True if the holder of the claim file at `path` is gone; False too if there is no such file.

    Args:
        path: the file of the claim.
        stale_after: seconds without a heartbeat after which a holder that cannot be looked up is
            gone.
        now: the present by the clock that stamps files, in seconds since 1970; None = this host's
            clock.
    """
    try:
        age = (time.time() if now is None else now) - path.stat().st_mtime
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return False
    try:
        holder = json.loads(text)
    except ValueError:
        # Also an empty file: its maker may be between creating and writing it.
        holder = None
    if not isinstance(holder, dict):
        return age > stale_after
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        # No age here: a process that is stopped, or waits for a slow disk, still holds its claim.
        return not process_alive(holder["pid"], holder.get("started"))
    job = os.environ.get(JOB_VARIABLE)
    return age > stale_after or (job is not None and holder.get("job") == job)


def process_alive(pid: int, started: object = None) -> bool:
    """True if process `pid` runs on this host.

    Args:
        pid: its number.
        started: its start as `process_started` gives it, which tells it from a later process of the
            same number. A text is in clock ticks, as earlier code wrote it. None = do not compare.
    """
    try:
        now_started = _start(pid)
    except psutil.NoSuchProcess:
        # If /proc hides the processes of other users (hidepid), psutil finds none of them. The
        # kernel still tells: it refuses a signal to a process that exists.
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except (OSError, OverflowError):
            pass
        return False
    except ValueError:  # A negative number.
        return False
    if isinstance(started, str):
        started = float(started) / os.sysconf("SC_CLK_TCK")
    return now_started is not None and (
        not isinstance(started, int | float) or abs(now_started - started) <= _SAME_START_S
    )


def process_started(pid: int) -> float | None:
    """Seconds from the boot of this host to the start of a process; None once it has ended."""
    try:
        return _start(pid)
    except psutil.NoSuchProcess:
        return None


def _start(pid: int) -> float | None:
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        return None  # It has ended; only its parent has not asked how.
    # Since boot, because a time of day changes with every setting of the clock: a live owner would
    # then be taken for a later process.
    return round(process.create_time() - psutil.boot_time(), 2)


def process_identity() -> dict[str, str | int | float | None]:
    """This process as claims and attempt records name it: host, pid, started, job."""
    return {**_process(os.getpid()), "job": os.environ.get(JOB_VARIABLE)}


@cache
def _process(pid: int) -> dict[str, str | int | float | None]:
    return {"host": socket.gethostname(), "pid": pid, "started": process_started(pid)}


def create_json(path: Path, record: Mapping[str, Any]) -> bool:
    """Write `record` as JSON to a file that must not exist yet. Of several that try, one succeeds.

    Returns:
        False if the file exists.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    return create_exclusively(path, json.dumps(record))


def create_exclusively(path: Path, text: str) -> bool:
    """Write `text` to a file that must not exist yet. Of several that try, one succeeds.

    Returns:
        False if the file exists.

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
        path.unlink(missing_ok=True)  # A full disk. An empty file would pass for a claim for a minute.
        raise
    return True


def wait_for(ready: Callable[[], bool], path: Path, poll: float = 0.05, stale_after: float = STALE_AFTER_S) -> None:
    """Return when `ready()` is true, or when the claim at `path` is free or stale.

    Args:
        ready: called at each look.
        path: the file of the claim.
        poll: seconds to the second look. The pauses grow, so that many workers that wait for hours
            cost a file server little.
        stale_after: seconds without a heartbeat after which the claim is stale.
    """
    while not ready() and path.exists() and not is_stale(path, stale_after):
        time.sleep(poll)
        poll = min(poll * POLL_GROWTH, max(poll, POLL_AT_MOST_S))
