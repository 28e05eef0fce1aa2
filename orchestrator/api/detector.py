"""The trained detector of a sweep, for Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.api.python_words import python_words
from orchestrator.api.results import SweepResults

if TYPE_CHECKING:
    from orchestrator.detectors.sweep_detector import SweepDetector


def load_detector(
    results: str | Path | SweepResults,
    trial: str | None = None,
    *,
    false_positive_rate: float | None = None,
    normals: str | Path | None = None,
    threshold: float | None = None,
    class_name: str | None = None,
    weights: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> SweepDetector:
    """Return a trained detector that a sweep has kept, ready to score images.

    Detector and thresholds are those of `moleflow-sweep predict` with the same options. It sets
    torch up as a sweep's worker does: its threads, and deterministic algorithms.

    Args:
        results: a results folder, or the file of a detector.
        trial: a trial by id, its first digits or its name, such as `focal_gamma=2 seed=0`; None =
            the best variant's, as `moleflow-sweep predict` chooses.
        false_positive_rate: the share of normal images that may count as anomalous, above 0 and
            below 1; None = 0.05.
        normals: a folder of normal images that are new to the detector, for thresholds from their
            scores; None = from the normal images that the sweep held out, if it held any out.
        threshold: a score as the threshold of every task, in place of both.
        class_name: the class of `normals` of more than 8 bits, if it matters.
        weights: the backbone's weight file, if it lies elsewhere now.
        device: the kind of device; auto = a GPU if there is one.

    Raises:
        InvalidInput: no such folder, trial or detector; weights that are missing or others; no
            normal image that can give a threshold.
        Damaged: the file has changed since it was written.
    """
    from moleflow.detection.trained_detector import open_detector
    from orchestrator.detectors.choice import choose_detector
    from orchestrator.detectors.sweep_detector import SweepDetector
    from orchestrator.detectors.threshold_choice import ThresholdRequest, choose_thresholds

    place = results.folder if isinstance(results, SweepResults) else Path(results).expanduser()
    with python_words():
        asked = ThresholdRequest(
            threshold, None if normals is None else Path(normals).expanduser(), false_positive_rate
        )
        chosen = choose_detector(place, trial)
        trained = open_detector(chosen.path, device, weights=None if weights is None else Path(weights).expanduser())
        thresholds = choose_thresholds(trained, asked, class_name=class_name)
    return SweepDetector(trained, thresholds.by_task, (*chosen.reasons, *thresholds.lines))
