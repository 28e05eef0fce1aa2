"""The trial: one configuration, one seed and the files it reads, which together give its id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel

from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs, TrialConfig, canonical_json, digest
from moleflow.settings.knob_history import ADDED
from moleflow.settings.knobs import short_names


@dataclass(frozen=True)
class Inputs:
    """The files that a trial reads, named by their content.

    Attributes:
        data: {task: digest of its images and masks}; it may hold more tasks than the trial has.
        weights: the digest or release of the backbone's weights.
        dataset: the name of the images in reports, such as `embedded (generated)`; in no id.

    """

    data: Mapping[str, str]
    weights: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration and one seed.

    Attributes:
        id: 12 hex digits; see `trial_id`.
        config: the configuration, with its seed.
        factors: {knob: value} of the varied knobs, without the seed.
        inputs: the files that it reads.

    """

    id: str
    config: TrialConfig
    factors: Mapping[str, Any]
    inputs: Inputs

    @property
    def label(self) -> str:
        """A name for readers, such as `v7 focal_gamma=2 seed=0`."""
        return label({**self.factors, "seed": self.config.seed})


def identity(config: TrialConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the data of a trial's id: the configuration, with contents in place of paths.

    Returns:
        The configuration's settings, with the weights' digest as `backbone.weights`, and
        `data_digests` in task order. A knob that was added after the first results
        (`moleflow.settings.knob_history`) is left out at the value that it had before.

    Raises:
        InvalidInput: a task without a digest.

    """
    settings = config.model_dump()
    settings |= {group: _without_added_knobs(group, settings[group]) for group in ADDED}
    settings["backbone"]["weights"] = inputs.weights
    settings["data_digests"] = _data_digests(config.data.tasks, inputs)
    return settings


def trial_id(identity: Mapping[str, Any]) -> str:
    """Return the first 12 hex digits of the SHA-256 of the identity's canonical JSON."""
    return digest(identity)[:12]


def _without_added_knobs(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group without added knobs at their defaults, so that earlier ids stay."""
    added = ADDED.get(group, {})
    return {name: value for name, value in settings.items() if name not in added or value != added[name]}


def _data_digests(tasks: Sequence[str], inputs: Inputs) -> list[str]:
    missing = [task for task in tasks if task not in inputs.data]
    if missing:
        known = ", ".join(inputs.data) or "none"
        raise InvalidInput(f"data.tasks: no images of '{missing[0]}' were found; there are: {known}")
    return [inputs.data[task] for task in tasks]


_KEYS = sorted([*TrialConfig.model_fields, "data_digests"])
_SOURCE_GROUPS = ["data" if key == "data_digests" else key for key in _KEYS]
_INPUT_KEYS = ("backbone", "data_digests")
_MOST_CACHED = 4096


@dataclass(frozen=True)
class _JsonCache:
    """The canonical JSON of one key's values, by the id() of the value.

    `kept_alive` holds the values: Python may give the id() of a freed object to another one.
    """

    members: dict[int, str] = field(default_factory=dict)
    kept_alive: list[object] = field(default_factory=list)

    def add(self, value: object, member: str) -> str:
        if len(self.kept_alive) >= _MOST_CACHED:  # Random draws share no group and would fill the memory.
            self.members.clear()
            self.kept_alive.clear()
        self.kept_alive.append(value)
        self.members[id(value)] = member
        return member


@dataclass(frozen=True)
class Identities:
    """Computes the ids of many trials that share their groups of knobs.

    The ids equal `trial_id(identity(config, inputs))`. A group (`loss`, `flow`, ...) that several
    configurations hold as one object is written as JSON once, which is ten times as fast.
    """

    _shared: dict[str, _JsonCache] = field(default_factory=lambda: {key: _JsonCache() for key in _KEYS})
    _by_inputs: dict[int, tuple[Inputs, list[_JsonCache], list[dict[int, str]]]] = field(default_factory=dict)

    def of(self, config: TrialConfig, inputs: Inputs) -> str:
        """Return the trial's id.

        Raises:
            InvalidInput: a task without a digest.

        """
        _, caches, known = self._by_inputs.get(id(inputs)) or self._caches_of(inputs)
        values = list(map(vars(config).__getitem__, _SOURCE_GROUPS))
        members = [
            member or caches[k].add(values[k], f'"{_KEYS[k]}":{_canonical(_KEYS[k], values[k], inputs)}')
            for k, member in enumerate(map(dict.get, known, map(id, values)))
        ]
        return hashlib.sha256(f"{{{','.join(members)}}}".encode()).hexdigest()[:12]

    def _caches_of(self, inputs: Inputs) -> tuple[Inputs, list[_JsonCache], list[dict[int, str]]]:
        """Make the caches for these inputs; only two keys depend on them, the others are shared."""
        if len(self._by_inputs) >= _MOST_CACHED:
            self._by_inputs.clear()
        caches = [_JsonCache() if key in _INPUT_KEYS else self._shared[key] for key in _KEYS]
        # The entry holds `inputs`, as its id() is the key.
        entry = self._by_inputs[id(inputs)] = inputs, caches, [cache.members for cache in caches]
        return entry


def _canonical(key: str, value: object, inputs: Inputs) -> str:
    """Return the canonical JSON of one key; for `data_digests`, `value` is the group `data`."""
    if not isinstance(value, BaseModel):
        return canonical_json(value)
    if isinstance(value, DataKnobs) and key == "data_digests":
        return canonical_json(_data_digests(value.tasks, inputs))
    settings = _without_added_knobs(key, vars(value))
    if key == "backbone":
        settings = {**settings, "weights": inputs.weights}
    return canonical_json(settings)


@cache
def short_name(path: str) -> str:
    """Return the shortest unambiguous name of a knob: `focal_gamma`, but `loss.log_det`."""
    name = path.rpartition(".")[2]
    return name if short_names().get(name) == path else path


def label(factors: Mapping[str, Any]) -> str:
    """Return factors in one line, the version first: `v7 focal_gamma=2`; `base` for none."""
    version = [str(factors["version"])] if "version" in factors else []
    return " ".join(version + [f"{short_name(k)}={spell(v)}" for k, v in factors.items() if k != "version"]) or "base"


def spell(value: object) -> str:
    """Return a knob's value as a user types it: `2`, `0.05`, `true`, `null`, `leather,grid`."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return ",".join(map(spell, value))
    return str(value)
