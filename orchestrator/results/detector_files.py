"""Names of the files of trained detectors in a results folder: `detectors/TRIAL-ATTEMPT`.

A file belongs to one attempt and never changes, so a trial that runs again leaves the detector of
the attempt that counts as it is. An empty file `TRIAL-ATTEMPT.removed` says that its detector was
removed as another variant was the best.
"""

from __future__ import annotations

import re
from pathlib import Path

from moleflow import files

DETECTORS = "detectors"
_DETECTOR, _REMOVED = ".safetensors", ".removed"
_NAME = re.compile(rf"([0-9a-f]{{12}})-(\d+)({_DETECTOR}|{_REMOVED})")


def detector_file(folder: Path, trial_id: str, attempt: int) -> Path:
    """Return the path of the detector that an attempt stores in a results folder."""
    return folder / DETECTORS / f"{trial_id}-{attempt}{_DETECTOR}"


def stored_detectors(folder: Path) -> dict[tuple[str, int], Path]:
    """Return the stored detectors of a results folder by (trial id, attempt)."""
    return _files(folder, _DETECTOR)


def mark_removed(detector: Path) -> None:
    """Note that a detector is about to be removed, as another variant is the best.

    Raises:
        OSError: the note cannot be written.
    """
    files.write_atomically(detector.with_suffix(_REMOVED), b"", durable=False)


def removed_detectors(folder: Path) -> frozenset[tuple[str, int]]:
    """Return the (trial id, attempt) whose detectors were removed."""
    return frozenset(_files(folder, _REMOVED))


def _files(folder: Path, suffix: str) -> dict[tuple[str, int], Path]:
    found = [(_NAME.fullmatch(name), name) for name in files.names(folder / DETECTORS)]
    return {
        (match[1], int(match[2])): folder / DETECTORS / name for match, name in found if match and match[3] == suffix
    }
