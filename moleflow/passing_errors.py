"""Errors of file servers that pass, and reading a file in spite of them.

A file server that restarts, or a network that drops out, answers with an error for some seconds or
minutes. `retried` tries an operation again for that time. `of_present_file` handles ESTALE: the
file was removed or replaced on another host, so its name is looked up again.

`moleflow.files` holds everything else about files. What is here also reads images and settings: it
belongs to the code that decides features, so it should rarely change, and it loads fast.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

RETRY_VARIABLE = "MOLEFLOW_FILE_RETRY_S"
"""The environment variable with the seconds for which a passing error is tried again."""
RETRY_S = 120.0
PASSING = frozenset(
    {
        *(errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EDQUOT),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.ENOTCONN, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT),
    }
)
"""Errors that a server or a network recovers from by itself. A full disk is none of them."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 5.0
_TOLD_AT = 2  # An error that has passed after 20 ms is no news.
_STALE_LOOKUPS = 3
_PIECE = 1 << 24
_LOG = logging.getLogger(__name__)


class NotAFile(OSError):
    """A folder, a pipe or a device stands where a file is expected; reading it could hang."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is no regular file", str(path))


def retry_s() -> float:
    """Seconds for which a passing error is tried again before it counts."""
    try:
        return float(os.environ.get(RETRY_VARIABLE, RETRY_S))
    except ValueError:
        return RETRY_S


def retried(operation: Callable[[], Result], path: Path, but: int | None = None) -> Result:
    """The result of an operation that is tried again after each passing error, `but` one.

    Args:
        operation: writes anew what it writes each time, under a new name.
        path: named in the message.
        but: an error that is not tried again.

    Raises:
        OSError: an error that does not pass, or not within `retry_s()` seconds.
    """
    deadline, pause, failures = None, _FIRST_PAUSE_S, 0
    while True:
        try:
            return operation()
        except OSError as error:
            if error.errno not in PASSING or error.errno == but:
                raise
            now, failures = time.monotonic(), failures + 1
            deadline = deadline or now + retry_s()
            if failures == _TOLD_AT:
                _LOG.warning("%s: %s; trying again for up to %g s", path, error.strerror, retry_s())
            if now + pause > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def of_present_file(path: Path, operation: Callable[[], Result]) -> Result:
    """The result of an operation on the file that now has this name, tried again as `retried`.

    Args:
        path: the file or folder.
        operation: looks the name up anew each time.

    Raises:
        FileNotFoundError: there is none.
        OSError: as `retried`.
    """
    for _ in range(_STALE_LOOKUPS):
        try:
            return retried(operation, path, but=errno.ESTALE)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def read(path: Path, at_most: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        at_most: stop after this many bytes; None = read all.

    Raises:
        FileNotFoundError: there is none, or it is removed while it is read.
        NotAFile: it is no regular file.
        OSError: it cannot be read.
    """

    def whole() -> bytes:
        # Without Python's file objects, which ask for the file's facts twice more.
        handle, pieces, left = _opened(path), [], at_most
        try:
            while piece := os.read(handle, _PIECE if left is None else min(left, _PIECE)):
                pieces.append(piece)
                left = None if left is None else left - len(piece)
        finally:
            os.close(handle)
        return b"".join(pieces)

    return of_present_file(path, whole)


def open_file(path: Path) -> BufferedReader:
    """A file open for reading.

    Raises:
        FileNotFoundError, NotAFile, OSError: as `read`.
    """
    return os.fdopen(of_present_file(path, lambda: _opened(path)), "rb")


def _opened(path: Path) -> int:
    # Without O_NONBLOCK a pipe without a writer would hang here for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotAFile(path)
        return handle
    except BaseException:
        os.close(handle)
        raise
