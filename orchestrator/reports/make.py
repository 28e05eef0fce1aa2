"""From a results folder to its report, and from a report back to whether it still follows from its Parquet."""

from __future__ import annotations

from pathlib import Path

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from moleflow.settings.knobs import method_knobs, version_settings
from orchestrator.records import sweep_folder
from orchestrator.reports import published, published_tables
from orchestrator.reports import verify as verification
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.lock import Recipe, inputs_digest
from orchestrator.reports.tables import Report, build_report, write_report
from orchestrator.reports.verify import Verdict
from orchestrator.results.store import ResultStore


def make_report(
    place: Path,
    show_all: bool = False,
    with_published: bool = False,
    sweep: sweep_folder.SweepFolder | None = None,
    split: str = "test",
) -> tuple[Report, dict[str, Path]]:
    """Make the report of a results folder anew from its Parquet.

    Args:
        place: the results folder.
        sweep: what was planned; None = the folder's latest plan.
        show_all: every trial that is stored, not only those of the latest plan.
        with_published: put the published rows beside the measured ones.
        split: test | validation: which images the tables are about.

    Raises:
        InvalidInput: the folder holds no sweep, the published rows are damaged, or no trial has images of the split.
        OSError: the report cannot be written.

    """
    recipe = _recipe(sweep or sweep_folder.read_sweep_folder(place), show_all, with_published, split)
    store = ResultStore(place)
    check_split(store, split, None if recipe.selection is None else set(recipe.selection))
    made = _made_by(store, recipe)
    return made, write_report(made, place)


def check_split(store: ResultStore, split: str, selection: set[str] | None) -> None:
    """See that tables about validation images have a trial that knows some, if any trial has finished.

    Raises:
        InvalidInput: finished trials have test images alone.

    """
    if split == "test" or finished_trials(store, selection, split) or not finished_trials(store, selection, "test"):
        return
    raise InvalidInput(
        f"--split: given {split}, but no trial of {store.folder} has {split} images; take --split test, "
        "or set data.validation_fraction and run again"
    )


def report_inputs(store: ResultStore, sweep: sweep_folder.SweepFolder) -> str:
    """Digest of all that decides the report of a sweep: its plan, the code that makes it, and what is stored."""
    return inputs_digest(_recipe(sweep), store.digest(), [method_knobs(), version_settings()])


def published_report() -> Report:
    """The report over the published rows alone.

    Raises:
        InvalidInput: they are missing or damaged.

    """
    return published_tables.build_published_report(published.load_published())


def verify_report(path: Path) -> Verdict:
    """Make a report again from the Parquet beside it, and compare.

    Raises:
        InvalidInput: no report, one without a lock, or no results beside it.

    """
    if path.suffix in (".csv", ".tex", ".html", ".parquet"):
        raise InvalidInput(f"{path}: only report.md can be verified; give {path.with_name('report.md')}")
    return verification.check_report(path, _made_by, code_digest())


def _recipe(
    sweep: sweep_folder.SweepFolder, show_all: bool = False, with_published: bool = False, split: str = "test"
) -> Recipe:
    options = ["--all"] * show_all + ["--with-published"] * with_published
    options += [f"--split {split}"] * (split != "test")
    return Recipe(
        title=sweep.title,
        selection=None if show_all else sweep.compared,
        baseline=sweep.baseline,
        split=split,
        command=" ".join(["moleflow-sweep report FOLDER", *options]),
        code=code_digest(),
        published=published.load_published().digest if with_published else None,
    )


def _made_by(store: ResultStore, recipe: Recipe) -> Report:
    return build_report(
        store,
        None if recipe.selection is None else set(recipe.selection),
        recipe.baseline,
        recipe.title,
        current_code=recipe.code,
        covers={"version": method_knobs()},
        bundles={"version": version_settings()},
        split=recipe.split,
        published=published.load_published() if recipe.published else None,
        command=recipe.command,
    )
