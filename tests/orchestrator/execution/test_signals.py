"""Signals: what a driver and a worker do at Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from orchestrator.execution.signals import (
    WorkerStopped,
    hangup_ignored,
    stop_on_signal,
    stop_signals_as_ctrl_c,
    stop_signals_ignored,
)

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """The handlers at the begin of the test; those before it are set again after it.

    A SIGHUP that was ignored, by `nohup` or after a hangup in this process, is at its default.
    """
    before = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield {number: signal.getsignal(number) for number in ALL}
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_worker_stops_at_the_first_sigterm_and_ignores_the_second_ctrl_c_and_hangups() -> None:
    stop_on_signal()
    send(signal.SIGINT)
    send(signal.SIGHUP)
    with pytest.raises(WorkerStopped):
        send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert not isinstance(WorkerStopped(), Exception)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
def test_a_driver_takes_several_as_one_ctrl_c_within_the_block_only(stop: int, handlers: dict[int, object]) -> None:
    """Service managers send SIGTERM and SIGHUP together, and shells repeat a SIGHUP."""

    def run() -> None:
        try:
            send(stop)
        finally:
            send(signal.SIGTERM)
            send(signal.SIGHUP)
            closed.append("in order")

    closed: list[str] = []
    with pytest.raises(KeyboardInterrupt), stop_signals_as_ctrl_c():
        run()
    assert closed
    assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]


def test_after_a_hangup_another_one_does_not_interrupt_the_report(handlers: dict[int, object]) -> None:
    with stop_signals_as_ctrl_c():
        pass
    assert signal.getsignal(signal.SIGHUP) is handlers[signal.SIGHUP]
    with pytest.raises(KeyboardInterrupt), stop_signals_as_ctrl_c():
        send(signal.SIGHUP)
    send(signal.SIGHUP)


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals_as_ctrl_c():
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with pytest.raises(KeyboardInterrupt), stop_signals_as_ctrl_c():
        send(signal.SIGTERM)


def test_a_process_started_while_hangups_are_ignored_ignores_them_for_good(handlers: dict[int, object]) -> None:
    ask = "import signal; print(signal.getsignal(signal.SIGHUP).name)"
    with hangup_ignored():
        started = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert started.stdout.strip() == "SIG_IGN"
    assert signal.getsignal(signal.SIGHUP) is handlers[signal.SIGHUP]


def test_no_signal_interrupts_the_end_of_a_run(handlers: dict[int, object]) -> None:
    with stop_signals_ignored():
        for number in ALL:
            send(number)
    assert {number: signal.getsignal(number) for number in ALL} == handlers


def test_outside_the_main_thread_handlers_are_left_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with stop_signals_ignored(), stop_signals_as_ctrl_c():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
