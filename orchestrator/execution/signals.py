"""Signals in drivers and workers."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any


class WorkerStopped(BaseException):
    """Raised in a worker that received SIGTERM.

    A BaseException, so that `except Exception` does not catch it.
    """


def stop_on_signal() -> None:
    """Raise `WorkerStopped` in the main thread at SIGTERM, and ignore SIGINT.

    Ctrl-C reaches the whole process group; the driver alone decides what its workers do.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        # A second SIGTERM must not interrupt the flush of results that the first one starts.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise WorkerStopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def stop_signals_ignored() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM within the block.

    Closing a backend takes seconds. Cut short, it would leave results unwritten or processes
    running.
    """
    with _signal_handlers({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM within the block.

    `timeout`, service managers and batch systems send SIGTERM. Workers then keep their last epoch,
    as after Ctrl-C.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _signal_handlers({signal.SIGTERM: interrupt}):
        yield


@contextlib.contextmanager
def _signal_handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Set signal handlers within the block; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread and lets no other thread set handlers.
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
