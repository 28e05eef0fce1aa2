"""What drivers want of trials that run elsewhere: marks in the sweep's folder, which drivers and workers look at on every backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ALL = "all"
LOOK_EVERY_S = 0.5


@dataclass
class StopRequests:
    """One kind of marks of a sweep: one empty file a trial, or one for all."""

    folder: Path
    _looked: dict[str, float] = field(default_factory=dict)

    def add(self, trial_ids: Iterable[str] | None) -> None:
        """Mark trials; None = every trial of the sweep.

        Raises:
            OSError: the folder cannot be written.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in [ALL] if trial_ids is None else trial_ids:
            (self.folder / name).touch()

    def holds(self, trial_id: str) -> bool:
        """Whether a trial is marked."""
        return (self.folder / ALL).exists() or (self.folder / trial_id).exists()

    def holds_now(self, trial_id: str) -> bool:
        """The same for a running trial, which asks often: the folder is looked at twice a second at most."""
        now = time.monotonic()
        if now - self._looked.get(trial_id, 0.0) < LOOK_EVERY_S:
            return False
        self._looked = {trial_id: now}
        return self.holds(trial_id)

    def clear(self) -> None:
        """Take every mark back."""
        shutil.rmtree(self.folder, ignore_errors=True)


def cancel_requests(sweep_folder: Path) -> StopRequests:
    """Trials that somebody no longer wants."""
    return StopRequests(sweep_folder / "cancelled")


def prune_requests(sweep_folder: Path) -> StopRequests:
    """Trials that a search, or Tune, has seen enough of."""
    return StopRequests(sweep_folder / "pruned")
