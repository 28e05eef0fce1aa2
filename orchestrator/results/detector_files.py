"""Names of the files of trained detectors in a results folder: `detectors/TRIAL-ATTEMPT`.

A file belongs to one attempt and never changes, so a trial that runs again leaves the detector of
the attempt that counts as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from moleflow import files

DETECTORS = "detectors"
_NAME = re.compile(r"([0-9a-f]{12})-(\d+)\.safetensors")


def detector_file(folder: Path, trial_id: str, attempt: int) -> Path:
    """Return the path of the detector that an attempt stores in a results folder."""
    return folder / DETECTORS / f"{trial_id}-{attempt}.safetensors"


def stored_detectors(folder: Path) -> dict[tuple[str, int], Path]:
    """Return the stored detectors of a results folder by (trial id, attempt)."""
    found = [(_NAME.fullmatch(name), name) for name in files.names(folder / DETECTORS)]
    return {(match[1], int(match[2])): folder / DETECTORS / name for match, name in found if match}
