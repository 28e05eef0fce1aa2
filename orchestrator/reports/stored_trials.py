"""The trials of a results folder, finished or not, each with the attempt that tells its state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moleflow.settings.knob_history import values_before_knob_existed
from moleflow.settings.task_list import classes_in_order
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.reports.final_metrics import FinalMetrics, final_metrics
from orchestrator.reports.finished_trials import flatten_settings
from orchestrator.results.schema import FINISHED, rows_of
from orchestrator.results.store import ResultStore
from orchestrator.sweep.trial import label

NOT_RUN = "not run"
"""The state of a trial of which no attempt has ended."""
DIGESTS = "data_digests"
_SEED = " seed="


@dataclass(frozen=True)
class StoredTrial:
    """One trial of a results folder.

    Attributes:
        variant: the settings that the sweep varies, in one line.
        seed: None for a trial that has not run and has no label.
        state: how its attempt ended, or NOT_RUN.
        attempt: the row of the finished attempt that counts, else of the latest one; empty if no
            attempt has ended.
        settings: {dotted path: value} of its configuration, without the seed; empty likewise. The
            digests of its images are `data_digests.CLASS`.
        metrics: {split: metrics after the final task} of that attempt.
    """

    trial_id: str
    variant: str
    seed: int | None
    state: str = NOT_RUN
    attempt: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, FinalMetrics] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The variant and the seed in one line, such as `focal_gamma=2 seed=0`."""
        return self.variant if self.seed is None else f"{self.variant}{_SEED}{self.seed}"


def stored_trials(
    store: ResultStore, sweep: SweepFolder, splits: Sequence[str] = ("test",), everything: bool = False
) -> list[StoredTrial]:
    """Return the trials of a results folder, in the order of the plan.

    Args:
        store: the results.
        sweep: its latest plan.
        splits: test, validation or both: the images of `metrics`.
        everything: also the stored trials that are not in the plan, behind the others.

    Raises:
        InvalidInput: there is no store in the folder.
    """
    attempts = _deciding_attempts(store)
    by_split = {split: final_metrics(store, split) for split in splits}
    others = sorted(attempts.keys() - set(sweep.trial_ids)) if everything else []
    found = []
    for trial_id in (*sweep.trial_ids, *others):
        row = attempts.get(trial_id)
        if row is None:
            found.append(StoredTrial(trial_id, *_split_name(sweep.labels.get(trial_id, trial_id))))
            continue
        key = trial_id, row["attempt"]
        metrics = {split: of[key] for split, of in by_split.items() if key in of}
        variant = _split_name(sweep.labels.get(trial_id, ""))[0] or label(json.loads(row["factors"]))
        settings = trial_settings(row["config"])
        found.append(StoredTrial(trial_id, variant, row["seed"], row["status"], row, settings, metrics))
    return found


def trial_settings(config: str) -> dict[str, object]:
    """Return a stored configuration as {dotted path: value}, without the seed.

    Knobs that were added after it was stored have the value that it had without them.
    """
    content = json.loads(config)
    if isinstance(digests := content.get(DIGESTS), list):
        content[DIGESTS] = dict(zip(classes_in_order(content["data"]["tasks"]), digests, strict=True))
    settings = values_before_knob_existed() | flatten_settings(content)
    settings.pop("seed", None)
    return settings


def _deciding_attempts(store: ResultStore) -> dict[str, dict[str, Any]]:
    """Return for each trial the finished attempt that counts, or else its latest attempt."""
    rows = sorted(rows_of(store.read("attempts")), key=lambda row: (row["status"] == FINISHED, row["attempt"]))
    return {row["trial_id"]: row for row in rows}


def _split_name(name: str) -> tuple[str, int | None]:
    """Return the variant and the seed of a label such as `focal_gamma=2 seed=0`."""
    variant, found, seed = name.rpartition(_SEED)
    return (variant, int(seed)) if found and seed.isdecimal() else (name, None)
