"""Which stages the trials of a plan go through, and which of them they share. Pure: no files, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from moleflow.config import REACHING, Section, TrialConfig
from orchestrator.trial import Trial

_MOST_GROUPS = 4096


@dataclass(frozen=True)
class Fewer:
    """A first task of fewer epochs than another one that differs from it in nothing else.

    Attributes:
        stage: its stage.
        epochs: how many it has.
        goes_on: whether the longer one is trained on from it; a cosine, which ends with the last epoch, does not allow that.

    """

    stage: int
    epochs: int
    goes_on: bool


@dataclass(frozen=True)
class StageTree:
    """The distinct stages of some trials.

    Two trials have a stage in common when they agree on everything that reaches it: the settings, the images, the weights and the
    seed, up to its task. Code and numeric environment are one run's, so they tell no two apart here; `moleflow.stages` chains them too.

    Attributes:
        chains: each trial's stages by its id, first task first; equal numbers are one stage, whose parent is the one before it. They
            stand in the order in which trials shall begin: the given one, but who can be gone on from before who goes on from it.
        fewer: of a first stage, the one that has the next fewer epochs and differs in nothing else, where there is one.

    """

    chains: Mapping[str, tuple[int, ...]]
    fewer: Mapping[int, Fewer] = field(default_factory=dict)

    @property
    def without_sharing(self) -> int:
        """How many stages the trials go through, each counted for every trial."""
        return sum(map(len, self.chains.values()))

    @property
    def distinct(self) -> int:
        """How many stages there are to train."""
        return len(self._first)

    def after(self, trial_id: str) -> tuple[str, ...]:
        """The trial that leads, if any.

        It is the first one that goes through the last stage that this one shares with any before it, or through what its own first stage
        goes on from.
        """
        chain = self.chains[trial_id]
        shared = [leader for leader in (self._first[stage] for stage in chain) if leader != trial_id]
        shorter = [self._first[stage] for stage in self.shorter(chain[0])]
        return (shared[-1],) if shared else tuple(shorter[:1])

    def shorter(self, stage: int) -> Iterator[int]:
        """The stages of fewer epochs that a stage can go on from, longest first."""
        while (before := self.fewer.get(stage)) is not None and before.goes_on:
            stage = before.stage
            yield stage

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
    lengths: dict[tuple[tuple[int, ...], str, str, int], dict[int, tuple[int, bool]]] = {}
    chains = {}
    for trial in trials:
        chain: list[int] = []
        config, reads = trial.config, trial.inputs
        first, later, but_epochs = reaches.of(config)
        parent = -1
        for task in config.data.tasks:
            stage = (parent, later if chain else first, reads.data[task], reads.weights, config.seed)
            parent = stages.setdefault(stage, len(stages))
            chain.append(parent)
        chains[trial.id] = tuple(chain)
        alike = (but_epochs, reads.data[config.data.tasks[0]], reads.weights, config.seed)
        goes_on = config.training.schedule == "constant"
        lengths.setdefault(alike, {})[config.training.epochs] = chain[0], goes_on
    fewer: dict[int, Fewer] = {}
    for of in lengths.values():
        for epochs, more in pairwise(sorted(of)):
            fewer[of[more][0]] = Fewer(of[epochs][0], epochs, of[epochs][1])
    return StageTree(_in_order(chains, fewer), fewer)


def _in_order(chains: dict[str, tuple[int, ...]], fewer: Mapping[int, Fewer]) -> dict[str, tuple[int, ...]]:
    """The chains with those of fewer epochs first, among those that go on from one another; no other one changes its place."""
    if not any(before.goes_on for before in fewer.values()):
        return chains
    tree, names = StageTree(chains, fewer), list(chains)
    ahead = [list(tree.shorter(chains[name][0])) for name in names]
    of_root: dict[int, list[int]] = {}
    for place, name in enumerate(names):
        of_root.setdefault(ahead[place][-1] if ahead[place] else chains[name][0], []).append(place)
    ordered = names.copy()
    for places in of_root.values():
        for place, taken in zip(places, sorted(places, key=lambda n: len(ahead[n])), strict=True):
            ordered[place] = names[taken]
    return {name: chains[name] for name in ordered}


class _Reaches:
    """What reaches the tasks of a configuration but its seed: of each group of knobs a number for each content.

    `moleflow.config.reach` is put together of the groups too. Random draws differ in some groups only: what those of the others come
    to is known by then.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._groups: dict[int, tuple[int, int, int, Section]] = {}

    def of(self, config: TrialConfig) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """What reaches the first task, what reaches each later one, and what reaches the first one but its epochs."""
        own, known = vars(config), self._groups
        groups = [known.get(id(own[name])) or self._of_group(name, own[name]) for name in REACHING["training"]]
        return tuple([of[0] for of in groups]), tuple([of[1] for of in groups]), tuple([of[2] for of in groups])

    def _of_group(self, name: str, group: Section) -> tuple[int, int, int, Section]:
        if len(self._groups) >= _MOST_GROUPS:  # Those that all trials share are soon there again.
            self._groups.clear()
        reached = [REACHING["training"][name](group, later) for later in (False, True)]
        first, later = map(self._number, reached)
        epochs = name == "training"
        but = self._number({knob: value for knob, value in reached[0].items() if knob != "epochs"}) if epochs else first
        # The group is kept beside its numbers, so that no other one can get its id().
        found = self._groups[id(group)] = first, later, but, group
        return found

    def _number(self, reached: Mapping[str, object]) -> int:
        knobs = self._numbers.setdefault(tuple(reached), len(self._numbers))
        return self._numbers.setdefault((knobs, *reached.values()), len(self._numbers))
