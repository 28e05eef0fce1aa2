"""Signals: what a driver and a worker do at Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from orchestrator.execution.signals import WorkerStopped, sigterm_as_ctrl_c, stop_on_signal, stop_signals_ignored

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """The handlers before the test; they are set again after it."""
    before = {number: signal.getsignal(number) for number in BOTH}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_worker_stops_at_the_first_sigterm_and_ignores_the_second_and_ctrl_c() -> None:
    stop_on_signal()
    send(signal.SIGINT)
    with pytest.raises(WorkerStopped):
        send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert not isinstance(WorkerStopped(), Exception)


def test_a_driver_takes_sigterm_as_ctrl_c_within_the_block_only(handlers: dict[int, object]) -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]


def test_neither_signal_interrupts_the_end_of_a_run(handlers: dict[int, object]) -> None:
    with stop_signals_ignored():
        for number in BOTH:
            send(number)
    assert {number: signal.getsignal(number) for number in BOTH} == handlers


def test_outside_the_main_thread_handlers_are_left_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with stop_signals_ignored(), sigterm_as_ctrl_c():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
