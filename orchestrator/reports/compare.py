"""From several results folders to one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.knobs import method_knobs, version_settings
from orchestrator.records import sweep_folder
from orchestrator.reports.cross_sweep import SWEEP, ComparedSweep, column_fits, cross_sweep_report
from orchestrator.reports.tables import Report
from orchestrator.results.store import ResultStore
from orchestrator.sweep.overrides import parse_sets


def compare_sweeps(
    places: Sequence[Path], baseline: Sequence[str] = (), split: str = "test", everything: bool = False
) -> Report:
    """The report over the sweeps of results folders. Nothing is written.

    Args:
        places: results folders, two or more.
        baseline: `knob=value`, several of which have to hold together, and `sweep=NAME`; none = what all of the sweeps' own plans
            name, where that is the same.
        split: test | validation.
        everything: every stored trial, not only those of each folder's latest plan.

    Raises:
        InvalidInput: a folder holds no sweep or is given twice, or no column fits the baseline.

    """
    if len(places) < 2:
        raise InvalidInput("compare: given one folder, allowed: two or more; for one sweep: moleflow-sweep report DIR")
    sweep_folder.refuse_duplicates(places, "compare")
    sweeps = [sweep_folder.read_sweep_folder(place) for place in places]
    names = _names(places, sweeps)
    sources = [
        ComparedSweep(name, ResultStore(place), None if everything else frozenset(sweep.compared))
        for name, place, sweep in zip(names, places, sweeps, strict=True)
    ]
    given = _baseline(baseline, names)
    if given and not column_fits(given, sources, split):
        said = ", ".join(f"{key}={value}" for key, value in given.items())
        raise InvalidInput(
            f"--baseline: no finished column fits {said}; leave it out to see the columns, or give a value that one of them has"
        )
    same = all(sweep.baseline == sweeps[0].baseline for sweep in sweeps)
    return cross_sweep_report(
        sources,
        given or (sweeps[0].baseline if same else None),
        split,
        current_code=code_digest(),
        covers={"version": method_knobs()},
        bundles={"version": version_settings()},
    )


def _names(places: Sequence[Path], sweeps: Sequence[sweep_folder.SweepFolder]) -> list[str]:
    """What each sweep is called: its name, else its folder's, else the path as it was given."""
    choices = [
        [sweep.name for sweep in sweeps],
        [place.resolve().name for place in places],
        [str(place) for place in places],
    ]
    return next(names for names in choices if len(set(names)) == len(names) or names is choices[-1])


def _baseline(given: Sequence[str], names: Sequence[str]) -> Mapping[str, Any]:
    wanted = [item.removeprefix(f"{SWEEP}=") for item in given if item.startswith(f"{SWEEP}=")]
    for name in wanted:
        if name not in names:
            raise InvalidInput(f"--baseline: no sweep '{name}'; there: {', '.join(names)}{did_you_mean(name, names)}")
    if len(wanted) > 1:
        raise InvalidInput(f"--baseline: given {SWEEP} twice; a baseline is of one sweep")
    try:
        knobs = parse_sets([item for item in given if not item.startswith(f"{SWEEP}=")])
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("--set ", "--baseline ")) from None
    return {**knobs, **({SWEEP: wanted[0]} if wanted else {})}
