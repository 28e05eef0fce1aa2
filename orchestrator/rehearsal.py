"""The dry run: every distinct computation of a sweep, cut short, in this process and a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.inline import InlineBackend
from orchestrator.events import Event, Events
from orchestrator.results.store import ResultStore
from orchestrator.runner import Tally, TrialSource
from orchestrator.search import PlannedTrials
from orchestrator.sweep_file import Resources
from orchestrator.trial import Trial
from orchestrator.work import Setup


def distinct(trials: list[Trial]) -> list[Trial]:
    """One trial of each configuration: seeds change numbers, not shapes, so the first seed stands for all."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(trial.config.model_copy(update={"seed": 0}).model_dump_json(), trial)
    return list(found.values())


def cut_short(trial: Trial) -> Trial:
    """The same trial at real shapes with one training step a task and one scored batch."""
    data, training = trial.config.data, trial.config.training
    batch = training.batch_size
    scored = max(2, batch)
    data = data.model_copy(
        update={"train_images": min(max(2, batch), data.train_images or batch), "test_images": min(scored, data.test_images or scored)}
    )
    short = trial.config.model_copy(update={"data": data, "training": training.model_copy(update={"epochs": 1})})
    return replace(trial, config=short)


def rehearse(trials: list[Trial], setup: Setup, show: Callable[[Tally], Events]) -> Tally:
    """Run the trials as `cut_short` makes them; nothing stays.

    Args:
        trials: what to run.
        setup: as for a run; its folder and cache are replaced by temporary ones.
        show: makes of the tally what else hears of each event.

    Raises:
        OSError: the temporary folder cannot be written.

    """
    source = TrialSource(PlannedTrials([cut_short(trial) for trial in trials]), Resources(), retries=0)
    watch = show(source.tally)

    def tell(event: Event) -> None:
        source.events(event)
        watch(event)

    with tempfile.TemporaryDirectory(prefix="moleflow-dry-run-") as temporary:
        place = Path(temporary)
        ResultStore(place / "results").create()
        InlineBackend(replace(setup, folder=place / "results", cache=place / "cache")).run(source, tell)
    return source.tally
