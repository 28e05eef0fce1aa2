"""The results folder at the start of a run: plan, stop requests, dead attempts, damaged parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from moleflow import files
from moleflow.cache.claim import WATCHED_S, exclusive
from orchestrator.driver.prepare import Options, Prepared, writable
from orchestrator.driver.trial_cost import expected_time
from orchestrator.host.command_line import arguments
from orchestrator.plan import listing
from orchestrator.records import dead_attempts, stop_requests, sweep_folder
from orchestrator.records.attempts import DIED, AttemptFolder, AttemptRecord
from orchestrator.results.detector_files import DETECTORS


def prepare_folder(prepared: Prepared, options: Options, console: Console) -> None:
    """Write the plan, clear old stop requests, record dead attempts, set damaged parts aside.

    Raises:
        InvalidInput: the folder cannot be written.
        OSError: the disk is full.

    """
    store, attempts = prepared.store, AttemptFolder(prepared.folder / "attempts")
    with writable(prepared.folder, "--out"):
        write_plan(prepared)
        with exclusive(prepared.folder / ".starting"):
            store.create()
            for folder in (prepared.folder, attempts.folder, prepared.folder / DETECTORS):
                files.remove_leftovers(folder)
            stop_requests.cancel_requests(prepared.folder).clear()
            stop_requests.prune_requests(prepared.folder).clear()
            died = _dead(attempts.all(), options, console)
            dead = dead_attempts.record_dead_attempts(attempts, store, died, dead_attempts.UNSEEN)
            recovered = store.recover()
    if not options.quiet:
        header = listing.plan_header(prepared.sweep, prepared.plan, prepared.inputs, prepared.folder)
        console.print("\n".join([*header, *listing.work_lines(expected_time(prepared, options))]))
    for damage in recovered.set_aside:
        moved = f"moved to {prepared.folder / 'damaged'}, its trials run again"
        console.print(f"damaged:  {damage.path}: {damage.reason}; {moved}")
    for path in recovered.doubled:
        console.print(f"repaired: {path.name}: held a second row of an attempt; moved to {prepared.folder / 'damaged'}")
    for record in dead:
        label = prepared.labels.get(record.trial_id, record.trial_id)
        console.print(
            f"died:     {label}, attempt {record.attempt}: {record.content.get('error') or dead_attempts.UNSEEN}"
        )


def write_plan(prepared: Prepared) -> None:
    """Write the plan into the results folder, as the latest one."""
    sweep_folder.write_sweep_folder(prepared.folder, folder_content(prepared), prepared.sweep.spec())


def folder_content(prepared: Prepared) -> sweep_folder.SweepFolder:
    """The content of sweep.json for a plan and the command that was typed."""
    sweep = prepared.sweep
    title = f"{sweep.name}: {sweep.question}" if sweep.question else sweep.name
    return sweep_folder.SweepFolder(
        name=sweep.name,
        title=f"{title} ({sweep.note})" if sweep.note else title,
        baseline=dict(sweep.baseline),
        trial_ids=tuple(trial.id for trial in prepared.trials),
        dataset=prepared.inputs.dataset.name,
        labels=prepared.labels,
        command=arguments(),
        typed_in=str(Path.cwd()),
        tabled=prepared.tabled,
        names=dict(prepared.names),
    )


def _dead(records: Sequence[AttemptRecord], options: Options, console: Console) -> list[AttemptRecord]:
    """Return the attempts whose process is gone, watching those of other hosts for a while.

    The SLURM backend records those of its jobs itself, after it has asked SLURM how they ended.
    """
    on_slurm = options.backend == "slurm"
    silent = [one for one in records if one.state == DIED and not (on_slurm and one.content.get("job"))]
    dead = [one for one in silent if one.has_died]
    if len(dead) < len(silent):
        hosts = ", ".join(sorted({str(one.content.get("host")) for one in silent if one not in dead}))
        console.print(
            f"waiting:  {WATCHED_S:.0f} s for a sign of life of {len(silent) - len(dead)} attempts on {hosts}"
        )
        time.sleep(WATCHED_S)
        dead = [one for one in silent if one.has_died]
    return dead
