"""The reports of a results folder: made from its Parquet files, and verified against them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from moleflow.settings.knobs import version_settings
from orchestrator.host.command_line import program_name
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder
from orchestrator.reports.finished_trials import default_split, finished_trials
from orchestrator.reports.lock import Recipe, inputs_digest, read_lock
from orchestrator.reports.published import load_published
from orchestrator.reports.published_tables import build_published_report
from orchestrator.reports.tables import Report, build_report, write_report
from orchestrator.reports.verify import Verification, check_report
from orchestrator.results.store import ResultStore

_OTHER_SPLIT = {
    "validation": ("test", "or set data.validation_fraction and run again"),
    "test": ("validation", "or set data.evaluate: all and run again"),
}
"""{split: the other one, and what gives images of the first}."""


def make_report(place: Path, sweep: SweepFolder | None = None) -> tuple[Report, dict[str, Path]]:
    """Make `report.md`, which compares the trials of the plan, and write it.

    Args:
        place: the results folder.
        sweep: the plan; None = the folder's latest one.

    Returns:
        The report, and the paths of its files by kind (md, csv, tex).

    Raises:
        InvalidInput: the folder holds no sweep.
        OSError: the report cannot be written.
    """
    made = stored_report(place, sweep or read_sweep_folder(place))
    return made, write_report(made, place)


def report_name(show_all: bool, with_published: bool, split: str | None) -> str:
    """Return the stem of a report's files, by its options.

    It is `report`, or for other reports `report-all`, `report-published`, `report-all-validation`
    and so on: `report.md` stays.
    """
    options = [*(["all"] * show_all), *(["published"] * with_published), *(["validation"] * (split == "validation"))]
    return "-".join(["report", *options])


def stored_report(
    place: Path,
    sweep: SweepFolder,
    show_all: bool = False,
    with_published: bool = False,
    split: str | None = None,
    store: ResultStore | None = None,
) -> Report:
    """Return the report of a results folder without writing it.

    Args:
        place: the results folder.
        sweep: the plan.
        show_all: every stored trial instead of those of the plan.
        with_published: add the table of published rows.
        split: test | validation, the images that the tables are about; None = `default_split`.
        store: reads the folder, and knows its damaged parts afterwards; None = a new one.

    Raises:
        InvalidInput: the published rows are damaged, or no trial has images of the split.
    """
    recipe = _recipe(sweep, show_all, with_published, split or "test")
    store = store or ResultStore(place)
    selection = None if recipe.selection is None else set(recipe.selection)
    if split is None:
        recipe = replace(recipe, split=default_split(store, selection))
    if split is not None and not finished_trials(store, selection, split):
        other, more = _OTHER_SPLIT[split]
        if finished_trials(store, selection, other):
            raise InvalidInput(
                f"--split: given {split}, but no {'trial' if show_all else 'planned trial'} of {place} has {split} images; "
                f"take --split {other}, {more}"
            )
    return build_from_recipe(store, recipe)


def report_inputs(store: ResultStore, sweep: SweepFolder) -> str:
    """Return a digest of all that decides a sweep's report: plan, code, and stored rows."""
    return inputs_digest(_recipe(sweep), store.digest(), version_settings())


def published_report() -> Report:
    """Return the report over the published rows alone.

    Raises:
        InvalidInput: they are missing or damaged.
    """
    return build_published_report(load_published())


def verify_report(path: Path) -> Verification:
    """Make a report again from the Parquet files in its folder, and compare.

    Raises:
        InvalidInput: there is no report, it has no lock, or its folder has no results.
    """
    if path.suffix in (".csv", ".tex", ".html", ".parquet"):
        raise InvalidInput(f"{path}: only a report in Markdown can be verified; give {path.with_suffix('.md')}")
    return check_report(path, build_from_recipe, code_digest())


def older_page(report: Path) -> str | None:
    """Return a line about the page next to a report.md if it shows another report."""
    page = report.with_suffix(".html")
    if not page.is_file():
        return None
    written = read_lock(report.read_text(encoding="utf-8"), str(report))
    if written.text in page.read_text(encoding="utf-8"):
        return None
    words = [str(page.parent) if word == "FOLDER" else word for word in written.lock.recipe.command.split()[1:]]
    return f"page:    {page} shows an earlier report; make it again: {program_name()} {shlex.join(words)} --html"


def _recipe(sweep: SweepFolder, show_all: bool = False, with_published: bool = False, split: str = "test") -> Recipe:
    options = ["--all"] * show_all + ["--with-published"] * with_published
    options += [f"--split {split}"] * (split != "test")
    return Recipe(
        title=sweep.title,
        selection=None if show_all else sweep.compared,
        baseline=sweep.baseline,
        split=split,
        command=" ".join(["moleflow-sweep report FOLDER", *options]),
        code=code_digest(),
        published=load_published().digest if with_published else None,
        is_search=sweep.tabled is not None,
        names=dict(sorted(sweep.names.items())),
    )


def build_from_recipe(store: ResultStore, recipe: Recipe) -> Report:
    """Return the report that a recipe describes, such as the one in a report's lock."""
    return build_report(store, recipe, load_published() if recipe.published else None, version_settings())
