"""Errors of full and read-only disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from moleflow.files import temporary_file
from orchestrator.host.disk import explain_disk_error, file_meant, is_full, takes_no_more


@pytest.mark.parametrize(
    ("error", "full", "no_more"),
    [
        (OSError(errno.ENOSPC, "x"), True, True),
        (OSError(errno.EDQUOT, "x"), True, True),
        (OSError(errno.EFBIG, "x"), True, True),
        (OSError(errno.EROFS, "x"), False, True),
        (OSError(errno.EACCES, "x"), False, False),
        (OSError(f"libsqlite: {os.strerror(errno.ENOSPC)}"), True, True),
        (OSError("libsqlite: locked"), False, False),
        (OSError(errno.EIO, os.strerror(errno.ENOSPC)), False, False),
    ],
)
def test_full_disks_are_recognised_by_number_or_text(error, full, no_more):
    assert (is_full(error), takes_no_more(error)) == (full, no_more)


def test_the_explanation_names_the_file_and_the_reason():
    text = explain_disk_error(Path("results/s"), OSError(errno.ENOSPC, "No space left on device", "results/s/x"))
    assert text == (
        "results/s/x: cannot be written (No space left on device); what is finished is kept and stays readable"
    )
    assert explain_disk_error(Path("results/s"), OSError("broken")).startswith("results/s: cannot be written (broken)")


def test_an_error_of_a_temporary_file_names_the_file_that_is_meant():
    with temporary_file(Path("results/x/report.md")) as temporary:
        error = OSError(errno.EROFS, "Read-only file system", str(temporary))
    assert file_meant(error) == Path("results/x/report.md")
    assert explain_disk_error(Path("results"), error).startswith("results/x/report.md: cannot be written")
    assert file_meant(OSError(errno.EROFS, "x", "results/x/scores.tmp")) == Path("results/x/scores.tmp")
    assert file_meant(OSError(errno.EROFS, "x")) is None
