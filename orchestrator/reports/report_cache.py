"""Reuse of a sweep's report: `tables/report.json` names the inputs and the digests of its files.

It is a derived copy like the rest of `tables/`. If it is missing or does not match, the report is
made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from moleflow.files import write_atomically
from orchestrator.results.parts import temporary_folder

FILE = "report.json"


def keep_report(folder: Path, inputs: str, files: Mapping[str, Path]) -> None:
    """Record that a report's files, by kind (md, csv, tex), were made from the digest `inputs`.

    A full disk loses the record and raises nothing: the report itself is already written.
    """
    with contextlib.suppress(OSError):
        digests = {kind: [path.name, _digest(path)] for kind, path in files.items()}
        text = json.dumps({"inputs": inputs, "files": digests}).encode()
        (folder / "tables").mkdir(exist_ok=True)
        write_atomically(folder / "tables" / FILE, text, folder=temporary_folder(folder / "parts"))


def kept_report(folder: Path, inputs: str) -> dict[str, Path] | None:
    """Return the report's files by kind, or None unless all of them were made from `inputs`."""
    # Any damage to the record means the same: make the report again.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record = json.loads((folder / "tables" / FILE).read_bytes())
        if record["inputs"] != inputs:
            return None
        # A folder from elsewhere may name a file outside of it.
        files = {kind: folder / Path(name).name for kind, (name, _) in record["files"].items()}
        if all(_digest(files[kind]) == digest for kind, (_, digest) in record["files"].items()):
            return files
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
