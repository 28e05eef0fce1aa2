"""Which stages the trials of a plan go through, and which of them they share. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel

from moleflow.config import TrialConfig, canonical_json, reach
from orchestrator.trial import Trial


@dataclass(frozen=True)
class StageTree:
    """The distinct stages of some trials.

    Two trials have a stage in common when they agree on everything that reaches it: the settings, the images, the weights and the
    seed, up to its task. Code and numeric environment are one run's, so they tell no two apart here; `moleflow.stages` chains them too.

    Attributes:
        chains: each trial's stages by its id, first task first; equal numbers are one stage, whose parent is the one before it.

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
        """The trial that leads: the first one that goes through the last stage that this one shares with any before it, if any."""
        leaders = [self._first[stage] for stage in self.chains[trial_id]]
        shared = [leader for leader in leaders if leader != trial_id]
        return (shared[-1],) if shared else ()

    @cached_property
    def _first(self) -> dict[int, str]:
        """The first trial through each stage."""
        found: dict[int, str] = {}
        for trial_id, chain in self.chains.items():
            for stage in chain:
                found.setdefault(stage, trial_id)
        return found


def stage_tree(trials: Iterable[Trial]) -> StageTree:
    """The tree of some trials, in their order."""
    reaches = _Reaches()
    stages: dict[tuple[int, int, str, str, int], int] = {}
    chains = {}
    for trial in trials:
        chain: list[int] = []
        reads, seed = trial.inputs, trial.config.seed
        for task, settings in zip(trial.config.data.tasks, reaches.of(trial.config), strict=True):
            parent = chain[-1] if chain else -1
            stage = (parent, settings, reads.data[task], reads.weights, seed)
            chain.append(stages.setdefault(stage, len(stages)))
        chains[trial.id] = tuple(chain)
    return StageTree(chains)


class _Reaches:
    """What reaches each task of a configuration but its seed, as numbers; looked up once for all seeds of a variant."""

    def __init__(self) -> None:
        self._spelled: dict[str, int] = {}
        self._known: dict[tuple[object, ...], tuple[Sequence[int], TrialConfig]] = {}

    def of(self, config: TrialConfig) -> Sequence[int]:
        groups = tuple([id(v) if isinstance(v, BaseModel) else v for k, v in vars(config).items() if k != "seed"])
        found = self._known.get(groups)
        if found is None:
            spelled = [canonical_json(_without_seed(config, task)) for task in range(len(config.data.tasks))]
            settings = [self._spelled.setdefault(text, len(self._spelled)) for text in spelled]
            # The configuration is kept beside them, so that no other group can get the id() of one of its own.
            found = self._known[groups] = settings, config
        return found[0]


def _without_seed(config: TrialConfig, task: int) -> dict[str, object]:
    return {path: value for path, value in reach(config, "training", task).items() if path != "seed"}
