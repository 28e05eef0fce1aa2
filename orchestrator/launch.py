"""From a command's options to a plan, a run and its report."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from moleflow.claim import hold
from moleflow.errors import Damaged, InvalidInput
from moleflow.source import code_digest
from orchestrator import burial, disk, expansion, folder, listing, marks, provenance, reporting, terminal
from orchestrator.attempts import DIED, RUNNING, WORKER_DIED, AttemptFolder, Record
from orchestrator.events import Event, Events
from orchestrator.inputs import SweepInputs, look_up
from orchestrator.live import LiveView
from orchestrator.planning import Plan, make_plan
from orchestrator.results.store import ResultStore
from orchestrator.runner import Tally, TrialSource
from orchestrator.search import PlannedTrials, Search
from orchestrator.spec import Sweep
from orchestrator.trial import Trial
from orchestrator.work import Backend, Setup

if TYPE_CHECKING:
    from orchestrator.backends.slurm import SlurmBackend

FAILED, INTERRUPTED = 1, 130
COMPACT_FROM = 200


@dataclass(frozen=True)
class Options:
    """How to run, beside what to run."""

    out: Path | None = None
    cache: Path | None = None
    backend: Literal["inline", "local", "slurm", "ray"] = "local"
    address: str | None = None
    dashboard: bool = True
    profile: Path | None = None
    detach: bool = False
    workers: int | None = None
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    storage: str | None = None
    yes: bool = False
    rerun_stale: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Prepared:
    """A checked sweep with its images, its folder and its plan; nothing has been written there yet.

    `sample` stands for all trials that there may be: the plan's own, or some of a search's space. `tabled` are the
    ids of those that tables compare, where that is not all.
    """

    sweep: Sweep
    inputs: SweepInputs
    folder: Path
    cache: Path
    plan: Plan
    sample: Sequence[Trial]
    tabled: tuple[str, ...] | None = None

    @property
    def trials(self) -> list[Trial]:
        """Every trial of the plan."""
        return [planned.trial for planned in self.plan.trials]

    @property
    def labels(self) -> dict[str, str]:
        """Readable names by trial id."""
        return {trial.id: trial.label for trial in self.trials}


def prepare(sweep: Sweep, options: Options) -> Prepared:
    """Check everything that can be checked before a trial starts.

    Raises:
        InvalidInput: any mistake in the sweep, the images, the weights, the folders or the device.
        OSError: a disk is full.

    """
    place = options.out or Path("results") / sweep.name
    folder.check_owner(place, sweep.name)
    if options.device == "cuda" and options.backend in ("inline", "local"):
        _check_gpu()
    expanded = expansion.expand(sweep, yes=options.yes)
    cache = options.cache or default_cache()
    with _writable(cache, "--cache or MOLEFLOW_CACHE"):
        inputs = look_up(sweep.data_root, cache, (variant.config for variant in expanded.variants))
    trials = sample = expansion.trials(sweep, inputs.of, yes=options.yes)
    if sweep.search is not None:
        from orchestrator.study.found import found_trials

        trials = found_trials(sweep, inputs.of, place, options.storage)
    finished, pruned = {}, frozenset[str]()
    if (place / "parts").is_dir():
        store = ResultStore(place)
        finished, pruned = store.finished(), store.pruned() if sweep.stops_early else pruned
    plan = make_plan(trials, finished, code_digest(), options.rerun_stale, pruned)
    return Prepared(sweep, inputs, place, cache, plan, sample)


def run(prepared: Prepared, options: Options, console: Console) -> int:
    """Run what is missing, write and print the report; the exit code.

    Raises:
        InvalidInput: the results folder cannot be written.
        OSError: the disk is full before the first trial.

    """
    if prepared.sweep.search is not None:
        from orchestrator.study.run import run as search

        return search(prepared, options, console)
    todo = prepared.plan.of("to run")
    open_folder(prepared, options, console)
    if options.detach:
        return _submit_and_leave(prepared, options, source(prepared, PlannedTrials(todo)), console)
    work = source(prepared, PlannedTrials(todo))
    interrupted = drive(prepared, options, work, prepared.labels, len(todo), console)
    code = summary(work.tally, prepared.labels, len(todo), interrupted, console)
    try:
        report_after(prepared, code, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def open_folder(prepared: Prepared, options: Options, console: Console) -> None:
    """Make the folder the sweep's, clean up after the dead, and say what was found.

    Raises:
        InvalidInput: it cannot be written.
        OSError: the disk is full.

    """
    store, records = ResultStore(prepared.folder), AttemptFolder(prepared.folder / "attempts")
    with _writable(prepared.folder, "--out"):
        claim_folder(prepared)
        with hold(prepared.folder / ".starting"):  # Two drivers would take each other's files for a dead writer's.
            store.create()
            marks.cancelled(prepared.folder).clear()
            marks.pruned(prepared.folder).clear()
            dead = burial.bury(records, store, _dead(records, options), burial.UNSEEN)
            # Where nobody else is at work, whatever lies around half-written is a dead writer's.
            alone = not any(record.state == RUNNING for record in records.all())
            recovered = store.recover(grace_seconds=0.0) if alone else store.recover()
    if not options.quiet:
        console.print("\n".join(listing.header(prepared.sweep, prepared.plan, prepared.inputs.dataset)))
    for damage in recovered.set_aside:
        console.print(
            f"damaged:  {damage.path}: {damage.reason}; moved to {prepared.folder / 'damaged'}, its trials run again"
        )
    for record in dead:
        label = prepared.labels.get(record.trial_id, record.trial_id)
        console.print(f"died:     {label}, attempt {record.attempt}: {burial.UNSEEN}")


def source(prepared: Prepared, search: Search) -> TrialSource:
    """What a backend pulls from: the trials of a search, with the sweep's retries and whatever marks lie in its folder."""
    pruned = marks.pruned(prepared.folder)
    return TrialSource(
        search,
        prepared.sweep.resources,
        prepared.sweep.retries,
        cancelled=marks.cancelled(prepared.folder).holds,
        prune=lambda trial_id: pruned.add([trial_id]),
    )


def drive(
    prepared: Prepared, options: Options, work: TrialSource, labels: Mapping[str, str], total: int, console: Console
) -> bool:
    """Run what a source has on the backend of the options, and show it; whether somebody interrupted it.

    Raises:
        InvalidInput: the backend cannot do what it is asked for.

    """
    if not total:
        return False
    store, records = ResultStore(prepared.folder), AttemptFolder(prepared.folder / "attempts")
    view = LiveView(console, labels, total, work.tally, options.quiet)
    heard = (_burials(records, store), work.events, view.show, _compaction(store))
    with view:
        try:
            _backend(setup(prepared, options), prepared.sweep, options).run(work, _each_of(heard))
        except KeyboardInterrupt:
            return True
    return False


def _submit_and_leave(prepared: Prepared, options: Options, source: TrialSource, console: Console) -> int:
    made = slurm(setup(prepared, options), options).submit(source)
    for array in made:
        trials = sum(len(ids) for ids in array.elements)
        console.print(f"submitted: {trials} trials as SLURM job {array.job_id}, {len(array.elements)} elements")
    left = len(prepared.plan.of("to run")) - sum(len(ids) for array in made for ids in array.elements)
    if left:
        console.print(f"not submitted: {left} trials that a job or another driver has already")
    console.print(
        f"to see them: moleflow-sweep status {prepared.folder}; the same command without --detach follows them"
    )
    return 0


def print_scripts(prepared: Prepared, options: Options, console: Console) -> int:
    """Show the sbatch scripts that a run would submit; nothing is written, and no job is looked for.

    Raises:
        InvalidInput: the profile is not valid.
        MoleflowError: the site's largest array is not in the profile, and SLURM does not tell it.

    """
    source = TrialSource(PlannedTrials(prepared.plan.of("to run")), prepared.sweep.resources, prepared.sweep.retries)
    for text in slurm(setup(prepared, options), options).scripts(source):
        console.print(text)
    return 0


def dry_run(prepared: Prepared, options: Options, console: Console) -> int:
    """Run each distinct computation of the sweep cut to one training step a task and one scored batch; the exit code.

    Raises:
        OSError: the temporary folder cannot be written.

    """
    from orchestrator.rehearsal import cut_short, distinct, rehearse

    trials = distinct(prepared.sample)
    labels = {trial.id: trial.label for trial in prepared.sample}
    if not options.quiet:
        console.print("\n".join(listing.header(prepared.sweep, prepared.plan, prepared.inputs.dataset)))
    console.print(
        f"dry run:  {len(trials)} distinct computations of {len(labels)} trials, one training step a task each"
    )
    rehearsals = PlannedTrials([cut_short(trial) for trial in trials])
    source = TrialSource(rehearsals, prepared.sweep.resources, retries=0, most_identical=math.inf)
    interrupted = False
    with LiveView(console, labels, len(trials), source.tally, options.quiet) as view:
        try:
            rehearse(source, setup(prepared, options), _each_of((source.events, view.show)))
        except KeyboardInterrupt:
            interrupted = True
    tally = source.tally
    for trial_id, event in tally.failed.items():
        console.print(f"would fail: {labels[trial_id]}  ({trial_id}): {event.facts.get('error')}")
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}")
    console.print(f"dry run: {len(tally.finished)} of {len(trials)} passed, nothing was kept")
    if interrupted:
        return INTERRUPTED
    return 0 if len(tally.finished) == len(trials) else FAILED


def default_cache() -> Path:
    """Where features, stages and the embedded images are kept: MOLEFLOW_CACHE, or a folder in the user's cache."""
    given = os.environ.get("MOLEFLOW_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleflow-sweep"


def _check_gpu() -> None:
    from orchestrator.backends.local import visible_gpus

    if not visible_gpus():
        hint = "allowed: auto | cpu, or make one visible (CUDA_VISIBLE_DEVICES)"
        raise InvalidInput(f"--device: given 'cuda', but no GPU is visible here; {hint}")


@contextlib.contextmanager
def _writable(place: Path, option: str) -> Iterator[None]:
    """Turn a folder that cannot be written into the user's mistake; a full disk is none."""
    try:
        yield
    except OSError as error:
        where, reason = error.filename or place, error.strerror or str(error)
        if disk.is_full(error):
            raise OSError(
                error.errno, f"{reason}; free some, or give another folder with {option}", str(where)
            ) from None
        raise InvalidInput(f"{where}: cannot be written ({reason}); give another folder with {option}") from None


def _dead(records: AttemptFolder, options: Options) -> list[Record]:
    """The attempts that nobody is at; of those in a SLURM job the backend first asks SLURM."""
    ours = options.backend == "slurm"
    return [r for r in records.all() if r.state == DIED and not (ours and r.content.get("job"))]


def _each_of(listeners: Sequence[Events]) -> Events:
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
        tuple(sys.argv[1:]),
        str(Path.cwd()),
        prepared.tabled,
    )


def setup(prepared: Prepared, options: Options) -> Setup:
    """What the workers of a run need."""
    return Setup(
        sweep=prepared.sweep.name,
        folder=prepared.folder.absolute(),
        cache=prepared.cache.absolute(),
        data_root=prepared.inputs.dataset.root.absolute(),
        dataset=prepared.inputs.dataset.name,
        backend=options.backend,
        worker=f"{options.backend}-{os.getpid()}",
        device=options.device,
        threads=options.threads,
        rerun_stale=options.rerun_stale,
        provenance=provenance.facts(),
        time_min=prepared.sweep.resources.time_min,
    )


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
    return RayBackend(setup, sweep.resources, options.workers, options.address, options.dashboard, say)


def slurm(setup: Setup, options: Options) -> SlurmBackend:
    """The cluster of `options.profile`, or one without anything special.

    Raises:
        InvalidInput: the profile is not valid.

    """
    from orchestrator.backends.slurm import SlurmBackend
    from orchestrator.profile import load_profile

    return SlurmBackend(setup, load_profile(options.profile))


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
        console.print(f"stopped early: {len(tally.pruned)} trials")
    done = len(tally.finished) + len(tally.elsewhere) + len(tally.pruned)
    if done == total:
        return 0
    again = shlex.join(["moleflow-sweep", *sys.argv[1:]])
    console.print(f"{done} of {total} trials finished and kept; to go on, run the same command again: {again}")
    return INTERRUPTED if interrupted else FAILED


def report_after(prepared: Prepared, code: int, console: Console) -> None:
    """Compact, write the report and show it; after a stop the report is a courtesy and must not hide the reason."""
    try:
        ResultStore(prepared.folder).compact()  # Looks at every part anew: one may have been damaged since the start.
        made, paths = reporting.report(
            prepared.folder, sweep=_planned(prepared)
        )  # Another driver may have written its own plan meanwhile.
    except OSError as error:
        console.print(f"no report: {disk.explain(prepared.folder, error)}")
        return
    if code != INTERRUPTED:
        terminal.show(made.body(), console)
    console.print(f"results: {prepared.folder / 'parts'} (Parquet)\nreport:  {paths['md']}")
