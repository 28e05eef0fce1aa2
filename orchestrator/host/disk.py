"""A disk that takes no more: how it is recognised, and what is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether there is no room left: the disk's, the user's quota's, or that of the largest file."""
    # Libraries that raise errors of their own lose the number and keep the words.
    return error.errno in _FULL or (error.errno is None and any(os.strerror(number) in str(error) for number in _FULL))


def takes_no_more(error: OSError) -> bool:
    """Whether nothing more can be written, however often one tries."""
    return is_full(error) or error.errno == errno.EROFS


def explain_disk_error(place: Path, error: OSError) -> str:
    """One line: where writing failed, why, and what becomes of the rest.

    Args:
        place: what was being written to, where the error does not name a file.
        error: what writing raised.

    """
    reason = error.strerror or str(error)
    return f"{error.filename or place}: cannot be written ({reason}); what is finished is kept and stays readable"
