"""A search: suggested configurations run on validation images, then the best ones are tested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from orchestrator.driver.driver import make_trial_source, run_backend, trial_source_of_plan
from orchestrator.driver.notify import Notifier, notifying, say_end
from orchestrator.driver.outcome import print_outcome, report_at_end
from orchestrator.driver.preflight import check_start
from orchestrator.driver.prepare import Options, Prepared
from orchestrator.driver.results_folder import prepare_folder, write_plan
from orchestrator.driver.slurm_needs import decide_on_slurm
from orchestrator.execution.trial_source import TrialSource
from orchestrator.exit_codes import FAILED, INTERRUPTED
from orchestrator.host import disk
from orchestrator.host.command_line import command_to_repeat
from orchestrator.monitor import terminal
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.reports.short_names import BASE
from orchestrator.search.continued_study import continued_study
from orchestrator.search.drivers import check_study_owner, driver_heartbeat, fail_trials_of_dead_drivers, study_lock
from orchestrator.search.failures import failure_sentence
from orchestrator.search.initial_trials import enqueue_initial_trials
from orchestrator.search.objective import stored_values
from orchestrator.search.optuna_search import OptunaSearch
from orchestrator.search.report import write_search_report
from orchestrator.search.space import Space
from orchestrator.search.storage import open_study
from orchestrator.search.tried_configurations import exhausted_sentence
from orchestrator.search.tried_trials import best_trials, finalist_name, trials_of_study
from orchestrator.sweep.trial import Trial

PARALLEL_ON_SLURM = 8
"""Configurations that run at the same time on SLURM, if search.parallel is not given."""
PLAN_EVERY_S = 5.0
PLAN_SHARE = 50.0
"""Pause between two plans: at least this many times as long as writing one took."""
DEAD_EVERY_S = 30.0
"""Seconds between two checks for drivers that died."""


def run_search(prepared: Prepared, options: Options, console: Console) -> int:
    """Search until the budget is used, then test the base and the finalists and write the reports.

    With `finalists: 0` nothing is tested, and no test image is opened after the scan.

    Returns:
        The exit code.

    Raises:
        InvalidInput: the results folder, the storage or the space cannot be used.
        OSError: the disk is full before the first trial.

    """
    if options.detach:
        raise InvalidInput("--detach: a search needs its driver, which suggests while trials run; leave it out")
    space = Space(prepared.sweep, prepared.inputs.of)
    if space.search.finalists:
        space.test_trials(space.base())  # Refuse now a base that could not be tested in the end.
    check_start(prepared, options)
    prepared = decide_on_slurm(prepared, options, console)
    prepare_folder(prepared, options, console)
    with notifying(options.notify, prepared.sweep.name, prepared.folder, console) as notifier:
        run = _SearchRun(prepared, options, console, space, notifier)
        with driver_heartbeat(prepared.folder) as driver:
            source, interrupted = run.search(driver)
            code = _print_search_outcome(source, interrupted, console) or run.check_any_complete() or run.test()
        try:
            report_at_end(run.planned(), code, console, full=options.full)
            run.show_page()
        except KeyboardInterrupt:
            code = INTERRUPTED
        say_end(notifier, code, console)
    return code


def _print_search_outcome(source: TrialSource, interrupted: bool, console: Console) -> int:
    """Print failures and the command to continue; return the exit code.

    A failed configuration is an answer to the search, so it does not make the search fail, unless
    all failed.
    """
    tally = source.tally
    for trial_id, event in tally.failed.items():
        console.print(f"failed: {trial_id}: {event.facts.get('error')}")
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}")
    left = interrupted or tally.stopped_by or tally.interrupted or tally.cancelled
    if left:
        console.print(f"the search is not over; to continue, run: {command_to_repeat()}")
    return INTERRUPTED if interrupted else FAILED if left else 0


class _SearchRun:
    """The part of one driver in a search; several drivers may share a study."""

    def __init__(
        self, prepared: Prepared, options: Options, console: Console, space: Space, notifier: Notifier | None
    ) -> None:
        assert prepared.sweep.search is not None
        self.notifier = notifier
        self.prepared, self.options, self.console, self.keys = prepared, options, console, prepared.sweep.search
        self.store = prepared.store
        self.space = space
        self.study = open_study(prepared.sweep, prepared.folder, options.storage)
        self.finalists: list[Trial] = []
        self.tested: list[tuple[str, dict[str, Any]]] = []
        self.names: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self._plan_due = 0.0
        self._dead_checked = 0.0

    def search(self, driver: str) -> tuple[TrialSource, bool]:
        """Run suggested configurations until the budget is used.

        Args:
            driver: the name of this driver in the study.

        Returns:
            The source of the trials, and True if the user interrupted them.

        """
        check_study_owner(self.study, self.prepared.folder)
        with study_lock(self.prepared.folder):
            latest = open_study(self.prepared.sweep, self.prepared.folder, self.options.storage)
            self.study, note = continued_study(latest, self.space, self.prepared.folder, self.options.rebuild_study)
            if note:
                self.console.print(note)
            enqueue_initial_trials(self.study, self.space, Path(self.prepared.sweep.source).parent)
        check_study_owner(self.study, self.prepared.folder)
        fail_trials_of_dead_drivers(self.study, self.prepared.folder, driver)
        most = self.keys.parallel or (PARALLEL_ON_SLURM if self.options.backend == "slurm" else float("inf"))
        search = OptunaSearch(
            self.study,
            self.space,
            lambda ids: stored_values(self.store, ids),
            driver,
            self._name,
            most,
            lambda: self._fail_dead_again(driver),
            lambda: study_lock(self.prepared.folder),
        )
        source = make_trial_source(self.prepared, search)
        # Without budget left, still wait for other drivers: finalists are chosen from all trials.
        total = search.trials_left or int(search.other_drivers_run)
        interrupted = run_backend(
            self.prepared, self.options, source, self.labels, total, self.console, notifier=self.notifier
        )
        write_plan(self.planned())
        if sentence := exhausted_sentence(self.study, self.space):
            self.console.print(sentence)
        return source, interrupted

    def check_any_complete(self) -> int:
        """Print why no configuration is complete, if all failed; return the exit code."""
        sentence = failure_sentence(self.study)
        if sentence:
            self.console.print(f"nothing is tested: {sentence}")
        return FAILED if sentence else 0

    def test(self) -> int:
        """Score base and finalists on the test images; return the exit code. Stages are reused.

        Without finalists the base is not tested either, as there is nothing to compare it with.
        """
        if self.keys.finalists == 0:
            return 0
        best = best_trials(self.study, self.keys.finalists)
        is_ranked = len(self.study.directions) == 1
        self.tested = [(BASE, self.space.base())]
        self.tested += [
            (finalist_name(k, trial.number, is_ranked), self.space.factors(trial.params))
            for k, trial in enumerate(best)
        ]
        for name, factors in self.tested:
            for trial in self.space.test_trials(factors):
                if trial.id not in self.names:
                    self.names[trial.id] = name
                    self.finalists.append(trial)
                elif self.names[trial.id] == BASE:  # The base is a finalist too.
                    self.names[trial.id] = f"{BASE} ({name})"
        prepared = self.planned()
        write_plan(prepared)
        labels = {trial.id: f"test {self.names[trial.id]} seed={trial.config.seed}" for trial in self.finalists}
        todo = [trial for trial in self.finalists if trial in prepared.plan.of("to run")]
        source = trial_source_of_plan(prepared, self.options, todo)
        interrupted = run_backend(
            prepared, self.options, source, labels, len(todo), self.console, notifier=self.notifier
        )
        return print_outcome(source.tally, labels, len(todo), interrupted, self.console)

    def planned(self) -> Prepared:
        """Return the prepared sweep with every trial that is known by now."""
        known = [*trials_of_study(self.study, self.space), *self.finalists]
        plan: Plan = make_plan(
            list({trial.id: trial for trial in known}.values()),
            self.store.finished(),
            code_digest(),
            self.options.rerun_stale,
            self.store.pruned() if self.prepared.sweep.stops_early else (),
        )
        sweep = replace(self.prepared.sweep, baseline=self.space.base() if self.finalists else {})
        tabled = tuple(trial.id for trial in self.finalists)
        return replace(self.prepared, sweep=sweep, plan=plan, tabled=tabled, names=self.names)

    def show_page(self) -> None:
        """Write the search report and print it."""
        tested = [(name, tuple(self.space.test_trials(factors))) for name, factors in self.tested]
        try:
            text, path = write_search_report(self.study, self.space, tested, self.prepared.folder)
        except OSError as error:
            self.console.print(f"no page: {disk.explain_disk_error(self.prepared.folder, error)}")
            return
        if self.options.full or not self.tested:  # Else the report's answer is about the finalists.
            terminal.show_markdown(text, self.console)
        self.console.print(f"search:  {path}")

    def _name(self, trials: Sequence[Trial]) -> None:
        """Name the trials of a started configuration; now and then write the plan for `status`."""
        self.labels.update({trial.id: trial.label for trial in trials})
        start = time.monotonic()
        if start > self._plan_due:
            write_plan(self.planned())
            seconds = time.monotonic() - start  # It grows with the study.
            self._plan_due = start + max(PLAN_EVERY_S, PLAN_SHARE * seconds)

    def _fail_dead_again(self, driver: str) -> bool:
        """Fail the trials of dead drivers, now and then; return True if there were any."""
        if time.monotonic() - self._dead_checked < DEAD_EVERY_S:
            return False
        self._dead_checked = time.monotonic()
        return fail_trials_of_dead_drivers(self.study, self.prepared.folder, driver) > 0
