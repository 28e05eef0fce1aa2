"""The section of a search on the page: its course, its important knobs and all configurations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.html_report.chart import ACCENT, Chart, Spec, quantitative, tooltip
from orchestrator.html_report.parallel_coordinates import MOST_LINES, ConfigurationLine, parallel_chart
from orchestrator.html_report.sortable_table import SortableTable
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.render import ABSENT

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, TrialState

NOTE = (
    "Selected on validation images alone. Values are means over classes and seeds on the validation images. The best of "
    "many values is better than it would be on new images; the tables above show the test images."
)
IMPORTANCE = (
    "PED-ANOVA over complete configurations: each knob's share of the difference between better and worse ones. "
    "The estimate has no interval."
)


@dataclass(frozen=True)
class SearchCharts:
    """The charts, table and notes of a search; `missing` says why some are left out."""

    charts: tuple[Chart, ...] = ()
    table: SortableTable | None = None
    notes: tuple[str, ...] = ()
    missing: str = ""


def search_charts(folder: Path, name: str) -> SearchCharts:
    """Read the charts and the table of the search whose study lies in a results folder.

    Args:
        folder: the results folder.
        name: the sweep's.

    Raises:
        InvalidInput: the journal cannot be opened.

    """
    if find_spec("optuna") is None:
        return SearchCharts(missing="Reading the study needs Optuna: run `pip install -e '.[search]'` in the checkout.")
    import optuna
    from optuna.trial import TrialState

    from orchestrator.search.storage import JOURNAL, explain_storage_errors, open_journal

    if not (folder / JOURNAL).exists():
        return SearchCharts(
            missing=f"The study is not in this folder ({JOURNAL} is missing); search.md has its tables."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with explain_storage_errors(None, folder):
        study = optuna.load_study(study_name=name, storage=open_journal(folder))
        trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    objectives = [
        (name, direction.name.lower()) for name, direction in zip(_names(study), study.directions, strict=True)
    ]
    states = Counter(trial.state for trial in trials)
    counts = ", ".join(f"{states[state]} {_state(state)}" for state in TrialState if states[state])
    summary = f"Objectives: {', '.join(f'{direction} {name}' for name, direction in objectives)}. Configurations: {counts or 'none'}."
    charts: list[Chart] = []
    for k, (objective, direction) in enumerate(objectives):
        charts += _history(complete, k, objective, direction == "maximize")
        charts += _importance(study, k, objective)
    first, direction = objectives[0]
    charts += _parallel_chart(complete, first, direction == "maximize")
    return SearchCharts(tuple(charts), _configurations_table(trials, objectives), (summary, NOTE))


def _state(state: TrialState) -> str:
    return "failed" if state.name == "FAIL" else state.name.lower()


def _names(study: optuna.Study) -> list[str]:
    return list(study.metric_names or (f"objective {k}" for k in range(len(study.directions))))


def _history(complete: list[FrozenTrial], k: int, objective: str, maximize: bool) -> list[Chart]:
    if not complete:
        return []
    fields = {"number": "Number", "value": objective, "best": "Best so far"}
    best, rows = float("-inf") if maximize else float("inf"), []
    for trial in sorted(complete, key=lambda trial: trial.number):
        best = max(best, trial.values[k]) if maximize else min(best, trial.values[k])
        rows.append((trial.number, trial.values[k], best))
    line: Spec = {"mark": {"type": "line", "interpolate": "step-after", "color": ACCENT}}
    points: Spec = {"mark": {"type": "point", "filled": True, "size": 40}}
    spec: Spec = {
        "width": "container",
        "height": 240,
        "encoding": {"x": quantitative("number", "configuration, in the order of the suggestions")},
        "layer": [
            line | {"encoding": {"y": quantitative("best", objective)}},
            points | {"encoding": {"y": quantitative("value", objective), "tooltip": tooltip(fields)}},
        ],
    }
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
            "y": {"field": "knob", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 150}},
            "x": {"field": "share", "type": "quantitative", "title": "share", "scale": {"zero": True}},
            "tooltip": tooltip(fields),
        },
    }
    return [Chart(f"Importance of the knobs: {objective}", IMPORTANCE, fields, list(shares.items()), spec)]


def _parallel_chart(complete: list[FrozenTrial], objective: str, maximize: bool) -> tuple[Chart, ...]:
    ranked = sorted(complete, key=lambda trial: trial.values[0], reverse=maximize)
    count = len(ranked)
    shown = (
        ranked
        if count <= MOST_LINES
        else [ranked[round(k * (count - 1) / (MOST_LINES - 1))] for k in range(MOST_LINES)]
    )
    knobs = tuple(dict.fromkeys(knob for trial in shown for knob in trial.params))
    lines = [
        ConfigurationLine(
            str(trial.number), {knob: plain_value(value) for knob, value in trial.params.items()}, trial.values[0]
        )
        for trial in reversed(shown)
    ]
    left_out = f" {len(shown)} of {count} complete configurations, evenly over their ranking." * (len(shown) < count)
    short = {knob: knob.split(".")[-1] for knob in knobs}
    if len(set(short.values())) == len(knobs):
        lines = [
            ConfigurationLine(line.name, {short[k]: v for k, v in line.values.items()}, line.quality) for line in lines
        ]
        knobs = tuple(short.values())
    note = f"One line for each complete configuration; a single value has no interval.{left_out}"
    return parallel_chart("Configurations, knob by knob", note, knobs, lines, objective, maximize)


def _configurations_table(trials: list[FrozenTrial], objectives: list[tuple[str, str]]) -> SortableTable:
    from orchestrator.search.optuna_search import REASON

    knobs = list(dict.fromkeys(knob for trial in trials for knob in trial.params))
    best = [
        (max if direction == "maximize" else min)((t.values[k] for t in trials if t.values), default=None)
        for k, (_, direction) in enumerate(objectives)
    ]
    rows = []
    for trial in trials:
        values: list[Any] = [None] * len(objectives) if not trial.values else list(trial.values)
        cells = [
            ABSENT if value is None else [f"{value:.4f}"] if value == best[k] else f"{value:.4f}"
            for k, value in enumerate(values)
        ]
        settings = [_value(trial.params[knob]) if knob in trial.params else ABSENT for knob in knobs]
        rows.append(
            (str(trial.number), _state(trial.state), *cells, *settings, str(trial.user_attrs.get(REASON, ""))[:200])
        )
    head = ("Number", "State", *(name for name, _ in objectives), *(knob.split(".")[-1] for knob in knobs), "Remark")
    right = (True, False, *([True] * (len(head) - 3)), False)
    return SortableTable("Every configuration", head, rows, right, (f"Bold: the best value. {NOTE}",))


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else setting_text(value)
