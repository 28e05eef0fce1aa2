"""How many training steps each trial of a plan does itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.plan.cost_estimate import ImageCounts, task_steps
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.sweep.trial import Trial


def steps_to_train(
    trials: Sequence[Trial], images: Mapping[str, ImageCounts], there: Iterable[Trial] = ()
) -> dict[str, float]:
    """The training steps, by trial id, of the stages that no trial before it goes through.

    Args:
        trials: what is to run, in the plan's order: the first trial through a stage leads and trains it.
        images: by task.
        there: trials whose stages are trained already.

    """
    known = list(there)
    tree = stage_tree([*known, *trials])
    trained = {stage for trial in known for stage in tree.chains[trial.id]}
    own: dict[str, float] = {}
    for trial in trials:
        stages = zip(tree.chains[trial.id], trial.config.data.tasks, strict=True)
        own[trial.id] = float(sum(task_steps(trial.config, images[task]) for s, task in stages if s not in trained))
        trained.update(tree.chains[trial.id])
    return own
