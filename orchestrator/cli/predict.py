"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moleflow.errors import InvalidInput, counted
from orchestrator.cli.app import DEVICES, Device, check_choice, choice
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.exit_codes import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moleflow.detection.trained_detector import Failure, TrainedDetector
    from orchestrator.detectors.predict import Prediction
    from orchestrator.detectors.thresholds import Threshold

MAP_FORMS: tuple[Literal["png", "tiff"], ...] = ("png", "tiff")
RATE = 0.05


@explain_damage("place")
def predict(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="A results folder, or the file of a detector in it.", show_default=False
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", help="Image files, and folders of them.", show_default=False)
    ],
    trial: Annotated[
        str | None,
        typer.Option(
            "--trial",
            help="Id of a trial, its first digits, or its name in quotes. Default: the best variant's.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="A score; above it, an image counts as anomalous.", show_default=False),
    ] = None,
    normals: Annotated[
        Path | None,
        typer.Option(
            "--normals", help="A folder of normal images, for a threshold from their scores.", show_default=False
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--false-positive-rate",
            help=f"Share of normal images that may count as anomalous. Default: {RATE}.",
            show_default=False,
        ),
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="A folder for the anomaly maps.", show_default=False)
    ] = None,
    map_form: Annotated[
        str, choice("--map-format", MAP_FORMS, "png (in red over the image) | tiff (the numbers as float32).")
    ] = "png",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A .csv or .parquet file. Default: CSV on stdout.", show_default=False),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="The class of images of more than 8 bits, if it matters.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="The backbone's weight file, if it lies elsewhere now.", show_default=False),
    ] = None,
    device: Device = "auto",
) -> None:
    """Score new images with a trained detector that a sweep has kept.

    The sweep file needs `keep: best` or `keep: all`. Without --trial the best
    variant scores, and the first lines say which, by what, and which seed.
    An image that cannot be read is one line, and the exit code is then 1.

    Without --threshold and --normals, thresholds come from the normal images
    that the sweep held out (validation_fraction), if it held any out.

    For instance:

      moleflow-sweep predict results/NAME ~/new --out scores.csv
      moleflow-sweep predict results/NAME ~/new --normals ~/good --maps maps
      moleflow-sweep predict results/NAME a.png b.png --threshold 12.5
    """
    from moleflow.detection.trained_detector import open_detector
    from orchestrator.detectors import map_files as of_maps
    from orchestrator.detectors import predict as of_images
    from orchestrator.detectors.choice import choose_detector

    form = check_choice("--map-format", map_form, MAP_FORMS)
    on_device = check_choice("--device", device, DEVICES)
    asked = _asked_rate(rate, threshold, normals)
    if out is not None:
        of_images.check_table(out)
    chosen = choose_detector(place, trial)
    show("\n".join([f"detector: {chosen.path}", *chosen.reasons]), error=True)
    detector = open_detector(chosen.path, on_device, weights=weights)
    for note in detector.notes:
        show(f"note:     {note}; scores may differ from the sweep's in their last digits", error=True)
    failed: list[Path] = []

    def fail(path: Path, why: str) -> None:
        failed.append(path)
        show(f"not read: {why}", error=True)

    thresholds = _thresholds(detector, threshold, normals, asked, fail, class_name)
    files = of_images.image_files(images, fail)
    names = None if maps is None else of_maps.map_names(files, maps, form)
    predictions = []
    for number, one in enumerate(of_images.predict_images(detector, files, thresholds, fail, names, class_name)):
        predictions.append(one)
        if out is None:
            show(of_images.table_text([one.row()], header=number == 0), end="")
    if out is not None:
        of_images.write_table(out, predictions)
    if names is not None:
        of_maps.write_maps(predictions, form, detector.config.data.interpolation)
    _show_outcome(predictions, len(failed), out, maps)
    raise typer.Exit(FAILED if failed else 0)


def _asked_rate(rate: float | None, threshold: float | None, normals: Path | None) -> float:
    """Return the false-positive rate that is asked for.

    Raises:
        InvalidInput: it is no share, options contradict one another, or a folder is missing.
    """
    if threshold is not None and (normals is not None or rate is not None):
        other = "--normals" if normals is not None else "--false-positive-rate"
        raise InvalidInput(f"--threshold: is a score that needs no normal images; leave {other} out")
    if threshold is not None and threshold != threshold:
        raise InvalidInput("--threshold: given nan, allowed: a score, such as 12.5")
    if rate is not None and not 0 < rate < 1:
        raise InvalidInput(f"--false-positive-rate: given {rate:g}, allowed: above 0 and below 1, such as {RATE}")
    if normals is not None and not normals.is_dir():
        raise InvalidInput(f"--normals: {normals}: no such folder; give a folder of normal images")
    return RATE if rate is None else rate


def _thresholds(
    detector: TrainedDetector,
    given: float | None,
    normals: Path | None,
    rate: float,
    fail: Failure,
    class_name: str | None,
) -> dict[int, Threshold]:
    """Return the threshold of each task, and print where they come from.

    Raises:
        InvalidInput: no image of --normals can be scored.
    """
    from orchestrator.detectors.predict import image_files
    from orchestrator.detectors.thresholds import Threshold, threshold_lines, thresholds_by_task

    tasks = range(len(detector.task_names))
    if given is not None:
        found, source = dict.fromkeys(tasks, Threshold(given)), "--threshold"
    elif normals is not None:
        files = image_files([normals], fail)
        scored = [(one.task, one.score) for one in detector.score([f.path for f in files], fail, class_name)]
        if not scored:
            raise InvalidInput(f"--normals: {normals}: no image there can be scored; give a folder of normal images")
        found, source = thresholds_by_task(scored, rate), f"the images of {normals}"
    else:
        held = detector.stored.header.held_out
        if not held:
            show(
                "threshold: none, as the sweep held no normal images out (validation_fraction); give --threshold SCORE "
                "or --normals FOLDER",
                error=True,
            )
            return {}
        found = thresholds_by_task([(one.routed_task, one.score) for one in held], rate)
        source = "the normal images that the sweep held out"
    lines = threshold_lines(found, detector.task_names, None if given is not None else rate)
    show("\n".join([f"threshold: from {source}", *(f"          {line}" for line in lines)]), error=True)
    return found


def _show_outcome(predictions: Sequence[Prediction], failed: int, out: Path | None, maps: Path | None) -> None:
    judged = [one.anomalous for one in predictions if one.anomalous is not None]
    parts = [counted(len(predictions), "image") + " scored"]
    parts += [f"{sum(judged)} anomalous"] if judged else []
    parts += [f"{failed} not read"] if failed else []
    written = [str(path) for path in (out, maps) if path is not None]
    show(", ".join(parts) + (f"; written: {', '.join(written)}" if written else ""), error=True)
