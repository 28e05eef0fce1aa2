"""The watch over a running attempt: it must make progress, and keep to its time limit.

A heartbeat tells that a process lives. It comes from a thread of its own, so it goes on while the
training hangs: in a read that never returns, on a deadlocked GPU, in C code that holds the
interpreter lock. Therefore every progress report arms a timer of `faulthandler`, which needs no
lock. If it expires, the process writes the traceback of every thread and ends with exit code 1.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from moleflow.data.digests import DigestCache
from moleflow.data.image_facts import ImageFacts
from orchestrator.execution.backend import WorkerConfig
from orchestrator.records.stalls import stall_file

ARM_EVERY_S, TELL_EVERY_S = 1.0, 10.0


class TimeLimitReached(BaseException):
    """Raised in a worker whose attempt has run for `resources.time_min`.

    A BaseException, so that `except Exception` does not catch it.
    """


class ProgressWatch:
    """The watch over one attempt; a context manager around it.

    Inline, the process is the user's own command: a stalled trial is shown and nothing ends it.
    In a scheduler's job the scheduler keeps the time limit.

    Args:
        record: the path of the attempt's record.
        setup: `stall_min` and `time_min` of the worker, its backend and its job.
        clock: seconds since an arbitrary start.

    """

    def __init__(self, record: Path, setup: WorkerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        # The timer writes to an open file, which must be one of this node.
        self._path, self._clock = stall_file(record if setup.scratch is None else setup.scratch / record.name), clock
        stall_s = 60 * setup.stall_min
        self._stall_s = 0.0 if setup.backend == "inline" else stall_s
        self._arm_every_s = min(ARM_EVERY_S, stall_s / 10)
        self._tell_every_s = min(TELL_EVERY_S, stall_s / 10) if stall_s else TELL_EVERY_S
        self._last = self._armed = self._told = clock()
        self._deadline = self._last + 60 * setup.time_min if setup.time_min and not setup.job else float("inf")
        self._file: BinaryIO | None = None

    def __enter__(self) -> ProgressWatch:
        if self._stall_s:
            # On a full disk the attempt is not watched; it fails at its first own write.
            with contextlib.suppress(OSError):
                self._file = self._path.open("wb")
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            with contextlib.suppress(OSError):
                self._path.unlink()

    def progress(self) -> None:
        """Take note of progress."""
        self._last = self._clock()
        if self._last - self._armed >= self._arm_every_s:
            self._arm()

    def waiting(self) -> None:
        """Take note that another worker's work is awaited: no stall, and no time of its own."""
        before = self._last
        self.progress()
        self._deadline += self._last - before

    def check_time(self) -> None:
        """Compare the attempt's time with its limit.

        Raises:
            TimeLimitReached: it has run for longer.

        """
        if self._clock() > self._deadline:
            self._deadline = float("inf")
            raise TimeLimitReached

    def told(self) -> None:
        """Take note that readers of the event log have learned of the progress."""
        self._told = self._last

    @property
    def is_untold(self) -> bool:
        """True if readers of the event log have learned of no progress for some seconds."""
        return self._last - self._told >= self._tell_every_s

    def _arm(self) -> None:
        self._armed = self._last
        if self._file is not None:
            # Progress just before the next arming counts from then on, hence the sum.
            faulthandler.dump_traceback_later(self._stall_s + self._arm_every_s, exit=True, file=self._file)


class WatchedDigests(DigestCache):
    """A digest cache that calls `report` at each image: reading all of them may take long."""

    def __init__(self, path: Path, report: Callable[[], None]) -> None:
        super().__init__(path)
        self._report = report

    def facts(self, path: Path, is_mask: bool = False) -> ImageFacts:
        """As `DigestCache.facts`."""
        self._report()
        return super().facts(path, is_mask)
