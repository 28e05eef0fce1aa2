"""A run: the folder made ready, a backend set to work, what became of it said and reported."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from moleflow.budget import in_use
from moleflow.claim import hold
from moleflow.errors import Damaged, InvalidInput
from orchestrator import burial, disk, folder, listing, marks, reporting, terminal
from orchestrator.attempts import DIED, RUNNING, WORKER_DIED, AttemptFolder, Record
from orchestrator.events import Event, Events
from orchestrator.live import open_view
from orchestrator.prepared import Options, Prepared, expected_work, setup, writable
from orchestrator.provenance import without_passwords
from orchestrator.reports import kept
from orchestrator.reports.lock import read_lock
from orchestrator.results.store import ResultStore
from orchestrator.runner import Tally, TrialSource
from orchestrator.search import PlannedTrials, Search
from orchestrator.spec import Sweep
from orchestrator.stage_tree import StageTree, stage_tree
from orchestrator.trial import Trial, counted
from orchestrator.work import Backend, Setup, stopped_as_by_ctrl_c

if TYPE_CHECKING:
    from orchestrator.backends.slurm import SlurmBackend


FAILED, INTERRUPTED = 1, 130
COMPACT_FROM = 200


def open_folder(prepared: Prepared, options: Options, console: Console) -> None:
    """Make the folder the sweep's, clean up after the dead, and say what was found.

    Raises:
        InvalidInput: it cannot be written.
        OSError: the disk is full.

    """
    store, records = prepared.store, AttemptFolder(prepared.folder / "attempts")
    with writable(prepared.folder, "--out"):
        claim_folder(prepared)
        with hold(prepared.folder / ".starting"):  # Two drivers would take each other's files for a dead writer's.
            store.create()
            marks.cancelled(prepared.folder).clear()
            marks.pruned(prepared.folder).clear()
            found = records.all()
            dead = burial.bury(records, store, _dead(found, options), burial.UNSEEN)
            # Where nobody else is at work, whatever lies around half-written is a dead writer's.
            alone = not any(record.state == RUNNING for record in (records.all() if dead else found))
            recovered = store.recover(grace_seconds=0.0) if alone else store.recover()
    if not options.quiet:
        said = listing.header(prepared.sweep, prepared.plan, prepared.inputs, prepared.folder)
        console.print("\n".join([*said, *listing.work_lines(expected_work(prepared))]))
    for damage in recovered.set_aside:
        console.print(
            f"damaged:  {damage.path}: {damage.reason}; moved to {prepared.folder / 'damaged'}, its trials run again"
        )
    for record in dead:
        label = prepared.labels.get(record.trial_id, record.trial_id)
        console.print(f"died:     {label}, attempt {record.attempt}: {burial.UNSEEN}")


def planned_work(prepared: Prepared, options: Options, trials: Sequence[Trial]) -> TrialSource:
    """What a backend pulls from: trials of a plan. On SLURM, jobs wait for each other or not as the site's profile says; else here."""
    tree = stage_tree(trials)
    by_id = {trial.id: trial for trial in trials}
    ordered = [by_id[trial_id] for trial_id in tree.chains]
    return source(prepared, PlannedTrials(ordered, None if options.backend == "slurm" else tree), tree)


def source(prepared: Prepared, search: Search, tree: StageTree | None = None) -> TrialSource:
    """What a backend pulls from: the trials of a search, with the sweep's retries and whatever marks lie in its folder."""
    pruned = marks.pruned(prepared.folder)
    return TrialSource(
        search,
        prepared.sweep.resources,
        prepared.sweep.retries,
        cancelled=marks.cancelled(prepared.folder).holds,
        prune=lambda trial_id: pruned.add([trial_id]),
        after=tree.after if tree else lambda _: (),
    )


def drive(
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
    with view, in_use(prepared.cache, needs=[trial.config for trial in planned]):
        try:
            with stopped_as_by_ctrl_c():
                _backend(setup(prepared, options), prepared.sweep, options).run(work, each_of(heard))
        except KeyboardInterrupt:
            return True
    return False


def typed() -> tuple[str, ...]:
    """What was typed after the program's name, without the password of a storage."""
    return tuple(without_passwords(word) for word in sys.argv[1:])


def command() -> str:
    """The command at hand, as one types it."""
    return shlex.join(["moleflow-sweep", *typed()])


def summary(tally: Tally, labels: Mapping[str, str], total: int, interrupted: bool, console: Console) -> int:
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
        f"{done} of {counted(total, 'trial')} finished and kept; to go on, run the same command again: {command()}"
    )
    return INTERRUPTED if interrupted else FAILED


def report_after(prepared: Prepared, code: int, console: Console, looked: ResultStore | None = None) -> None:
    """Compact, write the report and show it; after a stop the report is a courtesy and must not hide the reason.

    A report that lies there already, made of the same rows by the same plan and code, is not made again. `looked` is the store as it was
    looked at a moment ago; without it every part is looked at anew, as one may have been damaged since the start.
    """
    sweep = _planned(prepared)  # Another driver may have written its own plan meanwhile.
    store = looked or ResultStore(prepared.folder)
    try:
        store.compact()
        inputs = reporting.inputs(store, sweep)
        paths = kept.kept(prepared.folder, inputs)
        if paths is None:
            _, paths = reporting.report(prepared.folder, sweep=sweep)
            if reporting.inputs(store, sweep) == inputs:  # Else another driver stored more meanwhile.
                kept.keep(prepared.folder, inputs, paths)
        body = read_lock(paths["md"].read_text(encoding="utf-8"), str(paths["md"])).body
    except OSError as error:
        console.print(f"no report: {disk.explain(prepared.folder, error)}")
        return
    if code != INTERRUPTED:
        terminal.show(body, console)
    console.print("\n".join(listing.closing(body, prepared.folder / "parts", paths["md"])))


def claim_folder(prepared: Prepared) -> None:
    """Write the latest plan into the folder."""
    folder.write(prepared.folder, _planned(prepared), prepared.sweep.spec())


def _planned(prepared: Prepared) -> folder.SweepFolder:
    sweep = prepared.sweep
    title = f"{sweep.name}: {sweep.question}" if sweep.question else sweep.name
    title += f" ({sweep.note})" if sweep.note else ""
    ids = tuple(trial.id for trial in prepared.trials)
    return folder.SweepFolder(
        sweep.name,
        title,
        dict(sweep.baseline),
        ids,
        prepared.inputs.dataset.name,
        prepared.labels,
        typed(),
        str(Path.cwd()),
        prepared.tabled,
    )


def _dead(found: Sequence[Record], options: Options) -> list[Record]:
    """The attempts that nobody is at; of those in a SLURM job the backend first asks SLURM."""
    ours = options.backend == "slurm"
    return [r for r in found if r.state == DIED and not (ours and r.content.get("job"))]


def each_of(listeners: Sequence[Events]) -> Events:
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
                burial.bury(records, store, dead, str(event.facts["error"]))

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


def _backend(setup: Setup, sweep: Sweep, options: Options) -> Backend:
    if options.backend == "inline":
        from orchestrator.backends.inline import InlineBackend

        return InlineBackend(setup)
    if options.backend == "slurm":
        return slurm(setup, options)
    if options.backend == "ray":
        return _ray(setup, sweep, options)
    from orchestrator.backends.local import LocalBackend

    return LocalBackend(setup, options.workers, sweep.resources)


def _ray(setup: Setup, sweep: Sweep, options: Options) -> Backend:
    try:
        from orchestrator.backends.ray import RayBackend
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"--backend ray: {error.name} is not installed; install the extra: pip install 'moleflow-sweep[ray]'"
        ) from None
    say = (lambda _: None) if options.quiet else print
    return RayBackend(
        setup,
        sweep.resources,
        options.workers,
        options.address,
        options.dashboard,
        say,
        early_stopping=sweep.early_stopping,
    )


def slurm(setup: Setup, options: Options) -> SlurmBackend:
    """The cluster of `options.profile`, or one without anything special.

    Raises:
        InvalidInput: the profile is not valid.

    """
    from orchestrator.backends.slurm import SlurmBackend
    from orchestrator.profile import load_profile

    return SlurmBackend(setup, load_profile(options.profile))
