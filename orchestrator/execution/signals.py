"""Signals in drivers and workers."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any


class WorkerStopped(BaseException):
    """This process was asked to stop; not an Exception, so that no handler of ordinary errors swallows it."""


def stop_on_signal() -> None:
    """Turn SIGTERM into `Stop` in the main thread, and leave SIGINT to the driver."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise WorkerStopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave Ctrl-C unheard: closing takes seconds, and cut short it would leave results unwritten or processes behind."""
    with _heard({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, which `timeout`, service managers and batch systems send, as Ctrl-C is taken: workers keep what they have reached."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _heard({signal.SIGTERM: stop}):
        yield


@contextlib.contextmanager
def _heard(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Handlers of signals for a while."""
    if threading.current_thread() is not threading.main_thread():
        yield  # No signal reaches this thread.
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
