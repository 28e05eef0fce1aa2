"""The task sequence: train task after task, evaluate every seen task after each, hand over rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from moleflow.cache.checkpoints import StageCheckpointer
from moleflow.cache.claim import wait_for
from moleflow.cache.patch_scores import PatchScores
from moleflow.cache.protect_planned import stage_settings_digest
from moleflow.cache.stage_state import Checkpoint, Epoch, Stage, state_digest
from moleflow.cache.stages import ROOT, StageId, StageStore, stage_id
from moleflow.data.mvtec import Sample, TaskData
from moleflow.data.splits import Splits, choose_splits
from moleflow.environment import Environment
from moleflow.errors import InvalidInput
from moleflow.features.feature_cache import FeatureCache
from moleflow.features.weights import planned_weights
from moleflow.models.detector import Detector
from moleflow.settings.config import TrialConfig, digest
from moleflow.training.evaluation import METRIC_NAMES, Evaluation, TaskScores
from moleflow.training.kept_maps import KeptMap
from moleflow.training.train_task import Randomness, new_detector, train_task


class Observer(Protocol):
    """Who is told how a sequence goes on."""

    def on_features(self, done: int, total: int) -> None:
        """Backbone forwards of the set of images at hand."""

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        """An epoch of `task` ended."""

    def on_task(self, report: TaskReport) -> bool:
        """A task ended; False stops the sequence here."""


@dataclass(frozen=True)
class TaskReport:
    """One task boundary: R[i, j] rows for j <= i, the task's curves, and what it cost in seconds (spent here, and reused).

    Epochs that an earlier attempt trained before it was cut off are reused seconds of a task that is trained here.
    """

    task: int
    metrics: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    seconds_spent: float
    seconds_reused: float


@dataclass(frozen=True)
class SequenceResult:
    """A sequence that ended: per-image scores and a few small maps after its last task, digests, and facts about the model.

    `scores_digest` is over the test scores, or over those of validation where the test is not scored.
    """

    scores: list[dict[str, Any]]
    stopped: bool
    state_digest: str
    scores_digest: str
    parameters_per_task: list[int]
    lora_scaling: float
    flags: list[str] = field(default_factory=list)
    gallery: list[KeptMap] = field(default_factory=list)


@dataclass(frozen=True)
class SequenceContext:
    """Where a sequence finds images, features and stages, and computes; generated defects are kept in the folder `synthetic`.

    Attributes:
        weights: the identity that the backbone's weights have to have from the first task to the last; None = what they have at the start.
    """

    tasks: tuple[TaskData, ...]
    features: FeatureCache
    stages: StageStore
    environment: Environment
    synthetic: Path
    weights: str | None = None


def run_sequence(config: TrialConfig, place: SequenceContext, observer: Observer) -> SequenceResult:
    """Run one trial's whole sequence.

    Stages that are already stored are loaded, the others trained and stored, so a sequence that was cut off resumes after the last epoch
    that was stored, with the digits of an uninterrupted one.

    Raises:
        Diverged: training or scoring left the finite numbers.
        InvalidInput: the images and the configuration do not fit together, or the weights are not those that they have to be.
        OSError: a store cannot be written.
    """
    weights = planned_weights(config.backbone, place.weights)
    place = replace(place, weights=weights)
    detector: Detector | None = None
    parent = ROOT
    digests: list[str] = []
    lost: dict[str, list[set[str]]] = {}
    flags = config.flags()
    for task, data in enumerate(place.tasks):
        start = time.perf_counter()
        chosen = choose_splits(data, config.data, config.seed, place.synthetic)
        train, splits = chosen.train, chosen.scored
        training = place.features.get(config, place.environment, train, observer.on_features, weights)
        randomness = Randomness(config.seed, parent.lineage, task)
        if detector is None:
            detector = new_detector(config, training, randomness, place.environment.device)
            evaluations = {name: Evaluation(config, detector) for name in splits}
            lost = {name: [] for name in splits}
        detector.add_task(task, randomness)
        determined_by = parent, config, task, digest([s.digest for s in train]), weights, place.environment
        stage_key = stage_id(*determined_by)

        def train_now(
            progress: StageCheckpointer,
            detector: Detector = detector,
            task: int = task,
            features: Any = training,
            r: Randomness = randomness,
        ) -> Checkpoint:
            on_epoch = partial(observer.on_epoch, task)
            return train_task(detector, features, task, config, r, on_epoch, progress.start, progress.keep)

        facts = {"config": config.model_dump(), "task": data.name, "settings": stage_settings_digest(config, task)}
        obtained = _load_or_train(place.stages, stage_key, train_now, facts)
        stage, reused = obtained.stage, obtained.reused
        detector.load_task_state(task, stage.state)
        detector.requires_grad_(False).eval()
        digests.append(stage.state_digest)
        maps = PatchScores(place.stages.place(stage_key), digest(digests))
        for name, evaluation in evaluations.items():
            samples = splits[name]
            masks = _has_masks(config, data, name)
            evaluation.add_task(training, samples, masks, _loader(place, config, samples, observer), maps)
            lost[name].append(evaluation.vanished_masks(task))
        flags += _warnings(config, data, chosen, splits, set().union(*(of[task] for of in lost.values())))
        rows, scored = _evaluate(evaluations, place.tasks[: task + 1], lost, digest(digests))
        total = time.perf_counter() - start - obtained.seconds_waited
        report = TaskReport(
            task=task,
            metrics=rows,
            curves=[{"task": task, "task_name": data.name, "reused": reused} | asdict(epoch) for epoch in stage.epochs],
            seconds_spent=total,
            seconds_reused=obtained.seconds_reused,
        )
        for row in rows:
            row["seconds_spent"], row["seconds_reused"] = report.seconds_spent, report.seconds_reused
        go_on = observer.on_task(report)
        parent = stage_key
        last = task + 1 == len(place.tasks)
        if last or not go_on:
            return SequenceResult(
                scores=_score_rows(evaluations, place.tasks, scored),
                stopped=not last,
                state_digest=digest(digests),
                scores_digest=digest([scored[next(iter(scored))][j].digest for j in range(task + 1)]),
                parameters_per_task=[detector.count_parameters(t) for t in range(task + 1)],
                lora_scaling=config.lora.effective_scaling,
                flags=flags,
                gallery=[
                    kept for name, of in evaluations.items() for j in range(task + 1) for kept in of.gallery(j, name)
                ],
            )
    raise InvalidInput("data.tasks: given no task, but a sequence needs at least one")


@dataclass(frozen=True)
class _StageResult:
    """A stage, whether all of it was stored, what its stored epochs had cost, and seconds of waiting for another worker: no compute."""

    stage: Stage
    reused: bool
    seconds_reused: float
    seconds_waited: float


def _load_or_train(
    store: StageStore,
    key: StageId,
    train: Callable[[StageCheckpointer], Checkpoint],
    facts: dict[str, Any],
) -> _StageResult:
    """The stage `key`, from the store or trained here under a claim."""
    waited = 0.0
    while True:
        stored = store.load(key)
        if stored is not None:
            store.forget_maker(key)
            return _StageResult(stored, True, stored.seconds, waited)
        claim = store.claim(key)
        if claim is None:
            since = time.perf_counter()
            wait_for(lambda: False, store.claim_path(key))
            waited += time.perf_counter() - since
            continue
        with claim:
            stored = store.load(key)
            if stored is not None:
                return _StageResult(stored, True, stored.seconds, waited)
            start = time.perf_counter()
            with StageCheckpointer(store, key) as progress:
                trained = train(progress)
                earlier = sum(epoch.seconds for epoch in progress.start.epochs) if progress.start else 0.0
                seconds = earlier + time.perf_counter() - start
                stage = Stage(trained.state, trained.epochs, seconds, state_digest(trained.state))
                store.save(key, stage, facts)
            return _StageResult(stage, False, earlier, waited)


def _loader(
    place: SequenceContext, config: TrialConfig, samples: tuple[Sample, ...], observer: Observer
) -> Callable[[], Any]:
    return lambda: place.features.get(config, place.environment, samples, observer.on_features, place.weights)


def _has_masks(config: TrialConfig, data: TaskData, split: str) -> bool:
    """Whether pixel metrics can be taken of a split: generated defects have masks, whatever the class has."""
    of_validation = {"none": False, "synthetic": True, "real": data.has_masks}
    return data.has_masks if split == "test" else of_validation[config.data.validation_anomalies]


def _warnings(
    config: TrialConfig, data: TaskData, chosen: Splits, splits: dict[str, tuple[Sample, ...]], lost: set[str]
) -> list[str]:
    found = []
    anomalies = config.data.validation_anomalies
    if chosen.withheld:
        defective = sum(sample.label for sample in data.test)
        found.append(
            f"{data.name}: {chosen.withheld} of {defective} defective test images serve validation and are excluded from the test"
        )
    if lost:
        names = ", ".join(sorted(lost)[:3])
        found.append(
            f"{data.name}: {len(lost)} mask(s) vanish at {config.data.mask_size} px and keep their label: {names}"
        )
    for name, samples in splits.items():
        labels = {sample.label for sample in samples}
        if len(labels) < 2 and (name == "test" or anomalies != "none"):
            missing = "defective" if 0 in labels else "normal"
            found.append(f"{data.name}: no {missing} {name} images, so no AUROC")
    if not data.has_masks and ("test" in splits or anomalies == "real"):
        found.append(f"{data.name}: no masks, so no pixel metrics")
    if len(chosen.train) < config.training.batch_size:
        found.append(
            f"{data.name}: {len(chosen.train)} training images are fewer than batch_size {config.training.batch_size}: one batch of all"
        )
    return found


def _evaluate(
    evaluations: dict[str, Evaluation], tasks: tuple[TaskData, ...], lost: dict[str, list[set[str]]], states: str
) -> tuple[list[dict[str, Any]], dict[str, dict[int, TaskScores]]]:
    """The R[i, j] rows after the last of `tasks`, and the scores behind them by split and task."""
    after = len(tasks) - 1
    rows: list[dict[str, Any]] = []
    scored: dict[str, dict[int, TaskScores]] = {}
    for name, evaluation in evaluations.items():
        scored[name] = {}
        for j, data in enumerate(tasks):
            found = scored[name][j] = evaluation.evaluate(j)
            samples = evaluation.samples(j)
            rows.append(
                {
                    "split": name,
                    "after_task": after,
                    "after_task_name": tasks[after].name,
                    "task": j,
                    "task_name": data.name,
                    "n_images": len(samples),
                    "n_anomalous": sum(s.label for s in samples),
                    "n_masks": sum(s.mask is not None and s.name not in lost[name][j] for s in samples),
                    "routing_accuracy": found.routing_accuracy,
                    "normal_latent_norm": found.normal_latent_norm,
                    "state_digest": states,
                    "scores_digest": found.digest,
                }
                | {metric: getattr(found.metrics, metric) for metric in METRIC_NAMES}
                | {f"oracle_{metric}": getattr(found.oracle_metrics, metric) for metric in METRIC_NAMES}
            )
    return rows, scored


def _score_rows(
    evaluations: dict[str, Evaluation], tasks: tuple[TaskData, ...], scored: dict[str, dict[int, TaskScores]]
) -> list[dict[str, Any]]:
    return [
        {
            "split": name,
            "task": j,
            "task_name": tasks[j].name,
            "image": sample.name,
            "image_digest": sample.digest,
            "defect": sample.defect,
            "label": sample.label,
            "score": float(found.scores[n]),
            "oracle_score": float(found.oracle_scores[n]),
            "routed_task": int(found.routes[n]),
        }
        for name, by_task in scored.items()
        for j, found in by_task.items()
        for n, sample in enumerate(evaluations[name].samples(j))
    ]
