"""New images scored by a trained detector: which files, the rows, and the table as a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.folders import files_below
from moleflow.data.formats import SUFFIXES, name_says
from moleflow.detection.trained_detector import Failure, ScoredImage, TrainedDetector
from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from orchestrator.detectors.thresholds import Threshold
from orchestrator.reports.render import csv_text

COLUMNS = ("image", "task", "task_name", "score", "threshold", "anomalous", "map")
"""The columns of the table of scores; docs/detector.md explains them."""
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class ImageFile:
    """An image file to score.

    Attributes:
        path: the file.
        name: its path below the folder that was given, or its name if the file itself was.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Prediction:
    """A scored image with its threshold.

    Attributes:
        file: the image file.
        scored: its scores.
        threshold: the threshold of its task; None if there is none.
        map_file: the file of its anomaly map, which may not be written yet; None without maps.
    """

    file: ImageFile
    scored: ScoredImage
    threshold: float | None
    map_file: Path | None = None

    @property
    def anomalous(self) -> bool | None:
        """True if the score is above the threshold; None without one."""
        return None if self.threshold is None else self.scored.score > self.threshold

    def row(self) -> tuple[object, ...]:
        """Return the values of `COLUMNS`."""
        scored, place = self.scored, None if self.map_file is None else str(self.map_file)
        return (str(self.file.path), scored.task, scored.task_name, scored.score, self.threshold, self.anomalous, place)


def image_files(given: Sequence[Path], on_failure: Failure) -> list[ImageFile]:
    """Return the files that are meant, in the order given and by name within a folder.

    Args:
        given: image files, and folders whose images count at any depth.
        on_failure: called for each one that holds none.
    """
    found = []
    for place in given:
        if place.is_dir():
            below = [path for path in files_below(place) if name_says(path) == "read"]
            if not below:
                on_failure(place, f"{place}: holds no image ({', '.join(SUFFIXES)})")
            found += [ImageFile(path, path.relative_to(place).as_posix()) for path in below]
        elif place.exists():
            found.append(ImageFile(place, place.name))
        else:
            on_failure(place, f"{place}: no such file or folder")
    return found


def predict_images(
    detector: TrainedDetector,
    files: Sequence[ImageFile],
    thresholds: Mapping[int, Threshold],
    on_failure: Failure,
    map_files: Mapping[int, Path] | None = None,
    class_name: str | None = None,
) -> Iterator[Prediction]:
    """Yield the prediction of each image that can be scored, in their order.

    Args:
        detector: the detector.
        files: the images.
        thresholds: the threshold of each task that has one.
        on_failure: called for an image that cannot be scored.
        map_files: the file of each image's anomaly map, by position.
        class_name: as for `TrainedDetector.score`.
    """
    number = 0
    for scored in detector.score([file.path for file in files], on_failure, class_name):
        while files[number].path != scored.path:  # Images that cannot be scored are left out.
            number += 1
        of_task = thresholds.get(scored.task)
        place = None if map_files is None else map_files[number]
        yield Prediction(files[number], scored, None if of_task is None else of_task.value, place)
        number += 1


def check_table(path: Path) -> None:
    """Check that a table of scores can be written.

    Raises:
        InvalidInput: another suffix than .csv or .parquet, a folder, or a folder that is missing.
    """
    if path.suffix.lower() not in TABLES:
        raise InvalidInput(f"--out: given '{path}', allowed: a file whose name ends in {' or '.join(TABLES)}")
    if path.is_dir() or not path.parent.is_dir():
        place = f"{path} is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise InvalidInput(f"--out: {place}; give a file in a folder that exists")


def write_table(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write the table of scores as CSV or Parquet, by the suffix.

    Raises:
        OSError: the file cannot be written.
    """
    rows = [one.row() for one in predictions]
    if path.suffix.lower() == ".csv":
        content = table_text(rows).encode()
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = (pa.string(), pa.int64(), pa.string(), pa.float64(), pa.float64(), pa.bool_(), pa.string())
        schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in COLUMNS]
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=schema), buffer)
        content = buffer.getvalue()
    write_atomically(path, content, durable=False)


def table_text(rows: Iterable[tuple[object, ...]], header: bool = True) -> str:
    """Return rows as CSV; `anomalous` is true, false or empty."""
    texts = [[str(value).lower() if isinstance(value, bool) else value for value in row] for row in rows]
    text = csv_text(COLUMNS, texts)
    return text if header else text.partition("\n")[2]
