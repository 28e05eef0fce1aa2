"""The dry run: every distinct computation of a sweep, cut short, in this process and a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.inline import InlineBackend
from orchestrator.events import Event, Events
from orchestrator.results.store import ResultStore
from orchestrator.trial import Trial
from orchestrator.work import Setup, Source


def distinct(trials: Iterable[Trial]) -> list[Trial]:
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
        update={
            "train_images": min(max(2, batch), data.train_images or batch),
            "test_images": min(scored, data.test_images or scored),
        }
    )
    short = trial.config.model_copy(update={"data": data, "training": training.model_copy(update={"epochs": 1})})
    return replace(trial, config=short)


def rehearse(source: Source, setup: Setup, events: Events) -> None:
    """Run what the source has in a temporary folder with a temporary cache; nothing stays.

    Raises:
        OSError: the temporary folder cannot be written.

    """
    with tempfile.TemporaryDirectory(prefix="moleflow-dry-run-") as temporary:
        place = Path(temporary)
        ResultStore(place / "results").create()
        InlineBackend(replace(setup, folder=place / "results", cache=place / "cache")).run(
            source, _without_scores(events)
        )


def _without_scores(events: Events) -> Events:
    """One training step gives no score that anybody should see."""

    def tell(event: Event) -> None:
        events(replace(event, facts={name: fact for name, fact in event.facts.items() if name != "image_auroc"}))

    return tell
