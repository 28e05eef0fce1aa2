"""Anomaly maps as files: PNG pictures over their images, or TIFF files of the numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow.data.images import Interpolation, read_image
from moleflow.detection.trained_detector import ScoredImage
from moleflow.errors import InvalidInput
from moleflow.files import make_folder, write_atomically
from orchestrator.detectors.image_files import ImageFile
from orchestrator.detectors.predict import Prediction

MapForm = Literal["png", "tiff"]
LONGEST = 1024
"""Pixels of the longer side of a picture; smaller images keep their size."""
_COLOUR = np.array([255.0, 40.0, 0.0])
_OPAQUE = 0.7
"""Share of the colour in a picture where the map is at its highest."""


def map_names(files: Sequence[ImageFile], folder: Path, form: MapForm) -> dict[int, Path]:
    """Return the file of each image's map, by position; no two are the same.

    The names are those of the images: `bolt/001.jpg` gives `FOLDER/bolt/001.png`. Images that
    differ only in their suffix keep it: `001.jpg.png`. A name that comes again has a number.
    """
    names: dict[int, Path] = {}
    taken: set[str] = set()
    without = [PurePosixPath(file.name).with_suffix("").as_posix() for file in files]
    suffixes: dict[str, set[str]] = {}
    for stem, file in zip(without, files, strict=True):
        suffixes.setdefault(stem, set()).add(file.name)
    for number, (stem, file) in enumerate(zip(without, files, strict=True)):
        own = stem if len(suffixes[stem]) == 1 else file.name
        name, again = f"{own}.{form}", 2
        while name in taken:
            name, again = f"{own}-{again}.{form}", again + 1
        taken.add(name)
        names[number] = folder / name
    return names


def refuse_maps_among_images(maps: Path, given: Iterable[Path]) -> None:
    """Refuse a folder of maps in which, or around which, there are images to score.

    Raises:
        InvalidInput: the next call would score the maps, or a map would replace an image.
    """
    folder = maps.resolve()
    for place in given:
        images = place.resolve()
        if folder.is_relative_to(images) or images.is_relative_to(folder):
            where = f"holds the images of {place}" if images.is_relative_to(folder) else f"is in the folder {place}"
            raise InvalidInput(f"--maps: {maps} {where}, where maps would count as images; give a folder elsewhere")


def write_maps(predictions: Sequence[Prediction], form: MapForm, interpolation: Interpolation) -> None:
    """Write the map of every prediction that has a file for it.

    All pictures of a task share one scale: transparent up to the median of their maps, opaque at
    their highest value or at the threshold, if that is higher.

    Args:
        predictions: scored images.
        form: png = a picture over the image; tiff = the numbers, float32 (mask_size, mask_size).
        interpolation: the filter with which the image is read.

    Raises:
        InvalidInput: an image changed or vanished since it was scored.
        OSError: a file cannot be written.
    """
    scales = _scales(predictions) if form == "png" else {}
    for one in predictions:
        if one.map_file is None:
            continue
        buffer = io.BytesIO()
        if form == "tiff":
            Image.fromarray(one.scored.anomaly_map).save(buffer, "TIFF")
        else:
            overlay(one.scored, *scales[one.scored.task], interpolation).save(buffer, "PNG")
        make_folder(one.map_file.parent)
        write_atomically(one.map_file, buffer.getvalue(), durable=False)


def overlay(scored: ScoredImage, low: float, high: float, interpolation: Interpolation) -> Image.Image:
    """Return an image with its anomaly map in red over it.

    Args:
        scored: the scored image.
        low: the value of the map at which the colour begins.
        high: the value at which it is strongest.
        interpolation: the filter with which the image is read.
    """
    width, height = scored.size
    shrink = min(1.0, LONGEST / max(width, height))
    shown = max(1, round(width * shrink)), max(1, round(height * shrink))
    # Read squared, as the backbone sees it, and then stretched back to its proportions.
    square = read_image(scored.path, max(shown), interpolation, value_range=scored.value_range)
    picture = np.asarray(Image.fromarray(square).resize(shown, Image.Resampling.BICUBIC), dtype=np.float64)
    span = high - low
    strength = np.clip((scored.anomaly_map - low) / span, 0, 1) if span > 0 else np.zeros_like(scored.anomaly_map)
    large = Image.fromarray(strength.astype(np.float32)).resize(shown, Image.Resampling.BILINEAR)
    share: npt.NDArray[np.float64] = _OPAQUE * np.asarray(large, dtype=np.float64)[..., None]
    return Image.fromarray(np.rint(picture * (1 - share) + _COLOUR * share).astype(np.uint8))


def _scales(predictions: Sequence[Prediction]) -> dict[int, tuple[float, float]]:
    """Return the (low, high) of each task's pictures."""
    of_task: dict[int, list[Prediction]] = {}
    for one in predictions:
        of_task.setdefault(one.scored.task, []).append(one)
    scales = {}
    for task, members in of_task.items():
        values = np.concatenate([one.scored.anomaly_map.ravel() for one in members])
        thresholds = [one.scored.threshold for one in members if one.scored.threshold is not None]
        scales[task] = float(np.median(values)), max([float(values.max()), *thresholds])
    return scales
