"""A search from its command to its end: suggested configurations on validation images, then the best ones tested, once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from moleflow.errors import InvalidInput
from moleflow.source import code_digest
from orchestrator import disk, drive, terminal
from orchestrator.planning import Plan, make_plan
from orchestrator.prepared import Options, Prepared
from orchestrator.runner import TrialSource
from orchestrator.starting import check_start
from orchestrator.study.drivers import alone, belong, give_up_for_the_dead, signed_in
from orchestrator.study.found import best, study_of, trials_of
from orchestrator.study.page import write_page
from orchestrator.study.search import OptunaSearch
from orchestrator.study.space import Space
from orchestrator.study.start import begin
from orchestrator.study.values import stored
from orchestrator.trial import Trial

ON_SLURM = 8
PLAN_EVERY_S, PLAN_SHARE = 5.0, 50.0
DEAD_EVERY_S = 30.0


def run(prepared: Prepared, options: Options, console: Console) -> int:
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
    drive.open_folder(prepared, options, console)
    going = _Going(prepared, options, console, space)
    with signed_in(prepared.folder) as driver:
        work, interrupted = going.search(driver)
        code = _said(work, interrupted, console) or going.test()
    try:
        drive.report_after(going.planned(), code, console)
        going.show_page()
    except KeyboardInterrupt:
        return drive.INTERRUPTED
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
        console.print(f"the search is not over; to go on, run the same command again: {drive.command()}")
    return drive.INTERRUPTED if interrupted else drive.FAILED if left else 0


class _Going:
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
        belong(self.study, self.prepared.folder)
        with alone(self.prepared.folder):
            begin(self.study, self.space, self.asked, Path(self.prepared.sweep.source).parent)
        give_up_for_the_dead(self.study, self.prepared.folder, driver)
        most = self.asked.parallel or (ON_SLURM if self.options.backend == "slurm" else float("inf"))
        search = OptunaSearch(
            self.study,
            self.space,
            lambda ids: stored(self.store, ids),
            driver,
            self._name,
            most,
            lambda: self._give_up_again(driver),
            lambda: alone(self.prepared.folder),
        )
        work = drive.source(self.prepared, search)
        total = search.left or int(search.others_are_at_it)  # What they find counts when the best are chosen.
        interrupted = drive.drive(self.prepared, self.options, work, self.labels, total, self.console)
        drive.claim_folder(self.planned())
        return work, interrupted

    def test(self) -> int:
        """Evaluate the frozen base and finalists on the test images, from the states that the search trained; the exit code."""
        self.tested = [("base", self.space.base())]
        self.tested += [
            (f"configuration {t.number}", self.space.factors(t.params)) for t in best(self.study, self.asked.finalists)
        ]
        trials = [trial for _, factors in self.tested for trial in self.space.tests(factors)]
        self.finalists = list({trial.id: trial for trial in trials}.values())
        prepared = self.planned()
        drive.claim_folder(prepared)
        labels = {trial.id: f"test {trial.label}" for trial in self.finalists}
        todo = [trial for trial in self.finalists if trial in prepared.plan.of("to run")]
        work = drive.planned_work(prepared, self.options, todo)
        interrupted = drive.drive(prepared, self.options, work, labels, len(todo), self.console)
        return drive.summary(work.tally, labels, len(todo), interrupted, self.console)

    def planned(self) -> Prepared:
        """What was prepared, with every trial that is known by now."""
        found = {trial.id: trial for trial in trials_of(self.study, self.space)} | {t.id: t for t in self.finalists}
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
            text, path = write_page(self.study, self.space, self.asked, tested, self.prepared.folder)
        except OSError as error:
            self.console.print(f"no page: {disk.explain(self.prepared.folder, error)}")
            return
        terminal.show(text, self.console)
        self.console.print(f"search:  {path}")

    def _name(self, trials: Sequence[Trial]) -> None:
        """Name the trials of a configuration that is begun, here and, now and then, in the folder for whoever asks for the status."""
        self.labels.update({trial.id: trial.label for trial in trials})
        start = time.monotonic()
        if start > self._due:
            drive.claim_folder(self.planned())
            took = time.monotonic() - start  # It grows with the study.
            self._due = start + max(PLAN_EVERY_S, PLAN_SHARE * took)

    def _give_up_again(self, driver: str) -> bool:
        if time.monotonic() - self._gave_up < DEAD_EVERY_S:
            return False
        self._gave_up = time.monotonic()
        return give_up_for_the_dead(self.study, self.prepared.folder, driver) > 0
