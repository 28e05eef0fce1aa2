"""Full and read-only disks: how errors of them are recognised and explained."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

# As `moleflow.files.temporary_file` names them: the file, the owner and a random number.
_TEMPORARY = re.compile(r"^\.(.+)\.[^.]+\.tmp$")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """True if the disk, the user's quota or the largest allowed file is full."""
    # Libraries that raise errors of their own lose the number and keep the text.
    return error.errno in _FULL or (error.errno is None and any(os.strerror(number) in str(error) for number in _FULL))


def takes_no_more(error: OSError) -> bool:
    """True if every other write will fail too: the disk is full or read-only."""
    return is_full(error) or error.errno == errno.EROFS


def file_meant(error: OSError) -> Path | None:
    """Return the file that could not be used: for a temporary file, the one it was to become."""
    if error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename))
    meant = _TEMPORARY.match(path.name)
    return path.with_name(meant[1]) if meant else path


def explain_disk_error(place: Path, error: OSError) -> str:
    """One line: the file that cannot be written, the reason, and that stored results are safe.

    Args:
        place: the folder that was written to, for errors that name no file.
        error: the error of the write.

    """
    reason = error.strerror or str(error)
    return f"{file_meant(error) or place}: cannot be written ({reason}); what is finished is kept and stays readable"
