"""A run: the folder made ready, a backend set to work, what became of it said and reported."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from moleflow.cache.claim import exclusive
from moleflow.cache.eviction import pinned_within_budget
from moleflow.errors import Damaged
from orchestrator.driver.backend_choice import choose_backend
from orchestrator.driver.prepare import Options, Prepared, expected_work, worker_config, writable
from orchestrator.execution.planned_trials import PlannedTrials, TrialSearch
from orchestrator.execution.signals import sigterm_as_ctrl_c
from orchestrator.execution.trial_source import RunOutcome, TrialSource
from orchestrator.exit_codes import FAILED, INTERRUPTED
from orchestrator.host import disk
from orchestrator.host.provenance import without_passwords
from orchestrator.monitor import terminal
from orchestrator.monitor.json_lines import JsonLines
from orchestrator.monitor.live_view import LiveView
from orchestrator.plan import listing
from orchestrator.plan.stage_tree import StageTree, stage_tree
from orchestrator.plan.steps_to_train import steps_to_train
from orchestrator.records import dead_attempts, stop_requests, sweep_folder
from orchestrator.records.attempts import DIED, RUNNING, WORKER_DIED, AttemptFolder, AttemptRecord
from orchestrator.records.events import Event, Events
from orchestrator.reports import make, report_cache
from orchestrator.reports.lock import read_lock
from orchestrator.reports.notes import COST
from orchestrator.results.store import ResultStore
from orchestrator.sweep.trial import Trial, counted

COMPACT_FROM = 200


def prepare_folder(prepared: Prepared, options: Options, console: Console) -> None:
    """Make the folder the sweep's, clean up after the dead, and say what was found.

    Raises:
        InvalidInput: it cannot be written.
        OSError: the disk is full.

    """
    store, records = prepared.store, AttemptFolder(prepared.folder / "attempts")
    with writable(prepared.folder, "--out"):
        write_plan(prepared)
        with exclusive(prepared.folder / ".starting"):  # Two drivers would take each other's files for a dead writer's.
            store.create()
            stop_requests.cancel_requests(prepared.folder).clear()
            stop_requests.prune_requests(prepared.folder).clear()
            found = records.all()
            dead = dead_attempts.record_dead_attempts(records, store, _dead(found, options), dead_attempts.UNSEEN)
            # Where nobody else is at work, whatever lies around half-written is a dead writer's.
            alone = not any(record.state == RUNNING for record in (records.all() if dead else found))
            recovered = store.recover(grace_seconds=0.0) if alone else store.recover()
    if not options.quiet:
        said = listing.plan_header(prepared.sweep, prepared.plan, prepared.inputs, prepared.folder)
        console.print("\n".join([*said, *listing.work_lines(expected_work(prepared))]))
    for damage in recovered.set_aside:
        console.print(
            f"damaged:  {damage.path}: {damage.reason}; moved to {prepared.folder / 'damaged'}, its trials run again"
        )
    for record in dead:
        label = prepared.labels.get(record.trial_id, record.trial_id)
        console.print(f"died:     {label}, attempt {record.attempt}: {dead_attempts.UNSEEN}")


def trial_source_of_plan(prepared: Prepared, options: Options, trials: Sequence[Trial]) -> TrialSource:
    """What a backend pulls from: trials of a plan. On SLURM, jobs wait for each other or not as the site's profile says; else here."""
    tree = stage_tree(trials)
    return make_trial_source(prepared, PlannedTrials(trials, None if options.backend == "slurm" else tree), tree)


def make_trial_source(prepared: Prepared, search: TrialSearch, tree: StageTree | None = None) -> TrialSource:
    """What a backend pulls from: the trials of a search, with the sweep's retries and whatever marks lie in its folder."""
    pruned = stop_requests.prune_requests(prepared.folder)
    return TrialSource(
        search,
        prepared.sweep.resources,
        prepared.sweep.retries,
        cancelled=stop_requests.cancel_requests(prepared.folder).holds,
        prune=lambda trial_id: pruned.add([trial_id]),
        after=tree.after if tree else lambda _: (),
    )


def run_backend(
    prepared: Prepared,
    options: Options,
    work: TrialSource,
    labels: Mapping[str, str],
    total: int,
    console: Console,
    planned: Sequence[Trial] = (),
) -> bool:
    """Run what a source has on the backend of the options, and show it; whether somebody interrupted it.

    Args:
        planned: the trials that it will have, as far as they are known; stages of theirs that are stored are held from the start.

    Raises:
        InvalidInput: the backend cannot do what it is asked for.

    """
    if not total:
        return False
    store, records = prepared.store, AttemptFolder(prepared.folder / "attempts")
    view = open_view(console, labels, total, work.tally, options, prepared)
    heard = (_burials(records, store), work.events, view.show, _compaction(store))
    with view, pinned_within_budget(prepared.cache, needs=[trial.config for trial in planned]):
        try:
            with sigterm_as_ctrl_c():
                choose_backend(worker_config(prepared, options), prepared.sweep, options).run(work, broadcast(heard))
        except KeyboardInterrupt:
            return True
    return False


def command_line() -> tuple[str, ...]:
    """What was typed after the program's name, without the password of a storage."""
    return tuple(without_passwords(word) for word in sys.argv[1:])


def spelled_command() -> str:
    """The command at hand, as one types it."""
    return shlex.join(["moleflow-sweep", *command_line()])


def print_outcome(tally: RunOutcome, labels: Mapping[str, str], total: int, interrupted: bool, console: Console) -> int:
    """Say what did not go well and how to go on; the exit code."""
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
    console.print(
        f"{done} of {counted(total, 'trial')} finished and kept; to go on, run the same command again: {spelled_command()}"
    )
    return INTERRUPTED if interrupted else FAILED


def report_at_end(prepared: Prepared, code: int, console: Console, looked: ResultStore | None = None) -> None:
    """Compact, write the report and show it; after a stop the report is a courtesy and must not hide the reason.

    A report that lies there already, made of the same rows by the same plan and code, is not made again. `looked` is the store as it was
    looked at a moment ago; without it every part is looked at anew, as one may have been damaged since the start.
    """
    sweep = _planned(prepared)  # Another driver may have written its own plan meanwhile.
    store = looked or ResultStore(prepared.folder)
    try:
        store.compact()
        inputs = make.report_inputs(store, sweep)
        paths = report_cache.kept_report(prepared.folder, inputs)
        if paths is None:
            _, paths = make.make_report(prepared.folder, sweep=sweep)
            if make.report_inputs(store, sweep) == inputs:  # Else another driver stored more meanwhile.
                report_cache.keep_report(prepared.folder, inputs, paths)
        body = read_lock(paths["md"].read_text(encoding="utf-8"), str(paths["md"])).body
    except OSError as error:
        console.print(f"no report: {disk.explain_disk_error(prepared.folder, error)}")
        return
    if code != INTERRUPTED:
        terminal.show_markdown(body, console)
    console.print("\n".join(closing_lines(body, prepared.folder / "parts", paths["md"])))


def write_plan(prepared: Prepared) -> None:
    """Write the latest plan into the folder."""
    sweep_folder.write_sweep_folder(prepared.folder, _planned(prepared), prepared.sweep.spec())


def _planned(prepared: Prepared) -> sweep_folder.SweepFolder:
    sweep = prepared.sweep
    title = f"{sweep.name}: {sweep.question}" if sweep.question else sweep.name
    title += f" ({sweep.note})" if sweep.note else ""
    ids = tuple(trial.id for trial in prepared.trials)
    return sweep_folder.SweepFolder(
        sweep.name,
        title,
        dict(sweep.baseline),
        ids,
        prepared.inputs.dataset.name,
        prepared.labels,
        command_line(),
        str(Path.cwd()),
        prepared.tabled,
    )


def _dead(found: Sequence[AttemptRecord], options: Options) -> list[AttemptRecord]:
    """The attempts that nobody is at; of those in a SLURM job the backend first asks SLURM."""
    ours = options.backend == "slurm"
    return [r for r in found if r.state == DIED and not (ours and r.content.get("job"))]


def broadcast(listeners: Sequence[Events]) -> Events:
    """One listener that tells several, in order."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def _burials(records: AttemptFolder, store: ResultStore) -> Events:
    """Bury an attempt as soon as its worker is known to be dead."""

    def listen(event: Event) -> None:
        if event.kind == "failed" and event.facts.get("error_kind") == WORKER_DIED:
            dead = [record for record in records.of_trial(event.trial_id) if record.state == DIED]
            with contextlib.suppress(OSError):  # A full disk: the next start finds it dead.
                dead_attempts.record_dead_attempts(records, store, dead, str(event.facts["error"]))

    return listen


def _compaction(store: ResultStore) -> Events:
    """Compact while a long run goes on: each time that twice as many trials have finished."""
    finished, due = 0, COMPACT_FROM

    def listen(event: Event) -> None:
        nonlocal finished, due
        finished += event.kind == "finished"
        if finished >= due:
            due *= 2
            with contextlib.suppress(OSError, Damaged):  # The tables are copies; the parts are what counts.
                store.compact()

    return listen


def closing_lines(report: str, parts: Path, path: Path) -> list[str]:
    """What a run says last: what it cost, in the words of its report, and where everything is."""
    cost = next((line for line in report.splitlines() if line.startswith(f"- {COST}")), None)
    said = [] if cost is None else [f"{COST:<9}{cost.removeprefix(f'- {COST}')}"]
    return [*said, f"results: {parts} (Parquet)", f"report:  {path}"]


def open_view(
    console: Console,
    labels: Mapping[str, str],
    total: int,
    tally: RunOutcome,
    options: Options,
    prepared: Prepared | None,
) -> LiveView:
    """The view that a command's options ask for.

    Args:
        prepared: the plan that is run; None where its trials are not run as they stand.

    """
    steps: dict[str, float] = {}
    shown = not options.quiet or options.log_json
    if shown and prepared is not None and prepared.sweep.search is None:
        plan = prepared.plan
        steps = steps_to_train(plan.of("to run"), prepared.inputs.images, plan.of("done"))
    json = JsonLines(sys.stdout) if options.log_json else None
    return LiveView(console, labels, total, tally, options.quiet, steps=steps, json=json)
