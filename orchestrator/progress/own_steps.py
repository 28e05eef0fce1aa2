"""How many training steps each trial of a plan does itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.savings import Images, steps
from orchestrator.stage_tree import stage_tree
from orchestrator.trial import Trial


def own_steps(trials: Sequence[Trial], images: Mapping[str, Images], there: Iterable[Trial] = ()) -> dict[str, float]:
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
        own[trial.id] = float(sum(steps(trial.config, images[task]) for stage, task in stages if stage not in trained))
        trained.update(tree.chains[trial.id])
    return own
