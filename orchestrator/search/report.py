"""The report of a search, search.md: its cost, best configurations, tests and important knobs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from moleflow.files import write_atomically
from orchestrator.host.durations import duration_text
from orchestrator.reports.render import ABSENT, Cell, Table, markdown_list, markdown_table
from orchestrator.results.store import ResultStore
from orchestrator.search.failures import failure_sentence
from orchestrator.search.objective import Values, stored_values
from orchestrator.search.space import Space
from orchestrator.search.tried_configurations import REASON, REPEATED, TRIALS, exhausted_sentence
from orchestrator.search.tried_trials import best_trials
from orchestrator.sweep.file_schema import COSTS, SELECTION
from orchestrator.sweep.trial import Trial, short_name, spell

MOST = 10
PLOTS = "plots"
LEAST_FOR_IMPORTANCE = 5
"""Complete configurations below which the importance of knobs is not estimated."""
IMPORTANCE = "PED-ANOVA over complete configurations: each knob's share of the difference between better and worse ones"
SELECTED = (
    "Selected on validation images alone: normal images held out from training, with {anomalies}. Trials of the search never "
    "open a test image; {tests}."
)
_TESTS = "the base and the finalists were frozen first and then tested, once"
_NONE_COMPLETE = "nothing was tested, as no configuration is complete"
_NO_TESTS = "nothing was tested, as `finalists` is 0"
_ANOMALIES = {"synthetic": "synthetic defects (generated)", "real": "real defects that the test leaves out"}


@dataclass(frozen=True)
class ConfigurationValues:
    """A configuration that was tested: its trials, and {trial id: values} on each split."""

    name: str
    trials: tuple[Trial, ...]
    validation: Mapping[str, Values]
    test: Mapping[str, Values]

    def mean(self, split: Mapping[str, Values], metric: str) -> str:
        """The mean over the seeds as text; a dash if a seed lacks the metric."""
        values = [split.get(trial.id, {}).get(metric) for trial in self.trials]
        known = [value for value in values if value is not None]
        return f"{sum(known) / len(known):.4f}" if len(known) == len(values) else ABSENT

    def seeds(self) -> tuple[int, ...]:
        """The seeds that were tested."""
        return tuple(trial.config.seed for trial in self.trials)


def write_search_report(
    study: optuna.Study, space: Space, tested: Sequence[tuple[str, tuple[Trial, ...]]], folder: Path
) -> tuple[str, Path]:
    """Write search.md and the plots into the results folder.

    `tested` has the name and the trials of each configuration that was tested.

    Returns:
        The report as Markdown, and the path of its file.

    Raises:
        OSError: the folder cannot be written.

    """
    store = ResultStore(folder)
    ids = [trial.id for _, trials in tested for trial in trials]
    values = stored_values(store, ids), stored_values(store, ids, "test")
    configurations = [ConfigurationValues(name, trials, *values) for name, trials in tested]
    plots = _plots(study, folder / PLOTS)
    parts = [f"# {space.sweep.name}: the search\n", *_facts(study, space, store, bool(tested))]
    parts += [
        markdown_table(table)
        for table in (_tested(configurations, space), _best(study, space), _importance(study))
        if table.rows
    ]
    parts += [f"![{path.stem}]({PLOTS}/{path.name})" for path in plots]
    text = "\n".join(parts) + "\n"
    path = folder / "search.md"
    write_atomically(path, text.encode(), durable=False)  # It can be made again.
    return text, path


def _facts(study: optuna.Study, space: Space, store: ResultStore, tested: bool) -> list[str]:
    search, trials = space.search, study.get_trials(deepcopy=False)
    counts = {state: sum(t.state is state for t in trials) for state in TrialState}
    repeated = sum(trial.user_attrs.get(REASON) == REPEATED for trial in trials)  # They ran nothing.
    config = space.trials(space.base())[0].config
    attempts = store.read("attempts", ["trial_id", "status", "seconds_spent"]).to_pylist()
    spent = sum(row["seconds_spent"] for row in attempts)
    seeds = len(space.sweep.seeds)
    lines = [
        f"objectives: {', '.join(f'{direction} {metric}' for metric, direction in search.objectives.items())}, "
        f"mean over classes and {seeds} seed(s)",
        f"sampler {search.sampler}, seed {search.seed}; pruner {search.pruner}",
        f"configurations: {counts[TrialState.COMPLETE]} complete, {counts[TrialState.PRUNED]} pruned, "
        f"{counts[TrialState.FAIL] - repeated} failed, impossible or taken over, {counts[TrialState.RUNNING]} running, of "
        f"{search.trials}",
        *(line for line in (exhausted_sentence(study, space), failure_sentence(study)) if line),
        f"cost: {len(attempts)} attempts at trials, {duration_text(spent)} of compute time",
        SELECTED.format(
            anomalies=_ANOMALIES.get(config.data.validation_anomalies, config.data.validation_anomalies),
            tests=_TESTS if tested else _NO_TESTS if not search.finalists else _NONE_COMPLETE,
        ),
    ]
    if search.constraints:
        kept = ", ".join(f"{m} at {'most' if m in COSTS else 'least'} {b:g}" for m, b in search.constraints.items())
        lines.insert(1, f"constraints: {kept}")
    if search.pruner != "none":
        lines.append(_saved_by_pruning(attempts, trials, seeds))
    return [*markdown_list(lines), ""]


def _saved_by_pruning(attempts: Sequence[Mapping[str, float | str]], trials: Sequence[FrozenTrial], seeds: int) -> str:
    """Estimate the compute time that pruning saved.

    Without pruning, each trial of a pruned configuration would have cost the mean of finished ones.
    """
    finished = [float(row["seconds_spent"]) for row in attempts if row["status"] == "finished"]
    pruned = [t for t in trials if t.state is TrialState.PRUNED]
    of_pruned = {trial_id for t in pruned for trial_id in t.user_attrs.get(TRIALS, [])}
    cost = sum(float(row["seconds_spent"]) for row in attempts if row["trial_id"] in of_pruned)
    if not finished:
        return "pruning saved: unknown, as no trial has finished"
    whole = len(pruned) * seeds * sum(finished) / len(finished)
    return (
        f"pruning saved about {duration_text(max(0.0, whole - cost))} of compute time: {len(pruned)} configurations at the mean "
        "cost of finished trials, minus their own cost"
    )


def _tested(configurations: Sequence[ConfigurationValues], space: Space) -> Table:
    search = space.search
    metrics = list(dict.fromkeys([m for m in search.objectives if m in SELECTION] + ["image_auroc", "pixel_auroc"]))
    header = ["", "seeds", *(f"{split} {metric}" for metric in metrics for split in ("validation", "test"))]
    rows = [
        (
            one.name,
            (
                Cell(", ".join(map(str, one.seeds()))),
                *(Cell(one.mean(split, m)) for m in metrics for split in (one.validation, one.test)),
            ),
        )
        for one in configurations
    ]
    notes = ["means over classes and seeds; report.md compares them with intervals"]
    if len({one.seeds() for one in configurations}) > 1:
        notes.append("NOT THE SAME SEEDS in every row: a difference between such rows may be one of seeds")
    if any(one.seeds() != tuple(space.sweep.seeds) for one in configurations):
        notes.append(
            f"the search itself ran {_seed_words(space)}; its values are not means over the seeds of this table"
        )
    return Table("Tested", tuple(header), tuple(rows), tuple(notes))


def _seed_words(space: Space) -> str:
    seeds = space.sweep.seeds
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _best(study: optuna.Study, space: Space) -> Table:
    best = best_trials(study, MOST)
    names = list(study.metric_names or ())
    knobs = [path for path in space.distributions if any(path in t.params for t in best)]
    rows = []
    for trial in best:
        factors = space.factors(trial.params)
        cells = [Cell(f"{value:.4f}") for value in trial.values]
        cells += [Cell(spell(factors[path]) if path in factors else ABSENT) for path in knobs]
        rows.append((str(trial.number), tuple(cells)))
    title = "Best configurations, by their validation images"
    note = f"means over the classes and {_seed_words(space)}, which the search ran"
    return Table(title, ("Number", *names, *(short_name(path) for path in knobs)), tuple(rows), (note,))


def knob_importances(study: optuna.Study, objective: int = 0) -> dict[str, float]:
    """Estimate by PED-ANOVA how much each knob matters for one objective.

    Returns:
        {dotted path: share}, the largest first, equal ones by name, with the sum 1. It is empty for
        fewer than LEAST_FOR_IMPORTANCE complete configurations, or if Optuna can estimate none.

    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST_FOR_IMPORTANCE:
        return {}
    # Given a target, Optuna takes smaller values for better ones, whatever the direction. With one
    # objective it needs no target and knows the direction.
    sign = 1.0 if study.directions[objective] is StudyDirection.MINIMIZE else -1.0
    target: Callable[[FrozenTrial], float] | None = (
        None if len(study.directions) == 1 else lambda trial: sign * float(trial.values[objective])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shares = optuna.importance.get_param_importances(study, target=target)
        except (ValueError, RuntimeError):  # No knob was varied, or all values are equal.
            return {}
    # Optuna leaves the order of equal shares to the hash seed of the process.
    return dict(sorted(shares.items(), key=lambda one: (-one[1], one[0])))


def _importance(study: optuna.Study) -> Table:
    shares = knob_importances(study) if len(study.directions) == 1 else {}
    rows = tuple((short_name(path), (Cell(f"{share:.3f}"),)) for path, share in shares.items())
    return Table("Importance of the knobs", ("Knob", "Share"), rows, (IMPORTANCE,))


def _plots(study: optuna.Study, folder: Path) -> list[Path]:
    """Write Optuna's plots as PNG files; none before two configurations are complete."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 2:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as optuna_plots

    folder.mkdir(exist_ok=True)
    target = None if len(study.directions) == 1 else (lambda t: t.values[0])
    name = (study.metric_names or ["objective"])[0]
    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, plot in (("history", optuna_plots.plot_optimization_history), ("slice", optuna_plots.plot_slice)):
            plot(study, target=target, target_name=name)
            paths.append(folder / f"{kind}.png")
            pyplot.gcf().savefig(paths[-1], dpi=100, bbox_inches="tight", metadata={"Software": None})
            pyplot.close("all")
    return paths
