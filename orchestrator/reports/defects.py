"""Image metrics of one defect at a time: its images against all normal test images of the class.

MVTec LOCO AD reports its two kinds of anomaly apart. They are the defects of its classes, so a
report gets a table of them where a class has these defects. The page has AUROC by defect for every
data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from moleflow.metrics.ranking import Ranking, ranking
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import Summary, metric_cells, summarise
from orchestrator.reports.render import MOST_ROWS, Table, columns_as_rows, fit_side_by_side
from orchestrator.results.schema import FINISHED
from orchestrator.results.store import ResultStore

KINDS = ("logical_anomalies", "structural_anomalies")
"""The defects that are kinds of anomaly, by the names of MVTec LOCO AD's folders."""
TITLE = "By kind of anomaly"
METRICS = {"auroc": "Image AUROC", "ap": "Image AP"}
"""{attribute of `Ranking`: its name in rows}."""

DefectMetrics = Mapping[tuple[str, str], Ranking]
"""{(class, defect): metrics} of one trial."""


def read_defect_metrics(
    store: ResultStore, trial_ids: Iterable[str], split: str, only: Sequence[str] = ()
) -> Mapping[str, DefectMetrics]:
    """Return the metrics of finished trials by defect; a class without normal images has none.

    Args:
        store: the results.
        trial_ids: the trials.
        split: test | validation.
        only: the defects to look at; empty = all.

    Raises:
        InvalidInput: there is no store in the folder.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if only and not set(only).intersection(pc.unique(store.read("scores", ["defect"])["defect"]).to_pylist()):
        return {}
    rows = store.read("scores", ["trial_id", "task_name", "defect", "label", "score", "split", "status"])
    of_split = pc.and_(pc.equal(rows["split"], split), pc.equal(rows["status"], FINISHED))
    chosen = pc.and_(of_split, pc.is_in(rows["trial_id"], value_set=pa.array(sorted(trial_ids), pa.string())))
    if only:
        of_defect = pc.is_in(rows["defect"], value_set=pa.array(only, pa.string()))
        chosen = pc.and_(chosen, pc.or_(of_defect, pc.equal(rows["label"], 0)))
    rows = rows.filter(chosen)
    owners = zip(rows["trial_id"].to_pylist(), rows["task_name"].to_pylist(), strict=True)
    normal: dict[tuple[str, str], list[float]] = {}
    defective: dict[tuple[str, str, str], list[float]] = {}
    columns = (rows[name].to_pylist() for name in ("defect", "label", "score"))
    for (trial_id, class_name), defect, label, score in zip(owners, *columns, strict=True):
        if label:
            defective.setdefault((trial_id, class_name, defect), []).append(score)
        else:
            normal.setdefault((trial_id, class_name), []).append(score)
    found: dict[str, dict[tuple[str, str], Ranking]] = {}
    for (trial_id, class_name, defect), scores in sorted(defective.items()):
        of_class = normal.get((trial_id, class_name))
        if of_class:
            labels = np.arange(len(of_class) + len(scores)) >= len(of_class)
            found.setdefault(trial_id, {})[class_name, defect] = ranking(labels, np.array([*of_class, *scores]))
    return found


def kinds_tables(
    comparison: Comparison, classes: Sequence[str], names: Sequence[str], metrics: Mapping[str, DefectMetrics]
) -> list[Table]:
    """Return the table of `KINDS`; none if no class has one of them.

    If its columns do not fit, there is one for each kind and metric, with variants as rows. With
    more than `MOST_ROWS` variants these have the means over classes alone.

    Args:
        comparison: the variants.
        classes: the classes, in the order of the tables.
        names: the names of the variants' columns.
        metrics: the metrics by trial.
    """
    seeds = [len(v.seeds) for v in comparison.variants]
    found = [
        ((class_name, f"{kind} {METRICS[metric]}"), metric_cells(summaries, seeds))
        for class_name, kind, metric, summaries in kinds_summaries(comparison, classes, metrics)
        if class_name == MEAN or len(names) <= MOST_ROWS
    ]
    if not found:
        return []
    note = "One kind of anomaly against all normal test images of the class."
    rows = tuple((f"{class_name} {metric}", cells) for (class_name, metric), cells in found)
    table = Table(TITLE, ("Metric", *names), rows, (note,))
    if fit_side_by_side(names):
        return [table]
    return columns_as_rows(table, "Variant", [(f"{TITLE}: {metric}", class_name) for (class_name, metric), _ in found])


def kinds_summaries(
    comparison: Comparison, classes: Sequence[str], metrics: Mapping[str, DefectMetrics]
) -> Iterator[tuple[str, str, str, list[Summary]]]:
    """Yield class, kind, metric and the summary of each variant; the means over classes last."""
    trials = [[metrics.get(t.trial_id, {}) for t in v.trials] for v in comparison.variants]
    having = {kind: [c for c in classes if any((c, kind) in of for of in metrics.values())] for kind in KINDS}
    for class_name in (*classes, MEAN):
        for kind, of_kind in having.items():
            over = of_kind if class_name == MEAN else [c for c in of_kind if c == class_name]
            for metric in METRICS if over else ():
                yield class_name, kind, metric, [defect_summary(of, over, kind, metric) for of in trials]


def defect_summary(trials: Sequence[DefectMetrics], classes: Sequence[str], defect: str, metric: str) -> Summary:
    """Return mean and standard deviation over trials of the mean over classes.

    A trial that lacks one of the classes, or in which the metric is undefined, does not count.
    """
    means = []
    for of in trials:
        values = [getattr(of[c, defect], metric) for c in classes if (c, defect) in of]
        if len(values) == len(classes) and None not in values:
            means.append(sum(values) / len(values))
    return summarise(means)
