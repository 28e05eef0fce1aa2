"""The thresholds of a detector: from held-out images, from images of one's own, or as given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moleflow.detection.trained_detector import Failure, TrainedDetector
from moleflow.errors import InvalidInput, counted
from orchestrator.detectors.image_files import image_files
from orchestrator.detectors.thresholds import Threshold, threshold_lines, thresholds_by_task

RATE = 0.05
"""The false-positive rate, if none is asked for."""


@dataclass(frozen=True)
class ThresholdRequest:
    """The source of thresholds that a user asks for; without any, the sweep's held-out images.

    Attributes:
        score: a threshold for every task.
        normals: a folder of normal images.
        rate: the false-positive rate; None = RATE.

    Raises:
        InvalidInput: they contradict one another, the rate is no share, or there is no folder.
    """

    score: float | None = None
    normals: Path | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        """Check the request before a detector is loaded."""
        if self.score is not None and (self.normals is not None or self.rate is not None):
            other = "--normals" if self.normals is not None else "--false-positive-rate"
            raise InvalidInput(f"--threshold: is a score that needs no normal images; leave {other} out")
        if self.score is not None and self.score != self.score:
            raise InvalidInput("--threshold: given nan, allowed: a score, such as 12.5")
        if self.rate is not None and not 0 < self.rate < 1:
            raise InvalidInput(
                f"--false-positive-rate: given {self.rate:g}, allowed: above 0 and below 1, such as {RATE}"
            )
        if self.normals is not None and not self.normals.is_dir():
            raise InvalidInput(f"--normals: {self.normals}: no such folder; give a folder of normal images")


@dataclass(frozen=True)
class ChosenThresholds:
    """Thresholds and their origin.

    Attributes:
        by_task: {task: threshold} of the tasks that have one.
        lines: lines for the reader.
    """

    by_task: Mapping[int, Threshold]
    lines: tuple[str, ...]


def choose_thresholds(
    detector: TrainedDetector,
    request: ThresholdRequest,
    on_failure: Failure | None = None,
    class_name: str | None = None,
) -> ChosenThresholds:
    """Return the threshold of each task.

    Args:
        detector: the detector.
        request: the source.
        on_failure: called for a normal image that cannot be scored; None raises its error.
        class_name: as for `TrainedDetector.score`.

    Raises:
        InvalidInput: no normal image can give a threshold.
    """
    rate: float | None = RATE if request.rate is None else request.rate
    notes: list[str] = []
    if request.score is not None:
        found = dict.fromkeys(range(len(detector.task_names)), Threshold(request.score))
        source, rate = "--threshold", None
    elif request.normals is not None:
        scored, notes = _scored_normals(detector, request.normals, on_failure, class_name)
        found, source = thresholds_by_task(scored, rate or RATE), f"the images of {request.normals}"
    else:
        held = detector.stored.header.held_out
        if not held:
            return ChosenThresholds(
                {},
                (
                    "threshold: none, as the sweep held no normal images out (validation_fraction); give --threshold "
                    "SCORE or --normals FOLDER",
                ),
            )
        found = thresholds_by_task([(one.routed_task, one.score) for one in held], rate or RATE)
        source = "the normal images that the sweep held out"
    notes += threshold_lines(found, detector.task_names, rate)
    return ChosenThresholds(found, (f"threshold: from {source}", *(f"          {line}" for line in notes)))


def _scored_normals(
    detector: TrainedDetector, folder: Path, on_failure: Failure | None, class_name: str | None
) -> tuple[list[tuple[int, float]], list[str]]:
    """Return the (task, score) of the images that can give a threshold, and notes on the others.

    Scores of training images are too low, and defective images are not normal.

    Raises:
        InvalidInput: there is none.
    """
    header = detector.stored.header
    trained_on, defective = frozenset(header.trained_on or ()), frozenset(header.defective)
    files = image_files([folder], on_failure or _ignore)
    scored = list(detector.score([file.path for file in files], on_failure, class_name))
    trained = sum(one.digest in trained_on for one in scored)
    wrong = sum(one.digest in defective for one in scored)
    usable = [(one.task, one.score) for one in scored if one.digest not in trained_on | defective]
    kinds = {"the detector was trained on": trained, "the data set labels defective": wrong}
    left_out = " and ".join(f"{counted(number, 'image')} that {kind}" for kind, number in kinds.items() if number)
    if not usable:
        why = f"no image there can give a threshold, without {left_out}" if left_out else "no image there can be scored"
        raise InvalidInput(f"--normals: {folder}: {why}; give a folder of normal images that are new to the detector")
    notes = [f"left out: {left_out}"] if left_out else []
    if header.trained_on is None:
        notes.append("not compared with the training images, which a detector of an earlier version does not name")
    return usable, notes


def _ignore(_path: Path, _reason: str) -> None:
    """Leave an empty folder to the error that names it."""
