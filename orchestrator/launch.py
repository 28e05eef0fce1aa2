"""From a command's options to a plan, a run and its report."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markdown import Markdown

from moleflow.errors import InvalidInput
from moleflow.knobs import method_knobs
from moleflow.source import code_digest
from orchestrator import expansion, folder, provenance
from orchestrator.events import Event, Events
from orchestrator.inputs import SweepInputs, look_up
from orchestrator.live import LiveView
from orchestrator.planning import Plan, make_plan
from orchestrator.reports.tables import Report, build, write_report
from orchestrator.results.store import ResultStore
from orchestrator.runner import Tally, TrialSource
from orchestrator.search import PlannedTrials
from orchestrator.spec import Sweep
from orchestrator.trial import Trial
from orchestrator.work import Backend, Setup

FAILED, INVALID, INTERRUPTED = 1, 2, 130
COMPACT_FROM_PARTS = 200


@dataclass(frozen=True)
class Options:
    """How to run, beside what to run."""

    out: Path | None = None
    cache: Path | None = None
    backend: Literal["inline", "local"] = "local"
    workers: int | None = None
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    yes: bool = False
    rerun_stale: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Prepared:
    """A checked sweep with its images, its folder and its plan; nothing has been written there yet."""

    sweep: Sweep
    inputs: SweepInputs
    folder: Path
    cache: Path
    plan: Plan
    collapsed: int


def prepare(sweep: Sweep, options: Options) -> Prepared:
    """Check everything that can be checked before a trial starts.

    Raises:
        InvalidInput: any mistake in the sweep, the images, the weights or the folder.

    """
    place = options.out or Path("results") / sweep.name
    folder.check_owner(place, sweep.name)
    expanded = expansion.expand(sweep, yes=options.yes)
    cache = options.cache or default_cache()
    inputs = look_up(sweep.data_root, cache, (variant.config for variant in expanded.variants))
    trials = expansion.trials(sweep, inputs.of, yes=options.yes)
    stored = ResultStore(place).finished() if (place / folder.FILE).exists() else {}
    plan = make_plan(trials, stored, code_digest(), options.rerun_stale)
    return Prepared(sweep, inputs, place, cache, plan, expanded.collapsed)


def run(prepared: Prepared, options: Options, console: Console) -> int:
    """Run what is missing, write and print the report; the exit code."""
    sweep, plan = prepared.sweep, prepared.plan
    store = ResultStore(prepared.folder)
    try:
        _claim_folder(prepared)
        store.create()
        store.recover()
    except OSError as error:
        raise InvalidInput(f"{prepared.folder}: cannot be written ({error.strerror}); give another folder with --out") from None
    todo = plan.of("to run")
    _header(prepared, options, console)
    setup = _setup(prepared, options)
    source = TrialSource(PlannedTrials(todo), sweep.resources, sweep.retries)
    interrupted = False
    if todo:
        labels = {planned.trial.id: planned.trial.label for planned in plan.trials}
        with LiveView(console, labels, len(todo), options.quiet) as view:
            try:
                _backend(setup, sweep, options).run(source, _both(source, view))
            except KeyboardInterrupt:
                interrupted = True
    code = _summary(prepared, source.tally, interrupted, console)
    _report_after(prepared, store, code, console)
    return code


def dry_run(prepared: Prepared, options: Options, console: Console) -> int:
    """Run each distinct computation of the sweep cut to one training step a task and one scored batch; the exit code."""
    from orchestrator.worker import rehearsed

    distinct: dict[str, Trial] = {}
    for planned in prepared.plan.trials:
        # Seeds change numbers, not shapes: the first of each variant stands for all.
        key = repr(planned.trial.config.model_copy(update={"seed": 0}))
        distinct.setdefault(key, planned.trial)
    cut = [rehearsed(trial) for trial in distinct.values()]
    console.print(f"dry run: {len(cut)} distinct computations of {len(prepared.plan.trials)} trials, one training step a task", highlight=False)
    with tempfile.TemporaryDirectory(prefix="moleflow-dry-run-") as temporary:
        place = replace(prepared, folder=Path(temporary) / "results", cache=Path(temporary) / "cache")
        store = ResultStore(place.folder)
        store.create()
        setup = replace(_setup(place, options), backend="inline")
        source = TrialSource(PlannedTrials(cut), prepared.sweep.resources, retries=0)
        labels = {trial.id: trial.label for trial in cut}
        from orchestrator.backends.inline import InlineBackend

        with LiveView(console, labels, len(cut), options.quiet) as view:
            InlineBackend(setup).run(source, _both(source, view))
    tally = source.tally
    for trial_id, event in tally.failed.items():
        console.print(f"would fail: {labels[trial_id]}  ({trial_id}): {event.facts.get('error')}", highlight=False, soft_wrap=True)
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}", highlight=False, soft_wrap=True)
    console.print(f"dry run: {len(tally.finished)} of {len(cut)} passed, nothing was kept", highlight=False)
    return FAILED if tally.failed or tally.stopped_by else 0


def report(place: Path, show_all: bool = False) -> tuple[Report, dict[str, Path]]:
    """Make the report of a results folder anew from its Parquet.

    Args:
        show_all: every trial that is stored, not only those of the latest plan.

    Raises:
        InvalidInput: the folder holds no sweep.

    """
    sweep = folder.read(place)
    store = ResultStore(place)
    selection = None if show_all else set(sweep.trial_ids)
    made = build(store, selection, sweep.baseline, sweep.title, current_code=code_digest(), covers={"version": method_knobs()})
    return made, write_report(made, place)


def _both(source: TrialSource, view: LiveView) -> Events:
    def tell(event: Event) -> None:
        source.events(event)
        view.show(event)

    return tell


def default_cache() -> Path:
    """Where features, stages and the embedded images are kept: MOLEFLOW_CACHE, or a folder in the user's cache."""
    given = os.environ.get("MOLEFLOW_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleflow-sweep"


def _claim_folder(prepared: Prepared) -> None:
    sweep = prepared.sweep
    ids = tuple(planned.trial.id for planned in prepared.plan.trials)
    title = f"{sweep.name}: {sweep.question}" if sweep.question else sweep.name
    own = folder.SweepFolder(sweep.name, title, dict(sweep.baseline), ids, prepared.inputs.dataset.name)
    folder.write(prepared.folder, own, sweep.spec(), sys.argv)


def _setup(prepared: Prepared, options: Options) -> Setup:
    return Setup(
        sweep=prepared.sweep.name,
        folder=prepared.folder.absolute(),
        cache=prepared.cache.absolute(),
        data_root=prepared.inputs.dataset.root.absolute(),
        dataset=prepared.inputs.dataset.name,
        backend=options.backend,
        worker=options.backend,
        device=options.device,
        threads=options.threads,
        rerun_stale=options.rerun_stale,
        provenance=provenance.facts(),
    )


def _backend(setup: Setup, sweep: Sweep, options: Options) -> Backend:
    if options.backend == "inline":
        from orchestrator.backends.inline import InlineBackend

        return InlineBackend(setup)
    from orchestrator.backends.local import LocalBackend

    return LocalBackend(setup, options.workers, sweep.resources.trials_per_gpu)


def header_lines(prepared: Prepared) -> list[str]:
    """What a run and a plan say first."""
    sweep, plan, dataset = prepared.sweep, prepared.plan, prepared.inputs.dataset
    generated = "dataset: embedded (generated images, not MVTec AD)" if dataset.generated else f"dataset: {dataset.name} ({dataset.root})"
    lines = [f"sweep: {sweep.name}", *([f"question: {sweep.question}"] if sweep.question else []), generated]
    if sweep.note:
        lines.append(f"note: {sweep.note}")
    counts = {state: len(plan.of(state)) for state in ("done", "stale", "to run")}
    parts = [f"{len(plan.trials)} trials on base {sweep.base}: {counts['done']} done, {counts['to run']} to run"]
    if counts["stale"]:
        parts.append(f"{counts['stale']} stale (made by other code; --rerun-stale runs them again)")
    return [*lines, ", ".join(parts)]


def _header(prepared: Prepared, options: Options, console: Console) -> None:
    if options.quiet:
        return
    for line in header_lines(prepared):
        console.print(line, highlight=False, soft_wrap=True)


def _summary(prepared: Prepared, tally: Tally, interrupted: bool, console: Console) -> int:
    labels = {planned.trial.id: planned.trial.label for planned in prepared.plan.trials}
    for trial_id, event in tally.failed.items():
        console.print(f"failed: {labels[trial_id]}  ({trial_id}): {event.facts.get('error')}", highlight=False, soft_wrap=True)
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}", highlight=False, soft_wrap=True)
    if interrupted or tally.stopped_by or tally.failed:
        again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        console.print(f"finished trials are kept; to go on, run the same command again: {again}", highlight=False, soft_wrap=True)
    if interrupted:
        return INTERRUPTED
    return FAILED if tally.failed or tally.stopped_by else 0


def _report_after(prepared: Prepared, store: ResultStore, code: int, console: Console) -> None:
    """Compact, write the report and show it; after a stop the report is a courtesy and must not hide the reason."""
    try:
        if len(list((prepared.folder / "parts" / "metrics").glob("*.parquet"))) >= COMPACT_FROM_PARTS:
            store.compact()
        made, paths = report(prepared.folder)
    except OSError as error:
        console.print(f"the report could not be written: {error.strerror or error}", highlight=False, soft_wrap=True)
        return
    for damage in store.damaged:
        console.print(f"damaged part, left out: {damage}", highlight=False, soft_wrap=True)
    if code != INTERRUPTED:
        console.print(Markdown(made.markdown()) if console.is_terminal else made.markdown(), highlight=False, soft_wrap=not console.is_terminal)
    console.print(f"results: {prepared.folder / 'parts'} (Parquet)", highlight=False, soft_wrap=True)
    console.print(f"report:  {paths['md']}", highlight=False, soft_wrap=True)


def plan_rows(prepared: Prepared) -> list[dict[str, Any]]:
    """The plan for programs: one mapping a trial."""
    return [
        {
            "trial_id": planned.trial.id,
            "label": planned.trial.label,
            "state": planned.state,
            "version": planned.trial.config.version,
            "seed": planned.trial.config.seed,
            "factors": dict(planned.trial.factors),
        }
        for planned in prepared.plan.trials
    ]


