"""Which report a results folder holds already, so that a sweep that is over need not make it again.

`index/report.json` names what the files of the report were made of and the digest of each file. It is a copy like the rest of `index/`:
where it is missing or does not fit, the report is made anew.
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
    """Note that these files, by their kind, were made of `inputs`; a disk that takes no more loses the note and stops nothing."""
    with contextlib.suppress(OSError):
        digests = {kind: [path.name, _digest(path.read_bytes())] for kind, path in files.items()}
        text = json.dumps({"inputs": inputs, "files": digests}).encode()
        (folder / "index").mkdir(exist_ok=True)
        write_atomically(folder / "index" / FILE, text, folder=temporary_folder(folder / "parts"))


def kept_report(folder: Path, inputs: str) -> dict[str, Path] | None:
    """The files of the report that `folder` holds, by their kind; None where one is not what was made of `inputs`."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = json.loads((folder / "index" / FILE).read_bytes())
        if told["inputs"] != inputs:
            return None
        files = {kind: folder / name for kind, (name, _) in told["files"].items()}
        if all(_digest(files[kind].read_bytes()) == digest for kind, (_, digest) in told["files"].items()):
            return files
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
