"""The stages that the trials of a plan go through, and those that they share.

Pure: no files, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from moleflow.settings.config import REACHING, KnobGroup, TrialConfig
from moleflow.settings.task_list import classes_of_task
from orchestrator.sweep.trial import Trial


@dataclass(frozen=True)
class StageTree:
    """The distinct stages of some trials.

    Two trials share a stage if everything that reaches it is equal: the settings, the images, the
    weights and the seed, up to its task. Stage keys also contain the code digest and the numeric
    environment (`moleflow.cache.stages`); both are the same within a run.

    Attributes:
        chains: the stages of each trial by its id, in the order of the plan; first task first.
            Equal numbers are one stage. A stage's parent is the number before it.
        lane_mates: ids of the trials whose stages a trial may train in its lanes, by its id.

    """

    chains: Mapping[str, tuple[int, ...]]
    lane_mates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def trained_by(self, trial_id: str) -> tuple[int, ...]:
        """The stages that a trial trains if none is stored: its own and those of its lanes."""
        chains = [self.chains.get(of, ()) for of in (trial_id, *self.lane_mates.get(trial_id, ()))]
        return tuple(dict.fromkeys(stage for chain in chains for stage in chain))

    def after(self, trial_id: str) -> tuple[str, ...]:
        """The trial that trains the last stage shared with an earlier trial; empty without one."""
        first = [self._first_trial[stage] for stage in self.chains[trial_id]]
        return tuple([leader for leader in first if leader != trial_id][-1:])

    @cached_property
    def _first_trial(self) -> dict[int, str]:
        """The first trial through each stage; it trains the stage."""
        first: dict[int, str] = {}
        for trial_id in self.chains:
            for stage in self.trained_by(trial_id):
                first.setdefault(stage, trial_id)
        return first


def stage_tree(trials: Sequence[Trial]) -> StageTree:
    """The stages of some trials, given in the order of their plan."""
    reaches = _Reaches()
    stages: dict[tuple[int, tuple[int, ...], tuple[str, ...], str, int], int] = {}
    chains = {}
    for trial in trials:
        chain: list[int] = []
        config, inputs = trial.config, trial.inputs
        first, later = reaches.of(config)
        parent = -1
        for task in config.data.tasks:
            # Sorted, as a task's training images are: the order of its classes changes no stage.
            images = tuple(sorted([inputs.data[name] for name in classes_of_task(task)]))
            stage = (parent, later if chain else first, images, inputs.weights, config.seed)
            parent = stages.setdefault(stage, len(stages))
            chain.append(parent)
        chains[trial.id] = tuple(chain)
    return StageTree(chains, {trial.id: tuple(mate.id for mate in trial.lane_mates) for trial in trials})


class _Reaches:
    """Numbers for the settings that reach the training of a task; equal settings get equal numbers.

    `moleflow.settings.config.reach` works knob group by knob group, too. The variants of a sweep
    share most of their groups, so each group is looked at once.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[tuple[str, object], ...], int] = {}
        self._groups: dict[int, tuple[KnobGroup, int, int]] = {}

    def of(self, config: TrialConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A number for each knob group: as it reaches the first task, and a later one."""
        numbers = [self._of_group(name, getattr(config, name)) for name in REACHING["training"]]
        return tuple([first for _, first, _ in numbers]), tuple([later for _, _, later in numbers])

    def _of_group(self, name: str, group: KnobGroup) -> tuple[KnobGroup, int, int]:
        known = self._groups.get(id(group))
        if known is None:
            reaching = REACHING["training"][name]
            # The group is stored with its numbers: while it exists, no other object gets its id().
            known = group, self._number(reaching(group, False)), self._number(reaching(group, True))
            self._groups[id(group)] = known
        return known

    def _number(self, settings: Mapping[str, object]) -> int:
        return self._numbers.setdefault(tuple(settings.items()), len(self._numbers))
