"""The task sequence: train task after task, and evaluate every seen class after each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from moleflow.cache.checkpoints import StageCheckpointer
from moleflow.cache.claim import wait_for
from moleflow.cache.patch_scores import PatchScores
from moleflow.cache.stage_state import Checkpoint, Epoch, Stage, state_digest
from moleflow.cache.stages import ROOT, StageId, StageStore, stage_id
from moleflow.data.copies import copies_notes
from moleflow.data.samples import Sample, TaskData, wide_masks_note
from moleflow.data.splits import Splits, choose_splits
from moleflow.data.value_range import narrow_values_note
from moleflow.environment import Environment
from moleflow.errors import InvalidInput
from moleflow.features.feature_cache import FeatureCache
from moleflow.features.weights import planned_weights
from moleflow.models.detector import Detector
from moleflow.models.memory_bank import MemoryBank
from moleflow.settings.config import TrialConfig, digest
from moleflow.settings.task_list import classes_of_task, task_name
from moleflow.training.evaluation import METRIC_NAMES, EvaluatedClass, Evaluation, FlowScorer, PatchScorer
from moleflow.training.kept_maps import KeptMap
from moleflow.training.lane_mates import LaneMates, LanePast, stage_facts
from moleflow.training.products import products_note
from moleflow.training.train_task import Randomness, TaskTraining, new_detector, train_task

Doing = Literal["training", "scoring", "waiting"]
# Trains a stage; returns its last checkpoint, and the seconds that other lanes took.
_Train = Callable[[StageCheckpointer], tuple[Checkpoint, float]]


class Observer(Protocol):
    """Receives the events of a sequence while it runs."""

    def on_features(self, done: int, total: int) -> None:
        """Receive how many images of the current set have passed through the backbone."""

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        """Receive an epoch of `task` that was trained here."""

    def on_step(self, doing: Doing) -> None:
        """Receive a sign of progress: a batch that is trained or scored, or a look while waiting.

        It comes many times a second. `waiting` means that another live worker trains the stage.
        """

    def on_task(self, report: TaskReport) -> bool:
        """Receive the report of a task that ended; return False to stop the sequence there."""


@dataclass(frozen=True)
class TaskReport:
    """The end of one task.

    Attributes:
        task: position in the sequence, from 0.
        metrics: rows R[i, j] for i = task and j <= i, one per split and class of each task j.
        curves: one row per epoch.
        seconds_spent: seconds spent here, without waiting for other workers.
        seconds_reused: seconds that earlier attempts or other trials spent on stored epochs.
    """

    task: int
    metrics: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    seconds_spent: float
    seconds_reused: float


@dataclass(frozen=True)
class SequenceResult:
    """A sequence that ended.

    Attributes:
        scores: one row per scored image, after the last task.
        stopped: true if the observer stopped the sequence before its last task.
        state_digest: digest of all tasks' trained states.
        scores_digest: digest of the test scores, or of the validation scores if the test is not
            scored.
        parameters_per_task: learned numbers that each task added, or numbers in its memory bank.
        lora_scaling: the number that multiplies B A x; None for a memory bank.
        flags: remarks for the reader of the results.
        gallery: small anomaly maps of a few images, after the last task.
    """

    scores: list[dict[str, Any]]
    stopped: bool
    state_digest: str
    scores_digest: str
    parameters_per_task: list[int]
    lora_scaling: float | None
    flags: list[str] = field(default_factory=list)
    gallery: list[KeptMap] = field(default_factory=list)


@dataclass(frozen=True)
class SequenceContext:
    """The inputs and stores of a sequence.

    Attributes:
        classes: the classes of all tasks, in the order in which they are learned.
        features: cache of backbone features.
        stages: store of trained tasks.
        environment: device and numeric environment.
        synthetic: folder of generated validation defects.
        weights: required identity of the backbone's weights; None takes the present one.
        lane_mates: variants that may train in the lanes beside this one.
    """

    classes: tuple[TaskData, ...]
    features: FeatureCache
    stages: StageStore
    environment: Environment
    synthetic: Path
    weights: str | None = None
    lane_mates: tuple[TrialConfig, ...] = ()


def run_sequence(config: TrialConfig, context: SequenceContext, observer: Observer) -> SequenceResult:
    """Run one trial's whole sequence.

    Stored stages are loaded, the others are trained and stored. An interrupted sequence resumes
    after the last stored epoch, with the digits of an uninterrupted one.

    Raises:
        Diverged: a loss or a score is not finite.
        InvalidInput: images and configuration do not fit together, or the weights have changed.
        OSError: a store cannot be written.
    """
    weights = planned_weights(config.backbone, context.weights)
    context = replace(context, weights=weights)
    detector: Detector | MemoryBank | None = None
    parent = ROOT
    mates = LaneMates(context.lane_mates, context.stages, context.environment, weights)
    learned: list[tuple[str, Randomness]] = []
    digests: list[str] = []
    vanished: dict[str, list[set[str]]] = {}
    flags = [*config.flags(), *copies_notes(context.classes)]
    if not config.bank.enabled and (note := products_note(config.training.products, context.environment)):
        flags.append(note)
    seen = 0
    for task, names in enumerate(map(classes_of_task, config.data.tasks)):
        start = time.perf_counter()
        classes = context.classes[seen : seen + len(names)]
        seen += len(names)
        chosen = [choose_splits(data, config.data, config.seed, context.synthetic) for data in classes]
        train = _union([of.train for of in chosen])
        training = context.features.get(config, context.environment, train, observer.on_features, weights)
        randomness = Randomness(config.seed, parent.lineage, task)
        if detector is None:
            detector, scorer = _new_model(config, training, randomness, context.environment.device)
            _report_passes(detector, observer)
            evaluations = {name: Evaluation(config, scorer) for name in chosen[0].scored}
            vanished = {name: [] for name in evaluations}
        if isinstance(detector, Detector):
            detector.add_task(task, randomness)
        name_of_task = task_name(names)
        images = digest([sample.digest for sample in train])
        learned.append((images, randomness))
        key = stage_id(parent, config, task, images, weights, context.environment)
        train_stage = _trainer(detector, training, task, config, randomness, observer)
        if config.training.lanes > 1 and isinstance(detector, Detector):
            past = LanePast([of for of, _ in learned], [of for _, of in learned], training)
            train_stage = _lane_trainer(detector, config, key, mates, past, observer)
        obtained = _load_or_train(context.stages, key, train_stage, stage_facts(config, task), observer)
        detector.load_task_state(task, obtained.stage.state)
        detector.requires_grad_(False).eval()
        digests.append(obtained.stage.state_digest)
        maps = PatchScores(context.stages.stage_folder(key), digest(digests), is_new=not obtained.reused)
        for evaluation in evaluations.values():
            evaluation.add_task(training, maps)
        for number, (data, of) in enumerate(zip(classes, chosen, strict=True), start=seen - len(names)):
            for name, evaluation in evaluations.items():
                samples = of.scored[name]
                masks = _has_masks(config, data, name)
                evaluation.add_class(data.name, samples, masks, _loader(context, config, samples, observer))
                vanished[name].append(evaluation.vanished_masks(number))
            lost = set().union(*(names_of[number] for names_of in vanished.values()))
            flags += _warnings(config, data, of, lost)
        if len(train) < config.training.batch_size and not config.bank.enabled:
            flags.append(
                f"{name_of_task}: {len(train)} training images are fewer than batch_size {config.training.batch_size}: "
                "one batch of all"
            )
        rows, scored = _evaluate(evaluations, context.classes[:seen], vanished, digest(digests), observer)
        spent, reused = time.perf_counter() - start - obtained.seconds_for_others, obtained.seconds_reused
        of_task = {"after_task": task, "after_task_name": name_of_task}
        for row in rows:
            row |= of_task | {"seconds_spent": spent, "seconds_reused": reused}
        curves = [
            {"task": task, "task_name": name_of_task, "reused": obtained.reused} | asdict(epoch)
            for epoch in obtained.stage.epochs
        ]
        proceed = observer.on_task(TaskReport(task, rows, curves, spent, reused))
        parent = key
        last = task + 1 == len(config.data.tasks)
        if last or not proceed:
            return SequenceResult(
                scores=_score_rows(evaluations, context.classes, scored),
                stopped=not last,
                state_digest=digest(digests),
                scores_digest=digest([scores.digest for scores in scored[next(iter(scored))]]),
                parameters_per_task=[detector.count_parameters(j) for j in range(task + 1)],
                lora_scaling=None if config.bank.enabled else config.lora.effective_scaling,
                flags=flags,
                gallery=[
                    kept
                    for name, evaluation in evaluations.items()
                    for number in range(seen)
                    for kept in evaluation.gallery(number, name)
                ],
            )
    raise InvalidInput("data.tasks: given no task, but a sequence needs at least one")


@dataclass(frozen=True)
class _StageResult:
    """A stage that was loaded or trained.

    Attributes:
        stage: the stage.
        reused: true if all of it was stored.
        seconds_reused: seconds that its stored epochs had taken.
        seconds_for_others: seconds of waiting for another worker, or of training in other lanes.
    """

    stage: Stage
    reused: bool
    seconds_reused: float
    seconds_for_others: float


def _new_model(
    config: TrialConfig, features: Tensor, randomness: Randomness, device: torch.device
) -> tuple[Detector | MemoryBank, PatchScorer]:
    """Return a model without any task, for features (N, H, W, D), and what scores patches by it."""
    if config.bank.enabled:
        bank = MemoryBank(config.bank, device)
        return bank, bank
    detector = new_detector(config, features, randomness, device)
    return detector, FlowScorer(config.scoring, detector)


def _trainer(
    detector: Detector | MemoryBank,
    features: Tensor,
    task: int,
    config: TrialConfig,
    randomness: Randomness,
    observer: Observer,
) -> _Train:
    """Return a function that trains `task` and checkpoints it, or fills its memory bank."""
    if isinstance(detector, MemoryBank):
        return lambda checkpointer: (Checkpoint((), detector.fill(features, randomness("bank")), {}), 0.0)
    on_epoch = partial(observer.on_epoch, task)

    def train(checkpointer: StageCheckpointer) -> tuple[Checkpoint, float]:
        started, keep = checkpointer.start, checkpointer.keep
        return train_task(detector, features, task, config, randomness, on_epoch, started, keep), 0.0

    return train


def _lane_trainer(
    detector: Detector, config: TrialConfig, key: StageId, mates: LaneMates, past: LanePast, observer: Observer
) -> _Train:
    """Return a function that trains the last task of `past` in lanes, beside other variants."""
    task = len(past.images) - 1
    on_epoch = partial(observer.on_epoch, task)

    def train(checkpointer: StageCheckpointer) -> tuple[Checkpoint, float]:
        detector.measure(task, past.features)
        features = past.features.to(detector.position.device)
        started, keep = checkpointer.start, checkpointer.keep
        own = TaskTraining(detector, features, task, config, past.randomness[-1], on_epoch, started, keep)
        return mates.train(own, key, past)

    return train


def _load_or_train(
    store: StageStore,
    key: StageId,
    train: _Train,
    facts: dict[str, Any],
    observer: Observer,
) -> _StageResult:
    """Load the stage `key`, or train and store it under a claim."""
    waited = 0.0
    while True:
        stored = store.load(key)
        if stored is not None:
            store.forget_maker(key)
            return _StageResult(stored, True, stored.seconds, waited)
        observer.on_step("training")
        claim = store.claim(key)
        if claim is None:
            # Another worker trains it. It may die, and then this one takes over.
            start = time.perf_counter()
            wait_for(lambda: _never(observer), store.claim_path(key))
            waited += time.perf_counter() - start
            continue
        with claim:
            # The stage may have been stored between the look above and the claim.
            stored = store.load(key)
            if stored is not None:
                return _StageResult(stored, True, stored.seconds, waited)
            start = time.perf_counter()
            with StageCheckpointer(store, key) as checkpointer:
                trained, for_others = train(checkpointer)
                earlier = sum(epoch.seconds for epoch in checkpointer.start.epochs) if checkpointer.start else 0.0
                seconds = earlier + time.perf_counter() - start - for_others
                stage = Stage(trained.state, trained.epochs, seconds, state_digest(trained.state))
                store.save(key, stage, facts, checkpointer.has_file)
            return _StageResult(stage, False, earlier, waited + for_others)


def _report_passes(detector: Module, observer: Observer) -> None:
    """Report each batch and each scored image that passes through the detector."""

    # A hook: a call in the code that trains or scores would change its digest, and with it every
    # stored stage.
    def report(model: Module, *_: object) -> None:
        observer.on_step("training" if model.training else "scoring")

    detector.register_forward_hook(report)


def _never(observer: Observer) -> bool:
    """Report a look while waiting; False: only the other worker's claim ends the wait."""
    observer.on_step("waiting")
    return False


def _loader(
    context: SequenceContext, config: TrialConfig, samples: tuple[Sample, ...], observer: Observer
) -> Callable[[], Tensor]:
    """Return a function that loads the features of `samples`."""
    return lambda: context.features.get(config, context.environment, samples, observer.on_features, context.weights)


def _has_masks(config: TrialConfig, data: TaskData, split: str) -> bool:
    """Return true if pixel metrics are defined for a split: generated defects always have masks."""
    of_validation = {"none": False, "synthetic": True, "real": data.has_masks}
    return data.has_masks if split == "test" else of_validation[config.data.validation_anomalies]


def _union(of_classes: list[tuple[Sample, ...]]) -> tuple[Sample, ...]:
    """Return the training images of a task's classes, several of them in the order of contents.

    So the order of a task's classes changes no batch.
    """
    if len(of_classes) == 1:
        return of_classes[0]
    return tuple(sorted((sample for samples in of_classes for sample in samples), key=lambda sample: sample.digest))


def _warnings(config: TrialConfig, data: TaskData, chosen: Splits, vanished: set[str]) -> list[str]:
    """Return the remarks on a class's images that a reader of its metrics needs."""
    warnings = []
    anomalies = config.data.validation_anomalies
    if chosen.withheld:
        defective = sum(sample.label for sample in data.test)
        warnings.append(
            f"{data.name}: {chosen.withheld} of {defective} defective test images serve validation and are excluded from the test"
        )
    if vanished:
        names = ", ".join(sorted(vanished)[:3])
        warnings.append(
            f"{data.name}: {len(vanished)} mask(s) vanish at {config.data.mask_size} px and keep their label: {names}"
        )
    for name, samples in chosen.scored.items():
        labels = {sample.label for sample in samples}
        if len(labels) < 2 and (name == "test" or anomalies != "none"):
            missing = "defective" if 0 in labels else "normal"
            warnings.append(f"{data.name}: no {missing} {name} images, so no image metrics")
    real_masks = "test" in chosen.scored or anomalies == "real"
    if real_masks and not data.has_masks:
        warnings.append(f"{data.name}: no masks, so no pixel metrics")
    if real_masks and data.wide_masks:
        warnings.append(wide_masks_note(data.name, data.wide_masks, sum(s.mask is not None for s in data.test)))
    if config.data.value_range == "full" and (narrow := narrow_values_note(data)):
        warnings.append(narrow)
    return warnings


def _evaluate(
    evaluations: dict[str, Evaluation],
    classes: tuple[TaskData, ...],
    vanished: dict[str, list[set[str]]],
    states: str,
    observer: Observer,
) -> tuple[list[dict[str, Any]], dict[str, list[EvaluatedClass]]]:
    """Return the rows R[i, j] of all classes seen, and their scores by split, in that order."""
    rows: list[dict[str, Any]] = []
    scored: dict[str, list[EvaluatedClass]] = {}
    for name, evaluation in evaluations.items():
        scored[name] = []
        for number, data in enumerate(classes):
            scores = evaluation.evaluate(number)
            scored[name].append(scores)
            observer.on_step("scoring")
            samples = evaluation.samples(number)
            rows.append(
                {
                    "split": name,
                    "task": scores.task,
                    "task_name": data.name,
                    "n_images": len(samples),
                    "n_anomalous": sum(s.label for s in samples),
                    "n_masks": sum(s.mask is not None and s.name not in vanished[name][number] for s in samples),
                    "routing_accuracy": scores.routing_accuracy,
                    "normal_latent_norm": scores.normal_latent_norm,
                    "state_digest": states,
                    "scores_digest": scores.digest,
                }
                | {metric: getattr(scores.metrics, metric) for metric in METRIC_NAMES}
                | {f"oracle_{metric}": getattr(scores.oracle_metrics, metric) for metric in METRIC_NAMES}
            )
    return rows, scored


def _score_rows(
    evaluations: dict[str, Evaluation], classes: tuple[TaskData, ...], scored: dict[str, list[EvaluatedClass]]
) -> list[dict[str, Any]]:
    """Return one row per scored image."""
    return [
        {
            "split": name,
            "task": scores.task,
            "task_name": classes[number].name,
            "image": sample.name,
            "image_digest": sample.digest,
            "defect": sample.defect,
            "label": sample.label,
            "score": float(scores.scores[n]),
            "oracle_score": float(scores.oracle_scores[n]),
            "routed_task": int(scores.routes[n]),
        }
        for name, of_split in scored.items()
        for number, scores in enumerate(of_split)
        for n, sample in enumerate(evaluations[name].samples(number))
    ]
