"""Repeat the published rows: tell their cost, run them, and judge them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from orchestrator.driver.launch import run_prepared
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.driver.rows_cost import RowsCost
from orchestrator.driver.rows_to_run import RowsOfFile, RowsToRun, trials_of_run
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.monitor import terminal
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.published import PublishedRun
from orchestrator.reports.render import markdown_table
from orchestrator.reports.reproduction import COMPARED, RepeatedRun, compare_with_published, reproduction_tables
from orchestrator.reports.variants import VariantColumn
from orchestrator.results.store import ResultStore

FILE = "reproduction.md"
"""The verdicts, in the results folder of each sweep."""


def reproduce_rows(files: Sequence[RowsOfFile], options: Options, console: Console, only_estimate: bool = False) -> int:
    """Tell the cost of all rows, run what is missing, and print and write the verdicts.

    Returns:
        The exit code: 0 if every trial finished, whatever the verdicts say.

    Raises:
        InvalidInput: any mistake in the rows, the images, the weights or the folders, or no row
            can be run.
        OSError: the results cannot be written.
    """
    if not any(of.groups for of in files):
        raise InvalidInput(f"reproduce: none of these rows can be run: {'; '.join(not_run_lines(files, most=1))}")
    names = Counter(group.sweep.name for of in files for group in of.groups)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InvalidInput(
            f"--rows: several files have the results folder {twice[0]}; give each file once, under another name"
        )
    # All are checked, and all costs told, before the first one runs for hours.
    prepared = [(of, group, *_prepare(group, options, len(files))) for of in files for group in of.groups]
    cost = RowsCost(console)
    for _, group, own, plan in prepared:
        console.print("\n".join(cost.lines(group, plan, own)))
    for line in [*(f"not run:  {line}" for line in not_run_lines(files)), *cost.total_lines()]:
        console.print(line)
    if only_estimate:
        return 0
    code, verdicts = 0, Counter[str]()
    for of, group, own, plan in prepared:
        code = max(code, run_prepared(plan, own, console))
        if code == INTERRUPTED:
            return code
        repeated = repeated_runs(of, group, plan)
        text = "\n".join(markdown_table(table) for table in reproduction_tables(of.rows, repeated) if table.rows)
        write_atomically(plan.folder / FILE, text.encode(), durable=False)  # It can be made again.
        terminal.show_markdown(text, console)
        console.print(f"verdicts: {plan.folder / FILE}")
        said = [compare_with_published(of.rows, one) for one in repeated if one.not_run is None]
        verdicts.update(text.partition(":")[0] for text in said)
    verdicts["not run"] = sum(len(of.not_run) for of in files)
    console.print(f"rows:     {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items() if count)}")
    return code


def not_run_lines(files: Sequence[RowsOfFile], most: int | None = None) -> list[str]:
    """Return one line for each file and reason, with the names of the rows that are not run.

    Args:
        files: the files.
        most: the number of names in a line, of which the others are counted; None = all.
    """
    lines = []
    for of in files:
        by_reason: dict[str, list[str]] = {}
        for name, reason in of.not_run.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            more = f" and {len(names) - most} more" if most is not None and len(names) > most else ""
            lines.append(f"{of.name}: {reason} ({' | '.join(names[:most])}{more})")
    return lines


def _prepare(group: RowsToRun, options: Options, files: int) -> tuple[Options, Prepared]:
    own = replace(options, out=(options.out or Path("results")) / group.sweep.name)
    try:
        return own, prepare(group.sweep, own)
    except InvalidInput as error:
        hint = "; to run the rows of one file alone, name it with --rows" if files > 1 else ""
        raise InvalidInput(f"{error}{hint}") from None


def repeated_runs(of: RowsOfFile, group: RowsToRun, prepared: Prepared) -> list[RepeatedRun]:
    """Return the stored results of a group's runs, and the runs of its file that are not run."""
    by_name: dict[str, RepeatedRun] = {}
    trials = {run.name: trials_of_run(group, run, prepared) for run in group.runs}
    ids = {trial.id for of_run in trials.values() for trial in of_run}
    stored = {trial.trial_id: trial for trial in finished_trials(ResultStore(prepared.folder), ids, "test")}
    for run in group.runs:
        done = [stored[trial.id] for trial in trials[run.name] if trial.id in stored]
        by_name[run.name] = _repeated(run, VariantColumn(run.name, {}, tuple(done)), len(trials[run.name]))
    by_name |= {name: RepeatedRun(of.rows.run(name), not_run=reason) for name, reason in of.not_run.items()}
    return [by_name[run.name] for run in of.rows.runs if run.name in by_name]


def _repeated(run: PublishedRun, column: VariantColumn, planned: int) -> RepeatedRun:
    if not column.trials:
        return RepeatedRun(run, planned=planned)
    values = {}
    for class_name in (*column.classes, MEAN):
        for metric in COMPARED:
            if of_seeds := column.values(class_name, metric):
                values[class_name, metric] = sum(of_seeds) / len(of_seeds)
    return RepeatedRun(run, values, column.seeds, planned)
