"""The section of a search on the page: its course, its important knobs and all configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.html_report.chart import (
    ACCENT,
    Chart,
    ChartGroup,
    Spec,
    layered,
    left_out,
    nominal,
    quantitative,
    tooltip,
)
from orchestrator.html_report.page_data import evenly_spread
from orchestrator.html_report.parallel_coordinates import MOST_LINES, ConfigurationLine, parallel_chart
from orchestrator.html_report.sortable_table import PageSection, SortableTable
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.render import ABSENT

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, TrialState

NOTE = (
    "Selected on validation images alone. Values are means over classes and seeds on the validation images. The best of "
    "many values is better than it would be on new images."
)
TESTED, NOT_TESTED = "The tables above show the test images.", "No configuration was tested."
IMPORTANCE = (
    "PED-ANOVA over complete configurations: each knob's share of the difference between better and worse ones. "
    "The estimate has no interval."
)


def search_section(folder: Path, name: str, tested_seeds: Collection[int] = ()) -> PageSection:
    """Return the section of the sweep `name`, whose study lies in a results folder.

    Args:
        folder: the results folder.
        name: the sweep's name.
        tested_seeds: numbers of seeds of the variants in the page's tables.

    Raises:
        InvalidInput: the journal cannot be opened.

    """
    if find_spec("optuna") is None:
        return _section(missing="Reading the study needs Optuna: run `pip install -e '.[search]'` in the checkout.")
    import optuna
    from optuna.trial import TrialState

    from orchestrator.search.storage import JOURNAL, explain_storage_errors, latest_study_name, open_journal
    from orchestrator.search.tried_configurations import REASON, REPEATED, TRIALS

    if not (folder / JOURNAL).exists():
        return _section(missing=f"The study is not in this folder ({JOURNAL} is missing); search.md has its tables.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with explain_storage_errors(None, folder):
        storage = open_journal(folder)
        study = optuna.load_study(study_name=latest_study_name(storage, name), storage=storage)
        # A suggestion that repeats an earlier one ran nothing.
        trials = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(REASON) != REPEATED]
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    names = study.metric_names or [f"objective {k}" for k in range(len(study.directions))]
    objectives = [(name, of.name.lower()) for name, of in zip(names, study.directions, strict=True)]
    states = Counter(trial.state for trial in trials)
    counts = ", ".join(f"{states[state]} {_state(state)}" for state in TrialState if states[state])
    summary = f"Objectives: {', '.join(f'{direction} {name}' for name, direction in objectives)}. Configurations: {counts or 'none'}."
    counts_of_seeds = {len(trial.user_attrs[TRIALS]) for trial in complete if TRIALS in trial.user_attrs}
    seeds = _seeds_note(counts_of_seeds, tested_seeds)
    tested = TESTED if tested_seeds else NOT_TESTED
    charts: list[Chart] = []
    for k, (objective, direction) in enumerate(objectives):
        charts += _history(complete, k, objective, direction == "maximize")
        charts += _importance(study, k, objective)
    first, direction = objectives[0]
    charts += _parallel_chart(complete, first, direction == "maximize")
    return _section(charts, (_configurations_table(trials, objectives),), (summary, *seeds, NOTE, tested))


def _seeds_note(searched: Collection[int], tested: Collection[int]) -> tuple[str, ...]:
    """Say over how many seeds the values are, and warn where they are not over as many."""
    if not searched:
        return ()
    numbers = [" or ".join(map(str, sorted(of))) for of in (searched, tested)]
    words = f"Seeds: each value is a mean over {numbers[0]} seed{'' if set(searched) == {1} else 's'}."
    if len(searched) > 1:
        words += " NOT THE SAME NUMBER in every configuration: the column n (seeds) has it."
    if tested and set(tested) != set(searched):
        words += f" The tables above are over {numbers[1]}, so do not compare their values with these."
    return (words,)


def _section(
    charts: Sequence[Chart] = (),
    tables: tuple[SortableTable, ...] = (),
    notes: tuple[str, ...] = (),
    missing: str = "",
) -> PageSection:
    group = ChartGroup("", tuple(charts), missing)
    return PageSection("search", "The search", tables=tables, groups=(group,), notes=notes)


def _state(state: TrialState) -> str:
    return "failed" if state.name == "FAIL" else state.name.lower()


def _history(complete: list[FrozenTrial], k: int, objective: str, maximize: bool) -> list[Chart]:
    if not complete:
        return []
    fields = {"number": "Number", "value": objective, "best": "Best so far"}
    best, rows = float("-inf") if maximize else float("inf"), []
    for trial in sorted(complete, key=lambda trial: trial.number):
        best = max(best, trial.values[k]) if maximize else min(best, trial.values[k])
        rows.append((trial.number, trial.values[k], best))
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "interpolate": "step-after", "color": ACCENT},
            "encoding": {"y": quantitative("best", objective)},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 40},
            "encoding": {"y": quantitative("value", objective), "tooltip": tooltip(fields)},
        },
    ]
    spec = layered(240, {"x": quantitative("number", "configuration, in the order of the suggestions")}, layers)
    return [Chart(f"The course of the search: {objective}", f"Line: the best so far. {NOTE}", fields, rows, spec)]


def _importance(study: optuna.Study, k: int, objective: str) -> list[Chart]:
    from orchestrator.search.report import knob_importances

    shares = knob_importances(study, k)
    if not shares:
        return []
    fields = {"knob": "Knob", "share": "Share"}
    spec: Spec = {
        "width": "container",
        "height": 20 * len(shares),
        "mark": {"type": "bar", "height": 11},
        "encoding": {
            "y": nominal("knob", None, axis={"labelLimit": 150}),
            "x": quantitative("share", "share", scale={"zero": True}),
            "tooltip": tooltip(fields),
        },
    }
    return [Chart(f"Importance of the knobs: {objective}", IMPORTANCE, fields, list(shares.items()), spec)]


def _parallel_chart(complete: list[FrozenTrial], objective: str, maximize: bool) -> tuple[Chart, ...]:
    shown = evenly_spread(sorted(complete, key=lambda trial: trial.values[0], reverse=maximize), MOST_LINES)
    knobs = tuple(dict.fromkeys(knob for trial in shown for knob in trial.params))
    names = {knob: knob.split(".")[-1] for knob in knobs}
    if len(set(names.values())) < len(knobs):
        names = dict(zip(knobs, knobs, strict=True))
    lines = [
        ConfigurationLine(
            str(trial.number),
            {names[knob]: plain_value(value) for knob, value in trial.params.items()},
            trial.values[0],
        )
        for trial in reversed(shown)
    ]
    note = "One line for each complete configuration; a single value has no interval."
    note += left_out(len(shown), len(complete), "complete configurations, evenly over their ranking")
    return parallel_chart("Configurations, knob by knob", note, tuple(names.values()), lines, objective, maximize)


def _configurations_table(trials: list[FrozenTrial], objectives: list[tuple[str, str]]) -> SortableTable:
    from orchestrator.search.tried_configurations import REASON, TRIALS

    knobs = list(dict.fromkeys(knob for trial in trials for knob in trial.params))
    best = [
        (max if direction == "maximize" else min)((t.values[k] for t in trials if t.values), default=None)
        for k, (_, direction) in enumerate(objectives)
    ]
    rows = []
    for trial in trials:
        values: list[Any] = trial.values or [None] * len(objectives)
        cells = [
            ABSENT if value is None else [f"{value:.4f}"] if value == best[k] else f"{value:.4f}"
            for k, value in enumerate(values)
        ]
        held = [trial.params.get(knob, ABSENT) for knob in knobs]
        settings = [f"{value:.4g}" if isinstance(value, float) else setting_text(value) for value in held]
        remark = str(trial.user_attrs.get(REASON, ""))[:200]
        seeds = str(len(trial.user_attrs[TRIALS])) if TRIALS in trial.user_attrs else ABSENT
        rows.append((str(trial.number), _state(trial.state), seeds, *cells, *settings, remark))
    head = (
        "Number",
        "State",
        "n (seeds)",
        *(name for name, _ in objectives),
        *(knob.split(".")[-1] for knob in knobs),
        "Remark",
    )
    right = (True, False, *([True] * (len(head) - 3)), False)
    return SortableTable("Every configuration", head, rows, right, (f"Bold: the best value. {NOTE}",))
