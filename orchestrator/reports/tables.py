"""The report of a sweep: its tables, the notes under them, and its three files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from moleflow.files import write_atomically
from orchestrator.host.printable_text import single_line
from orchestrator.reports.answer import Answer, answer_of, untested_answer
from orchestrator.reports.baseline_table import BaselineComparison, baseline_tables, compare_with_baselines
from orchestrator.reports.bootstrap import read_scores
from orchestrator.reports.class_ranks import ClassRankTable, class_rank_tables
from orchestrator.reports.defects import KINDS, DefectMetrics, kinds_summaries, kinds_tables, read_defect_metrics
from orchestrator.reports.differences import Comparison, VersionSettings, compare_variants
from orchestrator.reports.final_metrics import MEAN, METRICS
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials
from orchestrator.reports.lock import Lock, Recipe, make_lock
from orchestrator.reports.main_tables import main_tables
from orchestrator.reports.means_and_cost_table import further_metrics, means_and_cost_tables
from orchestrator.reports.notes import (
    damage_notes,
    header_lines,
    main_notes,
    unfinished,
    untested_lines,
)
from orchestrator.reports.number_format import relative_change, setting_text
from orchestrator.reports.paper_tables import notes_for_authors, paper_caption, paper_table
from orchestrator.reports.published import Published, run_records
from orchestrator.reports.published_columns import chosen_runs, published_columns_tables
from orchestrator.reports.render import (
    Table,
    csv_text,
    latex_label,
    latex_table,
    latex_text,
    markdown_list,
    markdown_table,
    markdown_text,
)
from orchestrator.reports.variants import VariantColumn, comparable_means, group_variants, mean_name
from orchestrator.reports.yardstick import set_apart, yardstick_columns, yardstick_records, yardstick_tables
from orchestrator.results.store import ResultStore

Record = tuple[object, ...]
"""One row of the CSV."""
ABOUT = "Data, settings and cost"
"""The heading of the header's lines where an answer is at the top."""
_CSV = ("dataset", "variant", "class", "metric", "mean", "sd", "n", "change", "marks", "text")


@dataclass(frozen=True)
class Report:
    """A report. It holds no time and no path, so that equal results make equal bytes.

    Attributes:
        header: lines about data, settings, machine, code and cost, which end the report.
        missing: lines about trials that are not in the tables.
        records: the rows of the CSV.
        lock: the report's inputs; None for a report that is not made of one results folder.
        answer: the sentences at the top; None for a report over published rows or several folders.
        compared: the paired comparisons that the answer and the tables are made of, by metric.
        names: the names of the variants in the tables.
    """

    title: str
    header: tuple[str, ...]
    tables: tuple[Table, ...]
    missing: tuple[str, ...]
    records: tuple[Record, ...]
    lock: Lock | None = None
    answer: Answer | None = None
    compared: tuple[BaselineComparison, ...] = ()
    names: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return the report as GitHub-flavoured Markdown, with its lock at the end."""
        body = self.body()
        return body if self.lock is None else body + self.lock.comment(body)

    def body(self) -> str:
        """Return the Markdown without the lock."""
        title = f"# {markdown_text(self.title)}"
        if self.answer is None:
            parts = ["\n".join([title, "", *markdown_list(self.header), ""])]
        else:
            said = [f"**{name}:** {markdown_text(text)}\n" for name, text in self.answer.parts]
            parts = ["\n".join([title, "", *said])]
            parts += [markdown_table(self.answer.table)] if self.answer.table else []
        parts += [markdown_table(table) for table in self.tables]
        if self.missing:
            parts.append("\n".join(["## Not in the tables", "", *markdown_list(self.missing), ""]))
        if self.answer is not None:
            parts.append("\n".join([f"## {ABOUT}", "", *markdown_list(self.header), ""]))
        return "\n".join(parts)

    def latex(self, caption: str | None = None) -> str:
        """Return the tables for a LaTeX document that loads booktabs and threeparttable.

        Args:
            caption: the caption in place of the tables' own.
        """
        said = [] if self.answer is None else [f"{name}: {text}" for name, text in self.answer.parts]
        comment = [f"% {single_line(line)}" for line in (self.title, *said, *self.header)]
        name = self.title.partition(":")[0]
        tables = []
        for number, table in enumerate(self.tables):
            # Only the first one says which images they are about.
            shown = paper_table(table, () if number else self.header)
            own = paper_caption(table, self.header) if caption is None else caption
            tables += [f"% {single_line(note)}" for note in notes_for_authors(table)]
            tables += [latex_table(shown, own, latex_label(name, table.title))] * bool(shown.rows)
        missing = [f"\\paragraph{{Not in the tables}} {latex_text(' '.join(self.missing))}\n"] if self.missing else []
        return "\n".join([*comment, "% needs \\usepackage{booktabs,threeparttable}", "", *tables, *missing])

    def csv(self) -> str:
        """Return one row for each variant, class and metric.

        `change` is (b-a)/a, no percentage. Words have columns of their own: `text` holds verdicts,
        and published figures as they are printed.
        """
        return csv_text(_CSV, self.records)


def build_report(
    store: ResultStore,
    recipe: Recipe,
    published: Published | None = None,
    version_settings: VersionSettings | None = None,
) -> Report:
    """Return the report over the finished trials of a store.

    Args:
        store: the results.
        recipe: all that decides the report but the rows; the lock holds the digest of `published`.
        published: published rows to show in a table of their own.
        version_settings: {version: {setting: value}} that the version files set. A compared version
            explains these settings; any other setting that differs is a confound.

    Raises:
        InvalidInput: there is no store in the folder.
    """
    # The lock holds ids and baseline sorted, and a report is made again from its lock.
    selection = None if recipe.selection is None else set(recipe.selection)
    wanted = None if selection is None else tuple(sorted(selection))
    baseline = None if recipe.baseline is None else dict(sorted(recipe.baseline.items()))
    digest = None if published is None else published.digest
    recipe = replace(recipe, selection=wanted, baseline=baseline, published=digest)
    trials = finished_trials(store, selection, recipe.split)
    if not trials and not selection and (judged := _judged_without_test(store)):
        lock = make_lock(recipe, judged, version_settings)
        header = untested_lines(compare_variants(group_variants(judged), None, version_settings))
        untested = untested_answer(len(group_variants(judged)))
        return Report(recipe.title, header, (), damage_notes(store), (), lock, untested)
    lock = make_lock(recipe, trials, version_settings)
    in_tables = {trial.trial_id for trial in trials}
    trials, banks = set_apart(trials)
    trials = comparable_means(trials)
    comparison = compare_variants(group_variants(trials), baseline, version_settings, recipe.others, recipe.names)
    missing = unfinished(store, selection, in_tables, recipe.split)
    header = header_lines(comparison, recipe.split)
    if not trials:
        return Report(recipe.title, header, (), missing, (), lock, answer_of(comparison, (), missing))
    classes = tuple(dict.fromkeys(name for trial in trials for name in trial.classes))
    compared = compare_with_baselines(
        comparison, lambda trial_ids: read_scores(store, trial_ids, recipe.split), recipe.split
    )
    yardsticks = yardstick_columns(banks, recipe.code)
    ids = [trial.trial_id for trial in trials]
    kinds = read_defect_metrics(store, ids, recipe.split, KINDS)
    tables, records = build_tables(
        comparison, classes, baseline, recipe.code, compared, recipe.split, published, yardsticks, kinds
    )
    answer = answer_of(comparison, compared, missing, recipe.code, recipe.is_search, recipe.split)
    names = column_names(comparison, recipe.code)
    return Report(recipe.title, header, tables, missing, records, lock, answer, tuple(compared), names)


def _judged_without_test(store: ResultStore) -> list[FinishedTrial]:
    """Return the trials with validation images of a search that has tested none."""
    return [] if finished_trials(store, None, "test") else finished_trials(store, None, "validation")


def build_tables(
    comparison: Comparison,
    classes: Sequence[str],
    baseline: Mapping[str, object] | None,
    current_code: str | None,
    compared: Sequence[BaselineComparison],
    split: str,
    published: Published | None = None,
    yardsticks: Sequence[VariantColumn] = (),
    kinds: Mapping[str, DefectMetrics] = MappingProxyType({}),
) -> tuple[tuple[Table, ...], tuple[Record, ...]]:
    """Return the tables of a comparison with at least one finished trial, and the CSV's rows."""
    names = column_names(comparison, current_code)
    notes = main_notes(comparison, baseline, classes, current_code)
    name = _baseline_name(comparison, baseline)
    tables = main_tables(comparison, classes, names, notes, name, compared)
    tables += kinds_tables(comparison, classes, names, kinds)
    tables += means_and_cost_tables(comparison, names)
    tables += [table for of in compared for table in baseline_tables(of, comparison, names, name)]
    ranked = class_rank_tables(comparison, classes, names)
    tables += [of.table for of in ranked]
    records = _records(comparison, classes, current_code, compared, ranked, kinds)
    if yardsticks:
        tables += yardstick_tables(comparison.variants, names, yardsticks, classes)
        records += yardstick_records(yardsticks, classes)
    if split != "test":  # Published rows are about test images.
        records = tuple((f"{dataset} ({split} images)", *rest) for dataset, *rest in records)
    if published is not None:
        tables += published_columns_tables(comparison, classes, names, published)
        records += tuple(r for of in chosen_runs(comparison, published) for r in run_records(*of))
    return tuple(tables), records


def write_report(report: Report, folder: Path, name: str = "report") -> dict[str, Path]:
    """Write NAME.md, NAME.csv and NAME.tex, each atomically, and return their paths by kind.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"md": report.markdown(), "csv": report.csv(), "tex": report.latex()}
    for kind, content in contents.items():
        write_atomically(folder / f"{name}.{kind}", content.encode(), durable=False)  # It can be made again.
    return {kind: folder / f"{name}.{kind}" for kind in contents}


def first_screen(body: str) -> str:
    """Return the beginning of a report's Markdown: the title, the answer and its table."""
    sections = body.split("\n## ")
    ranked = sections[1:2] if len(sections) > 1 and sections[1].startswith("Variants, the best first") else []
    return "\n## ".join([sections[0], *ranked]).rstrip() + "\n"


def _marks(comparison: Comparison, k: int, current_code: str | None) -> list[str]:
    stale = current_code is not None and any(t.code_digest != current_code for t in comparison.variants[k].trials)
    return ["†"] * (k in comparison.confounded) + ["stale"] * stale


def column_names(comparison: Comparison, current_code: str | None) -> tuple[str, ...]:
    """Return the names of the variants in tables, with their marks and, if they vary, their n."""
    names = []
    of_columns = [_marks(comparison, k, current_code) for k in range(len(comparison.variants))]
    # A mark that every column has is a note, not a part of each name.
    all_stale = len(of_columns) > 1 and all("stale" in marks for marks in of_columns)
    for variant, marks in zip(comparison.variants, of_columns, strict=True):
        n = "" if comparison.equal_seeds else f" (n={len(variant.seeds)})"
        marks = ["†" if mark == "†" else f"({mark})" for mark in marks if mark == "†" or not all_stale]
        names.append(" ".join([variant.label + n, *marks]))
    return tuple(names)


def _baseline_name(comparison: Comparison, baseline: Mapping[str, object] | None) -> str:
    """Return the label of the baseline column, or what was asked for if there are several."""
    labels = {comparison.variants[of].label for of in comparison.baselines if of is not None}
    if len(labels) == 1:
        return labels.pop()
    return ", ".join(f"{key}={setting_text(value)}" for key, value in (baseline or {}).items())


def _records(
    comparison: Comparison,
    classes: Sequence[str],
    current_code: str | None,
    compared: Sequence[BaselineComparison],
    ranked: Sequence[ClassRankTable],
    kinds: Mapping[str, DefectMetrics],
) -> tuple[Record, ...]:
    """Return the rows of the CSV, variant by variant."""
    records: list[list[Record]] = [[] for _ in comparison.variants]
    own = [
        (
            " + ".join(sorted({t.dataset for t in variant.trials})),
            variant.long_label,
            _marks(comparison, k, current_code),
        )
        for k, variant in enumerate(comparison.variants)
    ]
    further = [metric for metric in further_metrics(comparison.variants) if metric not in METRICS]
    for class_name in (*classes, MEAN):
        for metric in (*METRICS, *(further if class_name == MEAN else [])):
            summaries = [variant.summary(class_name, metric) for variant in comparison.variants]
            partial = class_name == MEAN and mean_name(comparison.variants, metric, "") != ""
            for k, (s, of) in enumerate(zip(summaries, comparison.baselines, strict=True)):
                dataset, label, marks = own[k]
                change = None if of is None else relative_change(summaries[of], s)
                marked = " ".join([*marks, *["‡"] * (partial and s.n > 0)])
                records[k].append((dataset, label, class_name, metric, s.mean, s.sd, s.n, change, marked, None))
    for class_name, kind, metric, of_variants in kinds_summaries(comparison, classes, kinds):
        for k, s in enumerate(of_variants):
            dataset, label, marks = own[k]
            name = f"image_{metric}_{kind}"
            records[k].append((dataset, label, class_name, name, s.mean, s.sd, s.n, None, " ".join(marks), None))
    for k, (dataset, label, marks) in enumerate(own):
        for name, value, n, text in (values for of in compared for values in of.csv_values(k)):
            records[k].append((dataset, label, MEAN, name, value, None, n, None, " ".join(marks), text))
    for k, name, value, n in (record for of in ranked for record in of.records):
        dataset, label, marks = own[k]
        records[k].append((dataset, label, MEAN, name, value, None, n, None, " ".join(marks), None))
    return tuple(record for of_variant in records for record in of_variant)
