"""Prints of a run whose terminal or reader is gone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from orchestrator.host.lost_output import lost_output_ignored


@pytest.fixture
def stdout_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], io.TextIOWrapper]]:
    """Make stdout a stream over a file descriptor, as Python's own is."""
    opened: list[int] = []

    def use(descriptor: int) -> io.TextIOWrapper:
        opened.append(descriptor)
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False)), encoding="ascii", errors="replace"
        )
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    yield use
    monkeypatch.undo()
    for descriptor in opened:
        os.close(descriptor)


def terminal() -> tuple[int, int]:
    return os.openpty()


def pipe() -> tuple[int, int]:
    return os.pipe()


@pytest.mark.parametrize("make", [terminal, pipe])
def test_prints_succeed_after_the_reader_is_gone(
    make: Callable[[], tuple[int, int]], stdout_on: Callable[[int], io.TextIOWrapper]
) -> None:
    reader, writer = make()
    before = stdout_on(writer)
    console = Console()
    with lost_output_ignored():
        console.print("read ±")
        assert os.read(reader, 100).split() == [b"read", b"?"]
        os.close(reader)
        console.print("lost")
        print("lost too", flush=True)
        print("and what no one flushes")
    assert sys.stdout is before


def test_outside_the_block_a_closed_pipe_is_an_error(stdout_on: Callable[[int], io.TextIOWrapper]) -> None:
    reader, writer = pipe()
    os.close(reader)
    stream = stdout_on(writer)
    with lost_output_ignored():
        print("lost", flush=True)
    with pytest.raises(BrokenPipeError):
        print("refused", flush=True)
    with pytest.raises(BrokenPipeError):  # Python keeps the bytes and would write them at the end.
        stream.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that is always full is Linux's")
def test_on_a_full_disk_a_print_fails_as_elsewhere(stdout_on: Callable[[int], io.TextIOWrapper]) -> None:
    stdout_on(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OSError, match="No space left"), lost_output_ignored():
        print("refused")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that fails with EIO is Linux's")
def test_damage_of_a_disk_is_no_closed_terminal(stdout_on: Callable[[int], io.TextIOWrapper]) -> None:
    """No memory lies at address 0, so a write there ends as one to a damaged disk does."""
    stdout_on(os.open("/proc/self/mem", os.O_WRONLY))
    with pytest.raises(OSError, match="Input/output error"), lost_output_ignored():
        print("refused")
