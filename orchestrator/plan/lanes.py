"""The groups of trials that train as lanes of one batched flow (`training.lanes`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from moleflow.settings.config import TrialConfig, digest, reach
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.sweep.trial import Trial

OF_A_LANE = frozenset(
    f"training.{knob}"
    for knob in (
        "epochs",
        "learning_rate",
        "optimizer",
        "weight_decay",
        "schedule",
        "final_fraction",
        "warmup_epochs",
        "schedule_by",
        "gradient_clip",
        "stop_at_nll",
    )
) | {"lora.alpha", "lora.scaling"}
"""The knobs in which lanes may differ, beside all of the group `loss`: none of them gives a tensor
another shape, or an image another place."""


def has_lanes(trial: Trial) -> bool:
    """True if a trial trains in lanes; a memory bank does not train."""
    return trial.config.training.lanes > 1 and not trial.config.bank.enabled


def with_lane_mates(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, each with those that share its lanes.

    Trials of one seed that differ in `OF_A_LANE` and the loss alone are grouped in the order of the
    plan, `training.lanes` at a time. Trials that train the same stages count as one.
    """
    if not any(has_lanes(trial) for trial in trials):
        return list(trials)
    chains = stage_tree(trials).chains
    first: dict[tuple[int, ...], Trial] = {}
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if has_lanes(trial) and chains[trial.id] not in first:
            first[chains[trial.id]] = trial
            groups.setdefault(_shared(trial.config), []).append(trial)
    fellows = {one.id: group for of_shape in groups.values() for group in _lanes(of_shape) for one in group}
    return [_with_mates(trial, first.get(chains[trial.id]), fellows) for trial in trials]


def _lanes(trials: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
    lanes = trials[0].config.training.lanes
    return (trials[n : n + lanes] for n in range(0, len(trials), lanes))


def _with_mates(trial: Trial, stands_for: Trial | None, fellows: Mapping[str, Sequence[Trial]]) -> Trial:
    if stands_for is None:
        return trial
    mates = tuple(mate for mate in fellows[stands_for.id] if mate is not stands_for)
    return replace(trial, lane_mates=mates)


def _shared(config: TrialConfig) -> str:
    """Return a digest of what all lanes have in common."""
    settings = [reach(config, "training", position) for position in (0, 1)]
    common = [{k: v for k, v in of.items() if k not in OF_A_LANE and not k.startswith("loss.")} for of in settings]
    return digest([config.data.tasks, *common])
