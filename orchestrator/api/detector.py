"""The trained detector of a sweep, for Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.api.results import SweepResults

if TYPE_CHECKING:
    from moleflow.detection.trained_detector import TrainedDetector


def load_detector(
    results: str | Path | SweepResults,
    trial: str | None = None,
    *,
    weights: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> TrainedDetector:
    """Return a trained detector that a sweep has kept, ready to score images.

    It sets torch up as a sweep's worker does: its threads, and deterministic algorithms.

    Args:
        results: a results folder, or the file of a detector.
        trial: the id of a trial; None = the best variant's, as `moleflow-sweep predict` chooses.
        weights: the backbone's weight file, if it lies elsewhere now.
        device: the kind of device; auto = a GPU if there is one.

    Raises:
        InvalidInput: no such folder, trial or detector; weights that are missing or others.
        Damaged: the file has changed since it was written.
    """
    from moleflow.detection.trained_detector import open_detector
    from orchestrator.detectors.choice import choose_detector

    place = results.folder if isinstance(results, SweepResults) else Path(results)
    chosen = choose_detector(place, trial)
    return open_detector(chosen.path, device, weights=None if weights is None else Path(weights))
