"""The page of a search: the best configurations, what they are worth on validation and test, which knobs matter, what it cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.reports.render import ABSENT, Cell, Table, markdown_list, markdown_table
from orchestrator.reports.tables import write_text
from orchestrator.results.store import ResultStore
from orchestrator.search.objective import Values, stored_values
from orchestrator.search.optuna_search import TRIALS
from orchestrator.search.space import Space
from orchestrator.search.tried_trials import best_trials
from orchestrator.sweep.file_schema import COSTS, SELECTION, SearchKeys
from orchestrator.sweep.trial import Trial, short_name, spell

MOST = 10
PLOTS = "plots"
LEAST_FOR_IMPORTANCE = 5
SELECTED = (
    "Selected on validation images alone: normal images held out from training, beside {anomalies}. Trials of the search never "
    "open a test image; the base and the finalists were frozen first and then tested, once."
)
_ANOMALIES = {"synthetic": "synthetic defects (generated)", "real": "real defects that the test leaves out"}


@dataclass(frozen=True)
class TestedConfiguration:
    """A configuration that was tested: its trials, and what they are worth on both splits, by trial id."""

    name: str
    trials: tuple[Trial, ...]
    validation: Mapping[str, Values]
    test: Mapping[str, Values]

    def mean(self, split: Mapping[str, Values], metric: str) -> str:
        """The mean over the seeds; a dash where one of them has none."""
        values = [split.get(trial.id, {}).get(metric) for trial in self.trials]
        found = [value for value in values if value is not None]
        return f"{sum(found) / len(found):.4f}" if len(found) == len(values) else ABSENT


def write_search_report(
    study: optuna.Study, space: Space, search: SearchKeys, tested: Sequence[tuple[str, tuple[Trial, ...]]], folder: Path
) -> tuple[str, Path]:
    """Write search.md and the plots into the results folder.

    Args:
        study: the study.
        space: its space.
        search: what the sweep file says of it.
        tested: names and trials of the configurations that were tested.
        folder: the results folder.

    Returns:
        The page, and where it lies.

    Raises:
        OSError: the folder cannot be written.

    """
    store = ResultStore(folder)
    ids = [trial.id for _, trials in tested for trial in trials]
    values = stored_values(store, ids), stored_values(store, ids, "test")
    chosen = [TestedConfiguration(name, trials, *values) for name, trials in tested]
    plots = _plots(study, folder / PLOTS)
    parts = [f"# {space.sweep.name}: the search\n", *_facts(study, space, search, store)]
    parts += [
        markdown_table(table)
        for table in (_tested(chosen, search), _best(study, space), _importance(study))
        if table.rows
    ]
    parts += [f"![{path.stem}]({PLOTS}/{path.name})" for path in plots]
    text = "\n".join(parts) + "\n"
    path = folder / "search.md"
    write_text(path, text)
    return text, path


def _facts(study: optuna.Study, space: Space, search: SearchKeys, store: ResultStore) -> list[str]:
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(t.state is state for t in trials) for state in TrialState}
    config = space.trials(space.base())[0].config
    attempts = store.read("attempts", ["trial_id", "status", "seconds_spent"]).to_pylist()
    spent = sum(row["seconds_spent"] for row in attempts)
    seeds = len(space.sweep.seeds)
    lines = [
        f"objectives: {', '.join(f'{direction} {metric}' for metric, direction in search.objectives.items())}, "
        f"mean over classes and {seeds} seed(s)",
        f"sampler {search.sampler}, seed {search.seed}; pruner {search.pruner}",
        f"configurations: {counts[TrialState.COMPLETE]} complete, {counts[TrialState.PRUNED]} pruned, "
        f"{counts[TrialState.FAIL]} failed, impossible or taken over, {counts[TrialState.RUNNING]} running, of {search.trials}",
        f"cost: {len(attempts)} attempts at trials, {spent / 3600:.2f} compute-hours",
        SELECTED.format(anomalies=_ANOMALIES.get(config.data.validation_anomalies, config.data.validation_anomalies)),
    ]
    if search.constraints:
        kept = ", ".join(f"{m} at {'most' if m in COSTS else 'least'} {b:g}" for m, b in search.constraints.items())
        lines.insert(1, f"constraints: {kept}")
    if search.pruner != "none":
        lines.append(_saved(attempts, trials, seeds))
    return [*markdown_list(lines), ""]


def _saved(attempts: Sequence[Mapping[str, float | str]], trials: Sequence[FrozenTrial], seeds: int) -> str:
    """What pruning saved, as an estimate: a pruned configuration would have cost what finished trials cost on average."""
    finished = [float(row["seconds_spent"]) for row in attempts if row["status"] == "finished"]
    pruned = [t for t in trials if t.state is TrialState.PRUNED]
    of_pruned = {trial_id for t in pruned for trial_id in t.user_attrs.get(TRIALS, [])}
    cost = sum(float(row["seconds_spent"]) for row in attempts if row["trial_id"] in of_pruned)
    if not finished:
        return "pruning saved: unknown, for nothing has finished"
    whole = len(pruned) * seeds * sum(finished) / len(finished)
    return (
        f"pruning saved about {max(0.0, whole - cost) / 3600:.2f} compute-hours: {len(pruned)} configurations at what finished "
        "trials cost on average, less what they did cost"
    )


def _tested(chosen: Sequence[TestedConfiguration], search: SearchKeys) -> Table:
    metrics = list(dict.fromkeys([m for m in search.objectives if m in SELECTION] + ["image_auroc", "pixel_auroc"]))
    header = ["", *(f"{split} {metric}" for metric in metrics for split in ("validation", "test"))]
    rows = [
        (one.name, tuple(Cell(one.mean(split, m)) for m in metrics for split in (one.validation, one.test)))
        for one in chosen
    ]
    note = "means over classes and seeds; the comparison with intervals stands in report.md"
    return Table("Tested", tuple(header), tuple(rows), (note,))


def _best(study: optuna.Study, space: Space) -> Table:
    found = best_trials(study, MOST)
    names = list(study.metric_names or ())
    knobs = [path for path in space.distributions if any(path in t.params for t in found)]
    rows = []
    for trial in found:
        factors = space.factors(trial.params)
        cells = [Cell(f"{value:.4f}") for value in trial.values]
        cells += [Cell(spell(factors[path]) if path in factors else ABSENT) for path in knobs]
        rows.append((str(trial.number), tuple(cells)))
    title = "Best configurations, by their validation images"
    return Table(title, ("Number", *names, *(short_name(path) for path in knobs)), tuple(rows))


def _importance(study: optuna.Study) -> Table:
    title, note = (
        "Importance of the knobs",
        "PED-ANOVA over complete configurations: shares of what tells the better ones",
    )
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST_FOR_IMPORTANCE:
        return Table(title, ("Knob", "Share"), ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shares = optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError):  # No knob was varied, or all values are equal.
            return Table(title, ("Knob", "Share"), ())
    rows = tuple((short_name(path), (Cell(f"{share:.3f}"),)) for path, share in shares.items())
    return Table(title, ("Knob", "Share"), rows, (note,))


def _plots(study: optuna.Study, folder: Path) -> list[Path]:
    """Optuna's own plots, as PNG; none before anything is complete."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 2:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawn

    folder.mkdir(exist_ok=True)
    target = None if len(study.directions) == 1 else (lambda t: t.values[0])
    name = (study.metric_names or ["objective"])[0]
    paths = []
    kinds: dict[str, Callable[..., Any]] = {"history": drawn.plot_optimization_history, "slice": drawn.plot_slice}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, plot in kinds.items():
            plot(study, target=target, target_name=name)
            path = folder / f"{kind}.png"
            pyplot.gcf().savefig(path, dpi=100, bbox_inches="tight", metadata={"Software": None})
            pyplot.close("all")
            paths.append(path)
    return paths
