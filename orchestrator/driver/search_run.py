"""A search from its command to its end: suggested configurations on validation images, then the best ones tested, once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from orchestrator.driver.driver import (
    make_trial_source,
    prepare_folder,
    print_outcome,
    report_at_end,
    run_backend,
    spelled_command,
    trial_source_of_plan,
    write_plan,
)
from orchestrator.driver.preflight import check_start
from orchestrator.driver.prepare import Options, Prepared
from orchestrator.execution.trial_source import TrialSource
from orchestrator.exit_codes import FAILED, INTERRUPTED
from orchestrator.host import disk
from orchestrator.monitor import terminal
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.search.drivers import check_study_owner, driver_heartbeat, fail_trials_of_dead_drivers, study_lock
from orchestrator.search.initial_trials import enqueue_initial_trials
from orchestrator.search.objective import stored_values
from orchestrator.search.optuna_search import OptunaSearch
from orchestrator.search.report import write_search_report
from orchestrator.search.space import Space
from orchestrator.search.tried_trials import best_trials, study_of, trials_of_study
from orchestrator.sweep.trial import Trial

ON_SLURM = 8
PLAN_EVERY_S, PLAN_SHARE = 5.0, 50.0
DEAD_EVERY_S = 30.0


def run_search(prepared: Prepared, options: Options, console: Console) -> int:
    """Search until the sweep file's budget is used up, test the finalists beside the base, write the page and the report; the exit code.

    Raises:
        InvalidInput: the results folder, the storage or the space cannot be used.
        OSError: the disk is full before the first trial.

    """
    if options.detach:
        raise InvalidInput("--detach: a search needs its driver, which suggests while trials run; leave it out")
    space = Space(prepared.sweep, prepared.inputs.of)
    space.tests(space.base())  # What could not be tested in the end is refused now.
    check_start(prepared, options)
    prepare_folder(prepared, options, console)
    going = _SearchRun(prepared, options, console, space)
    with driver_heartbeat(prepared.folder) as driver:
        work, interrupted = going.search(driver)
        code = _said(work, interrupted, console) or going.test()
    try:
        report_at_end(going.planned(), code, console)
        going.show_page()
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _said(work: TrialSource, interrupted: bool, console: Console) -> int:
    """Say what did not go well while it searched; the exit code. A configuration that fails is an answer too."""
    tally = work.tally
    for trial_id, event in tally.failed.items():
        console.print(f"failed: {trial_id}: {event.facts.get('error')}")
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}")
    left = interrupted or tally.stopped_by or tally.interrupted or tally.cancelled
    if left:
        console.print(f"the search is not over; to go on, run the same command again: {spelled_command()}")
    return INTERRUPTED if interrupted else FAILED if left else 0


class _SearchRun:
    """One driver's part of a search."""

    def __init__(self, prepared: Prepared, options: Options, console: Console, space: Space) -> None:
        assert prepared.sweep.search is not None
        self.prepared, self.options, self.console, self.asked = prepared, options, console, prepared.sweep.search
        self.store = prepared.store
        self.space = space
        self.study = study_of(prepared.sweep, prepared.folder, options.storage)
        self.finalists: list[Trial] = []
        self.tested: list[tuple[str, dict[str, Any]]] = []
        self.labels: dict[str, str] = {}
        self._due = 0.0
        self._gave_up = 0.0

    def search(self, driver: str) -> tuple[TrialSource, bool]:
        check_study_owner(self.study, self.prepared.folder)
        with study_lock(self.prepared.folder):
            enqueue_initial_trials(self.study, self.space, self.asked, Path(self.prepared.sweep.source).parent)
        fail_trials_of_dead_drivers(self.study, self.prepared.folder, driver)
        most = self.asked.parallel or (ON_SLURM if self.options.backend == "slurm" else float("inf"))
        search = OptunaSearch(
            self.study,
            self.space,
            lambda ids: stored_values(self.store, ids),
            driver,
            self._name,
            most,
            lambda: self._give_up_again(driver),
            lambda: study_lock(self.prepared.folder),
        )
        work = make_trial_source(self.prepared, search)
        total = search.left or int(search.others_are_at_it)  # What they find counts when the best are chosen.
        interrupted = run_backend(self.prepared, self.options, work, self.labels, total, self.console)
        write_plan(self.planned())
        return work, interrupted

    def test(self) -> int:
        """Evaluate the frozen base and finalists on the test images, from the states that the search trained; the exit code."""
        self.tested = [("base", self.space.base())]
        self.tested += [
            (f"configuration {t.number}", self.space.factors(t.params))
            for t in best_trials(self.study, self.asked.finalists)
        ]
        trials = [trial for _, factors in self.tested for trial in self.space.tests(factors)]
        self.finalists = list({trial.id: trial for trial in trials}.values())
        prepared = self.planned()
        write_plan(prepared)
        labels = {trial.id: f"test {trial.label}" for trial in self.finalists}
        todo = [trial for trial in self.finalists if trial in prepared.plan.of("to run")]
        work = trial_source_of_plan(prepared, self.options, todo)
        interrupted = run_backend(prepared, self.options, work, labels, len(todo), self.console)
        return print_outcome(work.tally, labels, len(todo), interrupted, self.console)

    def planned(self) -> Prepared:
        """What was prepared, with every trial that is known by now."""
        found = {trial.id: trial for trial in trials_of_study(self.study, self.space)} | {
            t.id: t for t in self.finalists
        }
        plan: Plan = make_plan(
            list(found.values()),
            self.store.finished(),
            code_digest(),
            self.options.rerun_stale,
            self.store.pruned() if self.prepared.sweep.stops_early else (),
        )
        sweep = replace(self.prepared.sweep, baseline=self.space.base() if self.finalists else {})
        return replace(self.prepared, sweep=sweep, plan=plan, tabled=tuple(trial.id for trial in self.finalists))

    def show_page(self) -> None:
        """Write the page of the search and print its tables."""
        tested = [(name, tuple(self.space.tests(factors))) for name, factors in self.tested]
        try:
            text, path = write_search_report(self.study, self.space, self.asked, tested, self.prepared.folder)
        except OSError as error:
            self.console.print(f"no page: {disk.explain_disk_error(self.prepared.folder, error)}")
            return
        terminal.show_markdown(text, self.console)
        self.console.print(f"search:  {path}")

    def _name(self, trials: Sequence[Trial]) -> None:
        """Name the trials of a configuration that is begun, here and, now and then, in the folder for whoever asks for the status."""
        self.labels.update({trial.id: trial.label for trial in trials})
        start = time.monotonic()
        if start > self._due:
            write_plan(self.planned())
            took = time.monotonic() - start  # It grows with the study.
            self._due = start + max(PLAN_EVERY_S, PLAN_SHARE * took)

    def _give_up_again(self, driver: str) -> bool:
        if time.monotonic() - self._gave_up < DEAD_EVERY_S:
            return False
        self._gave_up = time.monotonic()
        return fail_trials_of_dead_drivers(self.study, self.prepared.folder, driver) > 0
