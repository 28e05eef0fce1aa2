"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moleflow.errors import counted
from orchestrator.cli.app import DEVICES, Device, check_choice, choice
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.exit_codes import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.detectors.predict import Prediction

MAP_FORMS: tuple[Literal["png", "tiff"], ...] = ("png", "tiff")


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
            "--normals",
            help="A folder of normal images that are new to the detector, for thresholds from their scores.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--false-positive-rate",
            help="Share of normal images that may count as anomalous. Default: 0.05.",
            show_default=False,
        ),
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="A folder for the anomaly maps, outside IMAGES.", show_default=False)
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
    from orchestrator.detectors.image_files import image_files
    from orchestrator.detectors.sweep_detector import SweepDetector
    from orchestrator.detectors.threshold_choice import ThresholdRequest, choose_thresholds

    form = check_choice("--map-format", map_form, MAP_FORMS)
    on_device = check_choice("--device", device, DEVICES)
    asked = ThresholdRequest(threshold, normals, rate)
    if out is not None:
        of_images.check_table(out)
    if maps is not None:
        of_images.check_writable("--maps", maps)
        of_maps.refuse_maps_among_images(maps, [*images, *([] if normals is None else [normals])])
    chosen = choose_detector(place, trial)
    show("\n".join([f"detector: {chosen.path}", *chosen.reasons]), error=True)
    trained = open_detector(chosen.path, on_device, weights=weights)
    for note in trained.notes:
        show(f"note:     {note}; scores may differ from the sweep's in their last digits", error=True)
    failed: list[Path] = []

    def fail(path: Path, why: str) -> None:
        failed.append(path)
        show(f"not read: {why}", error=True)

    thresholds = choose_thresholds(trained, asked, fail, class_name)
    show("\n".join(thresholds.lines), error=True)
    detector = SweepDetector(trained, thresholds.by_task)
    files = image_files(images, fail)
    names = None if maps is None else of_maps.map_names(files, maps, form)
    predictions = []
    for number, one in enumerate(of_images.predict_images(detector, files, fail, names, class_name)):
        predictions.append(one)
        if out is None:
            show(of_images.table_text([one.row()], header=number == 0), end="")
    if out is not None:
        of_images.write_table(out, predictions)
    if names is not None:
        of_maps.write_maps(predictions, form, trained.config.data.interpolation)
    _show_outcome(predictions, len(failed), out, maps)
    raise typer.Exit(FAILED if failed else 0)


def _show_outcome(predictions: Sequence[Prediction], failed: int, out: Path | None, maps: Path | None) -> None:
    judged = [one.scored.anomalous for one in predictions if one.scored.anomalous is not None]
    parts = [counted(len(predictions), "image") + " scored"]
    parts += [f"{sum(judged)} anomalous"] if judged else []
    parts += [f"{failed} not read"] if failed else []
    written = [str(path) for path in (out, maps) if path is not None]
    show(", ".join(parts) + (f"; written: {', '.join(written)}" if written else ""), error=True)
