"""A disk that really fills up: a small file system, mounted in its own namespace."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from orchestrator.results.store import ResultStore

pytestmark = pytest.mark.process

# Mounts $1 with $2 KiB, evaluates $3 there and runs the other words. The copy outlives the mount.
IN_SMALL_DISK = """
disk=$1; size=$2; before=$3; shift 3
mount -t tmpfs -o size="$size"k tmpfs "$disk" || exit 99
eval "$before"
"$@"; code=$?
cp -r "$disk" "$disk.left"
exit $code
"""
FILL = 'cat /dev/zero >"$disk/filler" 2>/dev/null'
FILL_AFTER_FIRST_PART = f'(until set -- "$disk"/small/parts/attempts/2*; [ -e "$1" ]; do sleep 0.02; done; {FILL}) &'


@functools.cache
def namespace() -> tuple[str, ...]:
    """The command that makes a mount namespace: as root, or as a user in a user namespace."""
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        if subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0:
            return command
    raise AssertionError(
        "these tests mount a small file system: run them as root, or where user namespaces are allowed"
    )


def small_disk(folder: Path, kib: int, before: str = ":") -> tuple[str, ...]:
    """The words before a command that run it where `folder` is a small disk."""
    folder.mkdir()
    return (*namespace(), "sh", "-c", IN_SMALL_DISK, "sh", str(folder), str(kib), before)


def test_results_on_a_disk_that_fills_up(place, features, edit, start, digits, small_run):
    edit(grid={"focal_gamma": [0, 2, 1, 0.5, 0.6, 0.7]}, seeds=2)
    disk = small_disk(place / "disk", 2000, FILL_AFTER_FIRST_PART)
    ended = start("sweep.yaml", "--workers", "1", "--out", "disk/small", prefix=disk).end()
    assert ended.code == 1
    assert ended.err == ""
    assert "Traceback" not in ended.out
    said = [line for line in ended.out.splitlines() if line.startswith("stopped: ")]
    assert len(said) == 1
    assert "cannot be written (No space left on device); what is finished is kept and stays readable" in said[0]
    assert "to continue, run: " in ended.out

    left = place / "disk.left" / "small"
    store = ResultStore(left)
    kept = store.finished()
    assert 0 < len(kept) < 12
    assert store.damaged == ()
    whole = {row["trial_id"]: row for row in digits(small_run / "results/small")["attempts"]}
    both = [row for row in digits(left)["attempts"] if row["trial_id"] in whole]
    assert both
    assert all(row == whole[row["trial_id"]] for row in both)


def test_a_cache_on_a_disk_that_is_too_small(place, features, edit, start):
    edit(grid=None, seeds=3, report=None)
    disk = small_disk(place / "disk", 600, 'cp -r cache/features "$disk"')
    ended = start("sweep.yaml", "--backend", "inline", "--cache", "disk", prefix=disk).end()
    assert ended.code == 1
    assert ended.err == ""
    assert "Traceback" not in ended.out
    said = [line for line in ended.out.splitlines() if line.startswith("stopped: ")]
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert "No space left on device" in said[0]
    assert "0 of 3 trials finished and kept" in ended.out


@pytest.mark.parametrize(("option", "said"), [("--out", "--out"), ("--cache", "--cache or MOLEFLOW_CACHE")])
def test_a_disk_that_is_full_from_the_start(place, start, option, said):
    ended = start(
        "sweep.yaml", "--backend", "inline", option, "disk/here", prefix=small_disk(place / "disk", 16, FILL)
    ).end()
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err == f"error: disk/here: No space left on device; free some, or give another folder with {said}\n"
