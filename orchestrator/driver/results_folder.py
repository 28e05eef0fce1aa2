"""The results folder at the start of a run: plan, stop requests, dead attempts, damaged parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from moleflow.cache.claim import exclusive
from orchestrator.driver.prepare import Options, Prepared, expected_work, writable
from orchestrator.host.command_line import arguments
from orchestrator.plan import listing
from orchestrator.records import dead_attempts, stop_requests, sweep_folder
from orchestrator.records.attempts import DIED, RUNNING, AttemptFolder, AttemptRecord


def prepare_folder(prepared: Prepared, options: Options, console: Console) -> None:
    """Write the plan, clear old stop requests, record dead attempts, set damaged parts aside.

    Raises:
        InvalidInput: the folder cannot be written.
        OSError: the disk is full.

    """
    store, attempts = prepared.store, AttemptFolder(prepared.folder / "attempts")
    with writable(prepared.folder, "--out"):
        write_plan(prepared)
        # Exclusive: a second driver would take unfinished files of the first for a dead writer's.
        with exclusive(prepared.folder / ".starting"):
            store.create()
            stop_requests.cancel_requests(prepared.folder).clear()
            stop_requests.prune_requests(prepared.folder).clear()
            records = attempts.all()
            dead = dead_attempts.record_dead_attempts(attempts, store, _dead(records, options), dead_attempts.UNSEEN)
            running = any(record.state == RUNNING for record in records)
            # While a worker of another driver runs, a young unfinished part may be its own.
            recovered = store.recover() if running else store.recover(grace_seconds=0.0)
    if not options.quiet:
        header = listing.plan_header(prepared.sweep, prepared.plan, prepared.inputs, prepared.folder)
        console.print("\n".join([*header, *listing.work_lines(expected_work(prepared))]))
    for damage in recovered.set_aside:
        moved = f"moved to {prepared.folder / 'damaged'}, its trials run again"
        console.print(f"damaged:  {damage.path}: {damage.reason}; {moved}")
    for record in dead:
        label = prepared.labels.get(record.trial_id, record.trial_id)
        console.print(f"died:     {label}, attempt {record.attempt}: {dead_attempts.UNSEEN}")


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
    )


def _dead(records: Sequence[AttemptRecord], options: Options) -> list[AttemptRecord]:
    """Return the attempts whose process is gone.

    The SLURM backend records those of its jobs itself, after it has asked SLURM how they ended.
    """
    on_slurm = options.backend == "slurm"
    return [one for one in records if one.state == DIED and not (on_slurm and one.content.get("job"))]
