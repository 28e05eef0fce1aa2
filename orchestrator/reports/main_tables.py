"""The first tables of a report: the main metrics after the final task, and their changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.reports.baseline_table import BaselineComparison
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.notes import mean_notes, same_columns
from orchestrator.reports.number_format import Summary, change_text, metric_cells, relative_change
from orchestrator.reports.render import MOST_ROWS, Cell, Table, columns_as_rows, fit_side_by_side
from orchestrator.reports.variants import VariantColumn, mean_name
from orchestrator.reports.verdicts import Outcome

ROUTING = "routing_accuracy"
PER_CLASS = "Per class, after the final task"
MEANS = "After the final task"
_CHANGE = "Change against "
_Rows = tuple[tuple[str, tuple[Cell, ...]], ...]


def main_tables(
    comparison: Comparison,
    classes: Sequence[str],
    names: Sequence[str],
    notes: tuple[str, ...],
    baseline: str,
    compared: Sequence[BaselineComparison],
) -> list[Table]:
    """Return the tables of the main metrics and, if columns have a baseline, of their changes.

    Columns that fit stand side by side, with their changes in a column or a table of their own.
    Others are rows: first their means and the changes of these, then the classes of each metric.
    Bold follows the verdicts; without any comparison it marks the best mean.

    Args:
        comparison: the variants and their baselines.
        classes: the classes, in the order of the rows.
        names: the names of the columns.
        notes: the notes under the first table.
        baseline: the name of the baseline.
        compared: the comparisons with the baseline.
    """
    better = {of.metric: {k for k, result in of.results.items() if result.outcome is Outcome.ABOVE} for of in compared}
    perfect = _routes_all(comparison.variants, classes)
    shown = {metric: name for metric, name in MAIN.items() if metric != ROUTING or not perfect}
    if perfect:
        notes = (*notes, f"{MAIN[ROUTING]}: 100% for every class and seed of every variant.")
    of_means = _rows(comparison.variants, (MEAN,), shown, better if compared else None)
    # Single classes are not tested, and so not highlighted next to means that are.
    of_classes = _rows(comparison.variants, classes, shown, {} if compared else None)
    is_wide = not fit_side_by_side(names)
    if any(cell.bold for _, cells in (*of_means, *of_classes) for cell in cells):
        best = f"the best mean in its {'column' if is_wide else 'row'}; no difference is tested"
        verdict = f"better than the baseline by its verdict (see `Against {baseline}`); single classes are not tested"
        notes = (f"Bold: {verdict if compared else best}.", *notes)
    if is_wide:
        return _with_variants_as_rows(comparison, classes, names, notes, shown, (of_means, of_classes))
    return _side_by_side(comparison, classes, names, notes, baseline, shown, (*of_classes, *of_means))


def _rows(
    variants: Sequence[VariantColumn],
    classes: Sequence[str],
    shown: Mapping[str, str],
    better: Mapping[str, set[int]] | None,
) -> _Rows:
    """Return a row for each class and metric; bold are the columns `better`, or the best mean."""
    seeds = [len(v.seeds) for v in variants]
    rows = []
    for class_name in classes:
        for metric, name in shown.items():
            row = f"{class_name} {name}"
            row = mean_name(variants, metric, row) if class_name == MEAN else row
            summaries = [variant.summary(class_name, metric) for variant in variants]
            bold = None if better is None else better.get(metric, set())
            rows.append((row, metric_cells(summaries, seeds, metric == ROUTING, bold)))
    return tuple(rows)


def _side_by_side(
    comparison: Comparison,
    classes: Sequence[str],
    names: Sequence[str],
    notes: tuple[str, ...],
    baseline: str,
    shown: Mapping[str, str],
    rows: _Rows,
) -> list[Table]:
    measured = _measured(comparison)
    changes = [_changes(comparison, name, metric) for name in (*classes, MEAN) for metric in shown]
    rules = frozenset({len(rows) - len(shown)} if len(rows) > len(shown) else ())
    if len(names) == 2 and measured:
        both = tuple((name, (*cells, of[measured[0]])) for (name, cells), of in zip(rows, changes, strict=True))
        return [Table(PER_CLASS, ("Metric", *names, "Change"), both, notes, rules)]
    main = Table(PER_CLASS, ("Metric", *names), rows, notes, rules)
    if not measured:
        return [main]
    kept = tuple((name, tuple(of[k] for k in measured)) for (name, _), of in zip(rows, changes, strict=True))
    header = ("Metric", *(names[k] for k in measured))
    under = (*same_columns(comparison), *mean_notes(comparison.variants, MAIN))
    return [main, Table(_CHANGE + baseline, header, kept, under, rules)]


def _with_variants_as_rows(
    comparison: Comparison,
    classes: Sequence[str],
    names: Sequence[str],
    notes: tuple[str, ...],
    shown: Mapping[str, str],
    rows: tuple[_Rows, _Rows],
) -> list[Table]:
    of_means, of_classes = rows
    many = len(names) > MOST_ROWS
    if many:
        notes = (*notes, "With so many variants, the values of single classes are in report.csv.")
    body = [("n", tuple(Cell(str(len(v.seeds))) for v in comparison.variants)), *of_means]
    if _measured(comparison):
        # The change of routing accuracy is mostly zero and would widen the table.
        changed = [(metric, name) for metric, (name, _) in zip(shown, of_means, strict=True) if metric != ROUTING]
        body += [(f"{name}, change", _changes(comparison, MEAN, metric)) for metric, name in changed]
    tables = Table(MEANS, ("", *names), tuple(body), notes).transposed("Variant").in_parts()
    if many:
        return tables
    table = Table(PER_CLASS, ("", *names), of_classes, same_columns(comparison))
    return [
        *tables,
        *columns_as_rows(
            table, "Variant", [(f"{name} of each class", of) for of in classes for name in shown.values()]
        ),
    ]


def _measured(comparison: Comparison) -> list[int]:
    """Return the columns that are measured against another one."""
    return [k for k, of in enumerate(comparison.baselines) if of is not None and of != k]


def _changes(comparison: Comparison, class_name: str, metric: str) -> tuple[Cell, ...]:
    """Return the change of each column against its baseline."""
    summaries: list[Summary] = [variant.summary(class_name, metric) for variant in comparison.variants]
    pairs = zip(summaries, comparison.baselines, strict=True)
    return tuple(Cell(change_text(None if of is None else relative_change(summaries[of], s))) for s, of in pairs)


def _routes_all(variants: Sequence[VariantColumn], classes: Sequence[str]) -> bool:
    """Say whether every image of every class was routed to its task, in each of several columns."""
    values = [v.values(name, ROUTING) for v in variants for name in (*classes, MEAN)]
    return len(variants) > 1 and all(of and set(of) == {1.0} for of in values)
