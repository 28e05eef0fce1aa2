"""A trial: one configuration, one seed and what it reads, known by an id that follows from these alone."""

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
        data: {task: digest of its images and masks}; it may name more tasks than the trial has.
        weights: digest or release of the backbone's weights.
        dataset: what readers call the images, such as `embedded (generated)`; not a part of any id.

    """

    data: Mapping[str, str]
    weights: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration and one seed; `factors` are its values of the sweep's axes, without the seed."""

    id: str
    config: TrialConfig
    factors: Mapping[str, Any]
    inputs: Inputs

    @property
    def label(self) -> str:
        """A name for people, such as `v7 focal_gamma=2 seed=0`."""
        return label({**self.factors, "seed": self.config.seed})


def identity(config: TrialConfig, inputs: Inputs) -> dict[str, Any]:
    """What a trial's id is taken of: the whole resolved configuration, with contents in the place of paths.

    Returns:
        The configuration's settings, `backbone.weights` being the weights' digest, and `data_digests` in task order. A knob
        that was added after the first results (`moleflow.settings.knob_history`) is left out at the value that they had.

    Raises:
        InvalidInput: a task whose digest is not among the inputs.

    """
    settings = config.model_dump()
    settings |= {group: _as_before(group, settings[group]) for group in ADDED}
    settings["backbone"]["weights"] = inputs.weights
    settings["data_digests"] = _data_digests(config.data.tasks, inputs)
    return settings


def trial_id(identity: Mapping[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 of the identity's canonical JSON."""
    return digest(identity)[:12]


def _as_before(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A group's settings without the knobs that were added and left as they were; so earlier results keep their ids."""
    found = {**settings}
    for name, value in ADDED.get(group, {}).items():
        if found[name] == value:
            del found[name]
    return found


def _data_digests(tasks: Sequence[str], inputs: Inputs) -> list[str]:
    missing = [task for task in tasks if task not in inputs.data]
    if missing:
        known = ", ".join(inputs.data) or "none"
        raise InvalidInput(f"data.tasks: no images of '{missing[0]}' were found; there are: {known}")
    return [inputs.data[task] for task in tasks]


_KEYS = sorted([*TrialConfig.model_fields, "data_digests"])
_SPELLED_OF = ["data" if key == "data_digests" else key for key in _KEYS]
_READING = ("backbone", "data_digests")
_MOST_KNOWN = 4096


@dataclass(frozen=True)
class _Spelled:
    """One key's members of the canonical JSON by the id() of what they spell, which is held so that no other object gets that id."""

    members: dict[int, str] = field(default_factory=dict)
    held: list[object] = field(default_factory=list)

    def add(self, value: object, member: str) -> str:
        if len(self.held) >= _MOST_KNOWN:  # Random draws share no group: what was spelled is not seen again.
            self.members.clear()
            self.held.clear()
        self.held.append(value)
        self.members[id(value)] = member
        return member


@dataclass(frozen=True)
class Identities:
    """The ids of many trials that share their groups of knobs.

    Equal to `trial_id(identity(config, inputs))`, but a group (`loss`, `flow`, ...) that several configurations hold as
    one object is spelled as JSON once: ten times as fast for a sweep of many seeds or variants.
    """

    _plain: dict[str, _Spelled] = field(default_factory=lambda: {key: _Spelled() for key in _KEYS})
    _by_inputs: dict[int, tuple[Inputs, list[_Spelled], list[dict[int, str]]]] = field(default_factory=dict)

    def of(self, config: TrialConfig, inputs: Inputs) -> str:
        """The trial's id.

        Raises:
            InvalidInput: a task whose digest is not among the inputs.

        """
        _, spelled, known = self._by_inputs.get(id(inputs)) or self._reading(inputs)
        values = list(map(vars(config).__getitem__, _SPELLED_OF))
        members = [
            member or spelled[k].add(values[k], f'"{_KEYS[k]}":{_spell(_KEYS[k], values[k], inputs)}')
            for k, member in enumerate(map(dict.get, known, map(id, values)))
        ]
        return hashlib.sha256(f"{{{','.join(members)}}}".encode()).hexdigest()[:12]

    def _reading(self, inputs: Inputs) -> tuple[Inputs, list[_Spelled], list[dict[int, str]]]:
        """What trials that read this have spelled: two keys hang on it, the others are those of all trials."""
        if len(self._by_inputs) >= _MOST_KNOWN:
            self._by_inputs.clear()
        spelled = [_Spelled() if key in _READING else self._plain[key] for key in _KEYS]
        found = self._by_inputs[id(inputs)] = inputs, spelled, [of.members for of in spelled]
        return found


def _spell(key: str, value: object, inputs: Inputs) -> str:
    """The canonical JSON of one key; for `data_digests`, `value` is the data's settings."""
    return _spell_group(key, value, inputs) if isinstance(value, BaseModel) else canonical_json(value)


def _spell_group(key: str, group: BaseModel, inputs: Inputs) -> str:
    if isinstance(group, DataKnobs) and key == "data_digests":
        return canonical_json(_data_digests(group.tasks, inputs))
    settings = vars(group)  # Plain values: a group holds no other one.
    if key in ADDED:
        settings = _as_before(key, settings)
    if key == "backbone":
        settings = {**settings, "weights": inputs.weights}
    return canonical_json(settings)


@cache
def short_name(path: str) -> str:
    """The shortest name that means this knob and no other: `focal_gamma`, but `loss.log_det`."""
    name = path.rpartition(".")[2]
    return name if short_names().get(name) == path else path


def label(factors: Mapping[str, Any]) -> str:
    """Factors in one line: the version first and bare, then `name=value`. Without factors it is `base`."""
    version = [str(factors["version"])] if "version" in factors else []
    return " ".join(version + [f"{short_name(k)}={spell(v)}" for k, v in factors.items() if k != "version"]) or "base"


def spell(value: object) -> str:
    """A knob's value as one types it: `2`, `0.05`, `true`, `null`, `leather,grid`."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return ",".join(map(spell, value))
    return str(value)


def counted(number: int, noun: str) -> str:
    """How many there are: `1 seed`, `2,000 seeds`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
