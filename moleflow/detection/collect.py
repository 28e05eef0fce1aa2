"""The trained detector of a sequence that has ended, collected from its stored stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moleflow.cache.stages import ROOT, stage_id
from moleflow.code_digest import code_digest
from moleflow.data.splits import choose_splits
from moleflow.data.value_range import value_range_of
from moleflow.detection.detector_file import FORMAT, DetectorHeader, HeldOutScore, StoredDetector, router_digest
from moleflow.errors import Damaged
from moleflow.features.feature_cache import Report
from moleflow.features.weights import planned_weights
from moleflow.models.router import fit_gaussian
from moleflow.settings.config import TrialConfig, digest
from moleflow.settings.task_list import classes_of_task, task_name

# Called as they are: a second copy could differ from the code whose digits a detector repeats, and
# a public name would change the digest of that code.
from moleflow.training.evaluation import _pooled
from moleflow.training.sequence import SequenceContext, _union


def collect_detector(
    config: TrialConfig,
    context: SequenceContext,
    scores: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    report: Report | None = None,
) -> StoredDetector:
    """Return the detector of a sequence that `run_sequence` has just run in this context.

    Args:
        config: the trial.
        context: the inputs and stores of the sequence.
        scores: the score rows of its result.
        names: texts for readers of the file.
        report: called with (features stored, features needed) of each task.

    Raises:
        Damaged: a stage is no longer in the cache.
        InvalidInput: the images or the weights have changed since.
    """
    weights = planned_weights(config.backbone, context.weights)
    parent, seen = ROOT, 0
    states, digests, gaussians, trained_on = [], [], [], []
    shape = (0, 0, 0)
    for task, of_task in enumerate(map(classes_of_task, config.data.tasks)):
        classes = context.classes[seen : seen + len(of_task)]
        seen += len(of_task)
        chosen = [choose_splits(data, config.data, config.seed, context.synthetic) for data in classes]
        train = _union([of.train for of in chosen])
        training = context.features.get(config, context.environment, train, report, weights)
        key = stage_id(parent, config, task, digest([s.digest for s in train]), weights, context.environment)
        stage = context.stages.load(key)
        if stage is None:
            raise Damaged(
                f"the trained stage of {task_name(of_task)} left the cache before its detector was kept; run the trial "
                "again, with more room in the cache"
            )
        states.append(stage.state)
        digests.append(stage.state_digest)
        gaussians.append(fit_gaussian(_pooled(training), config.router))
        shape = (training.shape[1], training.shape[2], training.shape[3])
        trained_on += [sample.digest for sample in train]
        parent = key
    header = DetectorHeader(
        format=FORMAT,
        names=dict(names),
        config=config.model_dump(mode="json"),
        weights=weights,
        environment=context.environment.key(),
        code=code_of(config),
        shape=shape,
        value_ranges={data.name: value_range_of(data, config.data) for data in context.classes},
        held_out=_held_out(scores),
        states=tuple(digests),
        state_digest=digest(digests),
        router_digest=router_digest(gaussians),
        trained_on=tuple(trained_on),
        defective=tuple(sample.digest for data in context.classes for sample in data.test if sample.label),
    )
    return StoredDetector(header, tuple(states), tuple(gaussians))


def code_of(config: TrialConfig) -> dict[str, str]:
    """Return the digests of the code that decides the scores of a trained detector, by phase."""
    model = "bank" if config.bank.enabled else "training"
    return {"features": code_digest("features"), model: code_digest(model), "scoring": code_digest("scoring")}


def _held_out(rows: Sequence[Mapping[str, Any]]) -> tuple[HeldOutScore, ...]:
    """Return the scores of the normal validation images."""
    return tuple(
        HeldOutScore(
            class_name=row["task_name"], image=row["image"], score=row["score"], routed_task=row["routed_task"]
        )
        for row in rows
        if row["split"] == "validation" and row["label"] == 0
    )
