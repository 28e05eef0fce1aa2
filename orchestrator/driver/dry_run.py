"""The dry run: each distinct computation of a sweep, cut short, in a temporary folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from moleflow.errors import counted
from orchestrator.backends.inline import InlineBackend
from orchestrator.driver.driver import broadcast, open_view
from orchestrator.driver.preflight import check_dry_run
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.driver.trial_cost import GB, expected_time, largest_bytes, step_costs
from orchestrator.execution.backend import TrialSupply, WorkerConfig
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.exit_codes import FAILED, INTERRUPTED
from orchestrator.host.hardware import visible_gpus
from orchestrator.plan import listing
from orchestrator.records.events import Event, Events
from orchestrator.results.store import ResultStore
from orchestrator.sweep.trial import Trial


def distinct_computations(trials: Iterable[Trial]) -> list[Trial]:
    """Return one trial of each configuration, the first. Seeds change numbers, not shapes."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.config.model_copy(update={"seed": 0}).model_dump_json(), trial)
    return list(first.values())


def cut_short(trial: Trial) -> Trial:
    """Return the trial with one training step per task and one scored batch; its shapes stay."""
    data, training = trial.config.data, trial.config.training
    batch = training.batch_size
    scored = max(2, batch)  # Scores need a normal and a defective image.
    data = data.model_copy(
        update={
            "train_images": min(max(2, batch), data.train_images or batch),
            "test_images": min(scored, data.test_images or scored),
        }
    )
    short = trial.config.model_copy(update={"data": data, "training": training.model_copy(update={"epochs": 1})})
    return replace(trial, config=short)


def run_cut_short(source: TrialSupply, setup: WorkerConfig, events: Events) -> None:
    """Run the source's trials in a temporary folder with a temporary cache, and delete both.

    Raises:
        OSError: the temporary folder cannot be written.

    """
    with tempfile.TemporaryDirectory(prefix="moleflow-dry-run-") as temporary:
        results, cache = Path(temporary) / "results", Path(temporary) / "cache"
        ResultStore(results).create()
        InlineBackend(replace(setup, folder=results, cache=cache)).run(source, _without_scores(events))


def _without_scores(events: Events) -> Events:
    """Return a listener that drops image AUROC: after one training step it means nothing."""

    def pass_on(event: Event) -> None:
        events(replace(event, facts={name: fact for name, fact in event.facts.items() if name != "image_auroc"}))

    return pass_on


def run_dry(prepared: Prepared, options: Options, console: Console) -> int:
    """Run each distinct computation with one training step per task; return the exit code.

    Raises:
        InvalidInput: a backbone cannot be built.
        OSError: the temporary folder cannot be written.

    """
    check_dry_run(prepared, options)
    trials = distinct_computations(prepared.sample)
    labels = {trial.id: trial.label for trial in prepared.sample}
    if not options.quiet:
        console.print("\n".join(listing.plan_header(prepared.sweep, prepared.plan, prepared.inputs, prepared.folder)))
    computations = f"{counted(len(trials), 'distinct computation')} of {counted(len(labels), 'trial')}"
    console.print(f"dry run:  {computations}, one training step per task each")
    short = PlannedTrials([cut_short(trial) for trial in trials])
    source = TrialSource(short, prepared.sweep.resources, retries=0, most_identical=math.inf)
    interrupted = False
    with open_view(console, labels, len(trials), source.tally, options, None) as view:
        try:
            run_cut_short(source, worker_config(prepared, options), broadcast((source.events, view.show)))
        except KeyboardInterrupt:
            interrupted = True
    tally = source.tally
    if trials and not interrupted and not tally.failed:
        console.print(f"memory:   {_memory(prepared, options, trials)}")
        for line in listing.expected_lines(expected_time(prepared, options)):
            console.print(line)
    for trial_id, event in tally.failed.items():
        console.print(f"would fail: {labels[trial_id]}  ({trial_id}): {event.facts.get('error')}")
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}")
    console.print(f"dry run: {len(tally.finished)} of {len(trials)} passed, nothing was kept")
    if interrupted:
        return INTERRUPTED
    return 0 if len(tally.finished) == len(trials) else FAILED


def _memory(prepared: Prepared, options: Options, trials: Sequence[Trial]) -> str:
    """The memory on the device of the largest trial, in words."""
    device: Literal["cpu", "cuda"] = "cuda" if options.device != "cpu" and visible_gpus() else "cpu"
    largest = largest_bytes(prepared, trials, step_costs(prepared, options, trials, device))
    how = "measured on a GPU here" if device == "cuda" else "counted from the tensors of a step; no GPU was used here"
    return f"the largest trial takes {largest / GB:.2g} GB on its device, besides its process ({how})"
