"""A run: trials go to a backend, and the driver's listeners take its events."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console

from moleflow.cache.eviction import pinned_within_budget
from moleflow.errors import Damaged
from orchestrator.driver.backend_choice import choose_backend
from orchestrator.driver.notify import Notifier
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.execution.planned_trials import PlannedTrials, TrialSearch
from orchestrator.execution.signals import stop_signals_as_ctrl_c
from orchestrator.execution.trial_source import RunOutcome, TrialSource
from orchestrator.monitor.json_lines import JsonLines
from orchestrator.monitor.live_view import LiveView
from orchestrator.plan.cost_estimate import steps_to_train
from orchestrator.plan.lanes import with_lane_mates
from orchestrator.plan.stage_tree import StageTree, stage_tree
from orchestrator.records import dead_attempts, stop_requests
from orchestrator.records.attempts import DIED, WORKER_DIED, AttemptFolder
from orchestrator.records.events import Event, Events
from orchestrator.results.store import ResultStore
from orchestrator.sweep.trial import Trial

COMPACT_FROM = 200
"""Finished trials after which a run compacts its results for the first time."""


def trial_source_of_plan(prepared: Prepared, options: Options, trials: Sequence[Trial]) -> TrialSource:
    """Return a source of planned trials.

    A trial waits for the one that trains their shared stage. On SLURM the backend places trials
    behind each other, as its site profile says, and the source itself holds none back.
    """
    trials = with_lane_mates(trials)
    tree = stage_tree(trials)
    return make_trial_source(prepared, PlannedTrials(trials, None if options.backend == "slurm" else tree), tree)


def make_trial_source(prepared: Prepared, search: TrialSearch, tree: StageTree | None = None) -> TrialSource:
    """Return a source of a search's trials; stop requests in the sweep's folder reach it."""
    pruned = stop_requests.prune_requests(prepared.folder)
    return TrialSource(
        search,
        prepared.sweep.resources,
        prepared.sweep.retries,
        cancelled=stop_requests.cancel_requests(prepared.folder).is_set,
        prune=lambda trial_id: pruned.add([trial_id]),
        after=tree.after if tree else lambda _: (),
    )


def run_backend(
    prepared: Prepared,
    options: Options,
    source: TrialSource,
    labels: Mapping[str, str],
    total: int,
    console: Console,
    planned: Sequence[Trial] = (),
    notifier: Notifier | None = None,
) -> bool:
    """Run the trials of a source on the chosen backend and show their progress.

    Args:
        prepared: the sweep.
        options: the command's options.
        source: the trials.
        labels: readable names by trial id.
        total: the number of trials; without any, no backend is started.
        console: the console of the progress.
        planned: the trials that are known now. Their stored stages are pinned from the start.
        notifier: hears of the first failure; None = nobody does.

    Returns:
        True if the user interrupted the run.

    Raises:
        InvalidInput: the backend cannot run this.

    """
    if not total:
        return False
    store, attempts = prepared.store, AttemptFolder(prepared.folder / "attempts")
    view = open_view(console, labels, total, source.tally, options, prepared)
    # The source comes before the view, which shows the outcome that the source has counted.
    listeners = [_record_dead_worker(attempts, store), source.events, view.show, _compact_as_it_grows(store)]
    listeners += [_tell_failures(notifier, source.tally)] if notifier else []
    with view, pinned_within_budget(prepared.cache, needs=[trial.config for trial in planned]):
        try:
            with stop_signals_as_ctrl_c():
                backend = choose_backend(worker_config(prepared, options), prepared.sweep, options)
                backend.run(source, broadcast(listeners))
        except KeyboardInterrupt:
            return True
    return False


def broadcast(listeners: Sequence[Events]) -> Events:
    """Return a listener that passes each event to all of `listeners`, in their order."""

    def pass_on(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return pass_on


def _record_dead_worker(attempts: AttemptFolder, store: ResultStore) -> Events:
    """Record a dead attempt at once, so that its trial can be retried by this same run."""

    def listen(event: Event) -> None:
        if event.kind == "failed" and event.facts.get("error_kind") == WORKER_DIED:
            dead = [record for record in attempts.of_trial(event.trial_id) if record.state == DIED]
            # On a full disk it stays unrecorded until the next start.
            with contextlib.suppress(OSError):
                dead_attempts.record_dead_attempts(attempts, store, dead, str(event.facts["error"]))

    return listen


def _tell_failures(notifier: Notifier, tally: RunOutcome) -> Events:
    return lambda event: notifier.hear_failure(event, tally)


def _compact_as_it_grows(store: ResultStore) -> Events:
    """Compact whenever the number of finished trials has doubled: total work stays linear."""
    finished, due = 0, COMPACT_FROM

    def listen(event: Event) -> None:
        nonlocal finished, due
        finished += event.kind == "finished"
        if finished >= due:
            due *= 2
            # Compacted tables are copies. Without them readers take the parts, only more slowly.
            with contextlib.suppress(OSError, Damaged):
                store.compact()

    return listen


def open_view(
    console: Console,
    labels: Mapping[str, str],
    total: int,
    tally: RunOutcome,
    options: Options,
    prepared: Prepared | None,
) -> LiveView:
    """Return the progress view that a command's options ask for.

    Args:
        console: the console.
        labels: readable names by trial id.
        total: the number of trials.
        tally: the trials by how they ended; updated by their source.
        options: the command's options.
        prepared: the plan; None if its trials run in a changed form, as in a dry run.

    """
    steps: dict[str, float] = {}
    shown = not options.quiet or options.log_json
    if shown and prepared is not None and prepared.sweep.search is None:
        plan = prepared.plan
        steps = steps_to_train(plan.of("to run"), prepared.inputs.images, plan.of("done"))
    json = JsonLines(sys.stdout) if options.log_json else None
    is_search = prepared is not None and prepared.sweep.search is not None
    done = 0 if prepared is None or is_search else len(prepared.plan.of("done"))
    return LiveView(
        console, labels, total, tally, options.quiet, steps=steps, json=json, done=done, is_search=is_search
    )
