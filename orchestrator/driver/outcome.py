"""The end of a run: the trials that did not finish, the command to continue, the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from moleflow.errors import counted
from orchestrator.detectors.retention import retain_detectors
from orchestrator.driver.prepare import Prepared
from orchestrator.driver.results_folder import folder_content
from orchestrator.execution.trial_source import RunOutcome
from orchestrator.exit_codes import FAILED, INTERRUPTED
from orchestrator.host import disk
from orchestrator.host.command_line import command_to_repeat
from orchestrator.host.whole_numbers import wrapped_lines
from orchestrator.monitor import terminal
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.reports import make, report_cache
from orchestrator.reports.lock import read_lock
from orchestrator.reports.notes import COST
from orchestrator.reports.tables import first_screen
from orchestrator.results.store import ResultStore


def print_outcome(
    tally: RunOutcome, labels: Mapping[str, str], total: int, interrupted: bool, console: Console, before: int = 0
) -> int:
    """Print the trials that did not finish and the command to continue; return the exit code.

    Args:
        tally: the trials by how they ended.
        labels: readable names by trial id.
        total: the number of trials that the run had to do.
        interrupted: the user stopped the run.
        console: the console.
        before: trials of the sweep that had finished before the run.

    """
    for trial_id, event in tally.failed.items():
        console.print(f"failed: {labels[trial_id]}  ({trial_id}): {event.facts.get('error')}")
    for trial_id in tally.interrupted:
        console.print(f"interrupted: {labels[trial_id]}  ({trial_id}): stopped from outside")
    for trial_id in tally.cancelled:
        console.print(f"cancelled: {labels[trial_id]}  ({trial_id})")
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}")
    if tally.pruned:
        console.print(f"stopped early: {counted(len(tally.pruned), 'trial')}")
    done = len(tally.finished) + len(tally.elsewhere) + len(tally.pruned)
    if done == total:
        return 0
    of = counted(before + total, "trial")
    console.print(f"{before + done} of {of} finished and kept; to continue, run: {command_to_repeat()}")
    return INTERRUPTED if interrupted else FAILED


def report_at_end(
    prepared: Prepared, code: int, console: Console, store: ResultStore | None = None, full: bool = False
) -> None:
    """Compact the results, write the report and print its answer.

    A report of the same rows, plan and code is not made again. If it cannot be written, a line says
    so, and the run's exit code stays.

    Args:
        prepared: the sweep.
        code: the run's exit code; after an interruption the tables are not printed.
        console: the console.
        store: the results, if they were scanned a moment ago. Else every part is checked again, as
            one may have been damaged since the start.
        full: print all tables instead of the answer and one table.

    """
    sweep = folder_content(prepared)  # Not from sweep.json: another driver may have replaced that.
    store = store or ResultStore(prepared.folder)
    try:
        store.compact()
        inputs = make.report_inputs(store, sweep)
        paths = report_cache.kept_report(prepared.folder, inputs)
        if paths is None:
            _, paths = make.make_report(prepared.folder, sweep=sweep)
            # Another driver may have stored rows meanwhile; the report then has other inputs.
            if make.report_inputs(store, sweep) == inputs:
                report_cache.keep_report(prepared.folder, inputs, paths)
        older = make.older_page(paths["md"])
        body = read_lock(paths["md"].read_text(encoding="utf-8"), str(paths["md"])).body
    except OSError as error:
        console.print(f"no report: {disk.explain_disk_error(prepared.folder, error)}")
        return
    kept = _detector_lines(prepared, sweep, code, store)
    if code != INTERRUPTED:
        terminal.show_markdown(body if full else first_screen(body), console)
    lines = [*closing_lines(body, prepared.folder / "parts", paths["md"]), *([older] if older else []), *kept]
    if console.is_terminal:
        lines = [part for line in lines for part in wrapped_lines(line, console.width, " " * 9)]
    console.print("\n".join(lines))


def _detector_lines(prepared: Prepared, sweep: SweepFolder, code: int, store: ResultStore) -> list[str]:
    """Remove the detectors that `keep` does not ask for; return lines about the others."""
    keep = prepared.sweep.keep
    return [] if keep is None else retain_detectors(store, sweep, keep, code == 0)


def closing_lines(report: str, parts: Path, path: Path) -> list[str]:
    """The last lines of a run: the cost from its report, and the paths of results and report."""
    cost = next((line for line in report.splitlines() if line.startswith(f"- {COST}")), None)
    lines = [] if cost is None else [f"{COST:<9}{cost.removeprefix(f'- {COST}')}"]
    return [*lines, f"results: {parts} (Parquet)", f"report:  {path}"]
