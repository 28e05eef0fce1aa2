"""New images scored by a trained detector: the rows, and the table as a file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.detection.trained_detector import Failure, ScoredImage
from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from orchestrator.detectors.image_files import ImageFile
from orchestrator.detectors.sweep_detector import SweepDetector
from orchestrator.reports.render import csv_text

COLUMNS = ("image", "task", "task_name", "score", "threshold", "anomalous", "map")
"""The columns of the table of scores; docs/detector.md explains them."""
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Prediction:
    """A scored image with its threshold.

    Attributes:
        file: the image file.
        scored: its scores.
        map_file: the file of its anomaly map, which may not be written yet; None without maps.
    """

    file: ImageFile
    scored: ScoredImage
    map_file: Path | None = None

    def row(self) -> tuple[object, ...]:
        """Return the values of `COLUMNS`."""
        scored, place = self.scored, None if self.map_file is None else str(self.map_file)
        verdict = scored.threshold, scored.anomalous
        return (str(self.file.path), scored.task, scored.task_name, scored.score, *verdict, place)


def predict_images(
    detector: SweepDetector,
    files: Sequence[ImageFile],
    on_failure: Failure,
    map_files: Mapping[int, Path] | None = None,
    class_name: str | None = None,
) -> Iterator[Prediction]:
    """Yield the prediction of each image that can be scored, in their order.

    Args:
        detector: the detector.
        files: the images.
        on_failure: called for an image that cannot be scored.
        map_files: the file of each image's anomaly map, by position.
        class_name: as for `SweepDetector.score`.
    """
    number = 0
    for scored in detector.score([file.path for file in files], on_failure, class_name):
        while files[number].path != scored.path:  # Images that cannot be scored are left out.
            number += 1
        place = None if map_files is None else map_files[number]
        yield Prediction(files[number], scored, place)
        number += 1


def check_table(path: Path) -> None:
    """Check that a table of scores can be written.

    Raises:
        InvalidInput: another suffix than .csv or .parquet, a folder, or a folder that is missing or
            cannot be written.
    """
    if path.suffix.lower() not in TABLES:
        raise InvalidInput(f"--out: given '{path}', allowed: a file whose name ends in {' or '.join(TABLES)}")
    if path.is_dir() or not path.parent.is_dir():
        place = f"{path} is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise InvalidInput(f"--out: {place}; give a file in a folder that exists")
    check_writable("--out", path.parent)


def check_writable(option: str, folder: Path) -> None:
    """Check that files can be written to a folder, before hours of scoring.

    Args:
        option: the option that names it, for the message.
        folder: the folder, which may be missing.

    Raises:
        InvalidInput: this user cannot write to it, or to the folder in which it would be made.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.exists(place))
    if not os.access(there, os.W_OK):
        raise InvalidInput(f"{option}: {there} cannot be written by this user; give another folder")


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
