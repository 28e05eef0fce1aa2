"""Stored detectors at the end of a run: those that `keep` asks for stay, the others go."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from moleflow import files
from moleflow.errors import counted
from orchestrator.detectors.choice import BestVariant, best_variant
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.results.detector_files import DETECTORS, mark_removed, removed_detectors, stored_detectors
from orchestrator.results.schema import FINISHED
from orchestrator.results.store import ResultStore


def retain_detectors(store: ResultStore, sweep: SweepFolder, keep: Literal["best", "all"], complete: bool) -> list[str]:
    """Remove the detectors that are not kept, and return lines about those that are.

    An attempt that did not finish, or does not count, loses its detector. With `best`, so does
    every trial of the plan that is not of the best variant, once all trials are finished: until
    then any variant may become the best. Trials of an earlier plan keep theirs, and are counted
    apart. A detector without a stored attempt may belong to a running one, so it stays.

    Args:
        store: the results, scanned after the last trial ended.
        sweep: the plan.
        keep: the sweep's `keep`.
        complete: true if all trials of the plan are finished.
    """
    folder = store.folder
    stored = stored_detectors(folder)
    if not stored:
        return [f"detectors: none is stored, since all trials finished before `keep: {keep}` was set"]
    counted_attempts = {(trial, of.attempt) for trial, of in store.finished().items()}
    ended = store.statuses()
    unwanted = {key for key in stored if key in ended and (ended[key] != FINISHED or key not in counted_attempts)}
    best = best_variant(store, sweep) if keep == "best" and complete else None
    if best is not None:
        members = {trial.trial_id for trial in best.variant.trials}
        unwanted |= {
            key for key in stored.keys() & counted_attempts if key[0] in sweep.trial_ids and key[0] not in members
        }
    for key in unwanted:
        with contextlib.suppress(OSError):  # It goes at the next end of a run.
            if key in counted_attempts:
                mark_removed(stored[key])
            files.remove(stored[key])
    kept = {trial for trial, attempt in stored.keys() - unwanted if (trial, attempt) in counted_attempts}
    planned = kept & set(sweep.trial_ids)
    text = _kept_text(len(planned), best, keep, complete)
    text += f"; {len(kept - planned)} of trials of an earlier plan" if kept - planned else ""
    lines = [f"detectors: {folder / DETECTORS} ({text})"]
    wanted = [one.trial_id for one in best.variant.trials] if best else list(sweep.trial_ids) if keep == "all" else []
    return lines + (_missing_lines(folder, set(wanted) - kept, keep) if complete else [])


def _missing_lines(folder: Path, missing: Collection[str], keep: str) -> list[str]:
    """Return lines about wanted trials without a detector: the reason, and how to get one."""
    if not missing:
        return []
    removed = len({trial for trial, _ in removed_detectors(folder)} & set(missing))
    counts = {
        "removed while another variant was the best; `keep: all` removes none": removed,
        f"finished before `keep: {keep}` was set{', or an earlier version removed theirs' * (keep == 'best')}": (
            len(missing) - removed
        ),
    }
    return [
        *(f"           {counted(number, 'trial')} without one: {why}" for why, number in counts.items() if number),
        "           to get them, run the sweep into another folder (--out); tasks in the cache are not trained again",
    ]


def _kept_text(number: int, best: BestVariant | None, keep: str, complete: bool) -> str:
    if best is not None:
        return f"{number} of the best variant, {best.variant.label}, by {best.split} images"
    if keep == "best":
        why = (
            "no trial has an image AUROC to choose by"
            if complete
            else "the best variant is chosen once all have finished"
        )
        return f"{number}; {why}"
    return f"{number}, of every trial"
