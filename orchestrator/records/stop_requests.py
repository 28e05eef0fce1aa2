"""Requests to stop trials: files in the sweep's folder, which reach workers on any backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from moleflow import files
from moleflow.errors import InvalidInput

ALL = "all"
CHECK_EVERY_S = 2.0


@dataclass
class StopRequests:
    """One kind of request: one empty file per trial, or one for all trials."""

    folder: Path
    _checked: dict[str, float] = field(default_factory=dict)

    def add(self, trial_ids: Iterable[str] | None) -> None:
        """Request the stop of trials; None = all trials of the sweep.

        Raises:
            InvalidInput: the folder of the requests is a link out of the sweep's folder.
            OSError: the folder cannot be written.

        """
        # Others may have made the sweep's folder: nothing may be written outside of it.
        if self.folder.is_symlink() and self.folder.resolve().parent != self.folder.parent.resolve():
            raise InvalidInput(
                f"{self.folder}: is a link to {self.folder.resolve()}, out of the results folder; remove the link"
            )
        files.make_folder(self.folder)
        for name in [ALL] if trial_ids is None else trial_ids:
            files.write_atomically(self.folder / name, b"", durable=False)

    def is_set(self, trial_id: str) -> bool:
        """True if the stop of a trial was requested."""
        self._checked = {trial_id: time.monotonic()}
        # Almost always there is no folder, and one call tells.
        return files.exists(self.folder) and any(files.exists(self.folder / name) for name in (ALL, trial_id))

    def is_set_throttled(self, trial_id: str) -> bool:
        """`is_set` for a running trial that asks often; false between two checks of the folder."""
        recently = time.monotonic() - self._checked.get(trial_id, 0.0) < CHECK_EVERY_S
        return not recently and self.is_set(trial_id)

    def clear(self) -> None:
        """Withdraw all requests."""
        shutil.rmtree(self.folder, ignore_errors=True)


def cancel_requests(sweep_folder: Path) -> StopRequests:
    """Trials that a user cancelled."""
    return StopRequests(sweep_folder / "cancelled")


def prune_requests(sweep_folder: Path) -> StopRequests:
    """Trials that a search, or Tune, stops early."""
    return StopRequests(sweep_folder / "pruned")
