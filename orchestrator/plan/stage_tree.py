"""Which stages the trials of a plan go through, and which of them they share. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from moleflow.settings.config import REACHING, KnobGroup, TrialConfig
from orchestrator.sweep.trial import Trial

_MOST_GROUPS = 4096


@dataclass(frozen=True)
class StageTree:
    """The distinct stages of some trials.

    Two trials have a stage in common when they agree on everything that reaches it: the settings, the images, the weights and the
    seed, up to its task. Code and numeric environment are one run's, so they tell no two apart here; `moleflow.cache.stages` chains them too.

    Attributes:
        chains: each trial's stages by its id, first task first; equal numbers are one stage, whose parent is the one before it. They
            are in the plan's order.

    """

    chains: Mapping[str, tuple[int, ...]]

    @property
    def without_sharing(self) -> int:
        """How many stages the trials go through, each counted for every trial."""
        return sum(map(len, self.chains.values()))

    @property
    def distinct(self) -> int:
        """How many stages there are to train."""
        return len(self._first)

    def after(self, trial_id: str) -> tuple[str, ...]:
        """The trial that trains the last stage this one shares with any earlier trial; empty if there is none."""
        shared = [leader for leader in (self._first[stage] for stage in self.chains[trial_id]) if leader != trial_id]
        return tuple(shared[-1:])

    @cached_property
    def _first(self) -> dict[int, str]:
        """The first trial through each stage."""
        found: dict[int, str] = {}
        for trial_id, chain in self.chains.items():
            for stage in chain:
                found.setdefault(stage, trial_id)
        return found


def stage_tree(trials: Iterable[Trial]) -> StageTree:
    """The tree of some trials, which are given in the order of their plan."""
    reaches = _Reaches()
    stages: dict[tuple[int, tuple[int, ...], str, str, int], int] = {}
    chains = {}
    for trial in trials:
        chain: list[int] = []
        config, reads = trial.config, trial.inputs
        first, later = reaches.of(config)
        parent = -1
        for task in config.data.tasks:
            stage = (parent, later if chain else first, reads.data[task], reads.weights, config.seed)
            parent = stages.setdefault(stage, len(stages))
            chain.append(parent)
        chains[trial.id] = tuple(chain)
    return StageTree(chains)


class _Reaches:
    """What reaches the tasks of a configuration but its seed: of each group of knobs a number for each content.

    `moleflow.settings.config.reach` is put together of the groups too. Random draws differ in some groups only: what those of the others come
    to is known by then.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._groups: dict[int, tuple[int, int, KnobGroup]] = {}

    def of(self, config: TrialConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Numbers for what reaches the first task, and for what reaches each later one."""
        own, known = vars(config), self._groups
        groups = [known.get(id(own[name])) or self._of_group(name, own[name]) for name in REACHING["training"]]
        return tuple([of[0] for of in groups]), tuple([of[1] for of in groups])

    def _of_group(self, name: str, group: KnobGroup) -> tuple[int, int, KnobGroup]:
        if len(self._groups) >= _MOST_GROUPS:  # Those that all trials share are soon there again.
            self._groups.clear()
        first, later = (self._number(REACHING["training"][name](group, later)) for later in (False, True))
        # The group is kept beside its numbers, so that no other one can get its id().
        found = self._groups[id(group)] = first, later, group
        return found

    def _number(self, reached: Mapping[str, object]) -> int:
        knobs = self._numbers.setdefault(tuple(reached), len(self._numbers))
        return self._numbers.setdefault((knobs, *reached.values()), len(self._numbers))
