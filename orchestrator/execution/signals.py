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
    """Raise `WorkerStopped` in the main thread at SIGTERM, and ignore SIGINT and SIGHUP.

    Ctrl-C and a closed terminal reach the whole process group; the driver alone decides what its
    workers do.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        # A second SIGTERM must not interrupt the flush of results that the first one starts.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise WorkerStopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextlib.contextmanager
def stop_signals_ignored() -> Iterator[None]:
    """Ignore SIGINT, SIGTERM and SIGHUP within the block.

    Closing a backend takes seconds. Cut short, it would leave results unwritten or processes
    running.
    """
    with _signal_handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def hangup_ignored() -> Iterator[None]:
    """Ignore SIGHUP within the block; processes started in it ignore it for good.

    A closed terminal then stops only the driver, which stops them in order.
    """
    with _signal_handlers({signal.SIGHUP: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def stop_signals_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP within the block.

    `timeout`, service managers and batch systems send SIGTERM; a closed terminal sends SIGHUP.
    Workers then keep their last epoch, as after Ctrl-C. If SIGHUP is ignored already, as after
    `nohup`, it stays ignored.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        # They come in groups: shells repeat a SIGHUP, service managers send it after SIGTERM, and
        # `timeout` signals twice. A second one must not interrupt the end that the first begins.
        for each in handlers:
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        raise KeyboardInterrupt

    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: interrupt}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = interrupt
    with _signal_handlers(handlers) as before:
        try:
            yield
        finally:
            if signal.SIGHUP in received:
                # The shell may send another one while the report is written.
                before[signal.SIGHUP] = signal.SIG_IGN


@contextlib.contextmanager
def _signal_handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[dict[signal.Signals, Any]]:
    """Set signal handlers within the block; does nothing outside the main thread.

    Gives the handlers that are set again after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}  # Python delivers signals to the main thread and lets no other thread set handlers.
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
