"""Trials that cost nothing: the project's worker with a sequence that trains and scores nothing,
for benchmarks of all the rest.

Everything around the sequence is real: claims, records, events, rows checked against the schema,
parts.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow.settings.config import TrialConfig
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.execution.backend import WorkerConfig
from orchestrator.records.events import Events
from orchestrator.results.schema import COMMON
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:  # They load torch, which a plan does without.
    from moleflow.training.sequence import SequenceResult
    from orchestrator.execution.worker import Worker

DEMO = {"extends": "demo", "data": {"tasks": ["leather", "grid"], "train_images": 8, "test_images": 8}}

CACHE = Path(tempfile.gettempdir()) / "moleflow-overhead-cache"
COMMON_NAMES = tuple(column.name for column in COMMON)


def metric_row(task: int, after_task: int, names: tuple[str, ...], value: float) -> dict[str, Any]:
    """A row of R[after_task, task] in which every metric is `value`."""
    metrics = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
    return {
        "split": "test",
        "after_task": after_task,
        "task": task,
        "task_name": names[task],
        "after_task_name": names[after_task],
        "n_images": 8,
        "n_anomalous": 4,
        "n_masks": 4,
        "routing_accuracy": 1.0,
        **dict.fromkeys(metrics, value),
        **{f"oracle_{name}": value for name in metrics},
        "normal_latent_norm": 1.0,
        "state_digest": f"state of {value}",
        "scores_digest": f"scores of {value}",
        "seconds_spent": 1.0,
        "seconds_reused": 0.0,
    }


def score_rows(names: tuple[str, ...], value: float) -> list[dict[str, Any]]:
    """Rows of the image scores: eight images a task."""
    return [
        {
            "split": "test",
            "task": task,
            "task_name": name,
            "image": f"{name}/test/{k}.png",
            "image_digest": f"{name} {k}",
            "defect": "good" if k % 2 else "hole",
            "label": 1 - k % 2,
            "score": value + k,
            "oracle_score": value + k,
            "routed_task": task,
        }
        for task, name in enumerate(names)
        for k in range(8)
    ]


def _sequence(config: TrialConfig, _place: object, told: Any) -> SequenceResult:
    """Rows of a trial that was not run; they follow from its seed."""
    from moleflow.training.sequence import SequenceResult, TaskReport

    names = config.data.tasks
    value = 0.5 + (config.seed % 1000) / 2000
    for task in range(len(names)):
        told.on_task(
            TaskReport(task, [metric_row(earlier, task, names, value) for earlier in range(task + 1)], [], 1.0, 0.0)
        )
    return SequenceResult(
        score_rows(names, value), False, f"state of {value}", f"scores of {value}", [10] * len(names), 0.5
    )


def make_worker(setup: WorkerConfig, events: Events) -> Worker:
    """The project's worker, in this process, with that sequence."""
    from orchestrator.execution import worker

    vars(worker)["run_sequence"] = _sequence
    return worker.Worker(setup, events)


def attempt_row(of: Worker, trial: Trial) -> dict[str, Any]:
    """The row of a finished attempt at a trial, the first."""
    from orchestrator.execution.attempt_row import first_row

    now = datetime.now(UTC)
    own = {"attempt": 1, "status": "finished", "started_at": now, "ended_at": now, "seconds_spent": 1.0}
    digests = {"state_digest": f"state of {trial.id}", "scores_digest": f"scores of {trial.id}"}
    return first_row(of.setup, of.environment, trial) | own | digests


def prepared_sweep(place: Path, variants: int, seeds: int) -> tuple[Prepared, Options]:
    """A sweep of `variants` learning rates and `seeds` seeds on the embedded images, with results
    in `place`.
    """
    rates = [round(1e-4 + k * 1e-7, 9) for k in range(variants)]
    document = {"name": "overhead", "version": "v3", "base": DEMO, "seeds": seeds, "grid": {"learning_rate": rates}}
    sweep = make_sweep(document, "the benchmark", place, data_root=None, environment={})
    options = Options(out=place / "results", cache=CACHE, yes=True, quiet=True)
    return prepare(sweep, options), options
