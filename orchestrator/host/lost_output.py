"""Output of a run whose terminal was closed, or whose reader has ended."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _LosableFile(io.FileIO):
    """A file that drops its bytes once its terminal, or the reader of its pipe, is gone."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        # From a disk, EIO means damage; only a terminal gives it for being closed.
        self._lost = (errno.EPIPE, errno.EIO) if os.isatty(descriptor) else (errno.EPIPE,)

    def write(self, data) -> int | None:  # type: ignore[no-untyped-def,override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self._lost:
                raise
            return memoryview(data).nbytes


@contextlib.contextmanager
def lost_output_ignored() -> Iterator[None]:
    """Let prints succeed within the block although nobody can read them any more.

    A run takes hours. It must not fail because its terminal was closed, as after `nohup`, or
    because a `tee` behind it has ended. On a full disk, prints fail as elsewhere.
    """
    before = sys.stdout, sys.stderr
    losable = [_losable(stream) for stream in before]
    sys.stdout, sys.stderr = losable
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in losable:
            stream.flush()


def _losable(stream: TextIO) -> TextIO:
    """Return the same stream over a losable file; anything but a plain file stays, as in a test."""
    if type(stream) is not io.TextIOWrapper:
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_LosableFile(stream.fileno())),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
