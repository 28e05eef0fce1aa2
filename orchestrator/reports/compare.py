"""The report over several results folders: `moleflow-sweep compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from moleflow.settings.knobs import version_settings
from moleflow.suggestions import hint_at
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder, refuse_duplicates
from orchestrator.reports.cross_sweep import SWEEP, ComparedSweep, any_column_fits, cross_sweep_report
from orchestrator.reports.finished_trials import default_split
from orchestrator.reports.tables import Report
from orchestrator.results.store import ResultStore
from orchestrator.sweep.overrides import parse_sets


def compare_sweeps(
    places: Sequence[Path], baseline: Sequence[str] = (), split: str | None = None, everything: bool = False
) -> Report:
    """Return the report over the sweeps of several results folders. It writes nothing.

    Args:
        places: results folders, two or more.
        baseline: `knob=value` and `sweep=NAME`, which all have to hold for a baseline column. If
            empty, the baseline of the sweeps' own plans, provided that they agree.
        split: test | validation, the images that the tables are about; None = test, or validation
            where no trial of any sweep scored test images.
        everything: every stored trial, not only those of each folder's latest plan.

    Raises:
        InvalidInput: a folder holds no sweep or is given twice, or no column fits the baseline.
    """
    if len(places) < 2:
        raise InvalidInput("compare: given one folder, allowed: two or more; for one sweep: moleflow-sweep report DIR")
    refuse_duplicates(places, "compare")
    sweeps = [read_sweep_folder(place) for place in places]
    names = _names(places, sweeps)
    sources = [
        ComparedSweep(name, ResultStore(place), None if everything else set(sweep.compared), sweep.names)
        for name, place, sweep in zip(names, places, sweeps, strict=True)
    ]
    defaults = [default_split(of.store, of.selection) for of in sources]
    split = split or ("validation" if set(defaults) == {"validation"} else "test")
    without = [of.name for of, default in zip(sources, defaults, strict=True) if default == "validation" != split]
    given = _baseline(baseline, names)
    if given and not any_column_fits(given, sources, split):
        text = ", ".join(f"{key}={value}" for key, value in given.items())
        raise InvalidInput(
            f"--baseline: no finished column fits {text}; leave it out to see the columns, or give a value that one of "
            "them has"
        )
    same = all(sweep.baseline == sweeps[0].baseline for sweep in sweeps)
    report = cross_sweep_report(
        sources,
        given or (sweeps[0].baseline if same else None),
        split,
        current_code=code_digest(),
        version_settings=version_settings(),
    )
    if not without:
        return report
    line = f"without {', '.join(without)}, which scored validation images alone: to see them, give --split validation"
    return replace(report, header=(line, *report.header))


def _names(places: Sequence[Path], sweeps: Sequence[SweepFolder]) -> list[str]:
    """Return distinct names: the sweeps' names, or else their folders' names, or else the paths."""
    for names in ([sweep.name for sweep in sweeps], [place.resolve().name for place in places]):
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _baseline(given: Sequence[str], names: Sequence[str]) -> Mapping[str, Any]:
    """Parse `knob=value` and `sweep=NAME` into {knob: value}."""
    wanted = [item.removeprefix(f"{SWEEP}=") for item in given if item.startswith(f"{SWEEP}=")]
    for name in wanted:
        if name not in names:
            raise InvalidInput(f"--baseline: given sweep '{name}', allowed: {', '.join(names)}{hint_at(name, names)}")
    if len(wanted) > 1:
        raise InvalidInput(f"--baseline: given {SWEEP}= twice; a baseline is a column of one sweep")
    try:
        knobs = parse_sets([item for item in given if not item.startswith(f"{SWEEP}=")])
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("--set ", "--baseline ")) from None
    return {**knobs, **({SWEEP: wanted[0]} if wanted else {})}
