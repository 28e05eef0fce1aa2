"""The trial: one configuration, one seed and the files it reads, which together give its id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel

from moleflow.errors import InvalidInput
from moleflow.settings.config import BankKnobs, DataKnobs, TrialConfig, canonical_json
from moleflow.settings.knob_history import ADDED, BY_CONTENT
from moleflow.settings.knobs import short_names
from moleflow.settings.task_list import task_name


@dataclass(frozen=True)
class Inputs:
    """The files that a trial reads, named by their content.

    Attributes:
        data: {class: digest of its images and masks}; it may hold more classes than the trial has.
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
        id: 12 hex digits; see `Identities`.
        config: the configuration, with its seed.
        factors: {knob: value} of the varied knobs, without the seed.
        inputs: the files that it reads.
        lane_mates: trials that may train in the lanes beside this one (`orchestrator.plan.lanes`).

    """

    id: str
    config: TrialConfig
    factors: Mapping[str, Any]
    inputs: Inputs
    lane_mates: tuple[Trial, ...] = ()

    @property
    def label(self) -> str:
        """A name for readers, such as `v7 focal_gamma=2 seed=0`."""
        return label({**self.factors, "seed": self.config.seed})


_KEYS = sorted([*TrialConfig.model_fields, "data_digests"])
_MOST_CACHED = 16_384


@dataclass(frozen=True)
class Identities:
    """Computes the ids of many trials that share their groups of knobs.

    A group (`loss`, `flow`, ...) that several configurations hold as one object is written as JSON
    once, which is ten times as fast.
    """

    _members: dict[tuple[str, int, int], tuple[str, object, Inputs]] = field(default_factory=dict)

    def of(self, config: TrialConfig, inputs: Inputs) -> str:
        """Return the trial's id: the first 12 hex digits of the SHA-256 of its identity.

        Raises:
            InvalidInput: a class without a digest.

        """
        return hashlib.sha256(self.json(config, inputs).encode()).hexdigest()[:12]

    def json(self, config: TrialConfig, inputs: Inputs) -> str:
        """Return a trial's identity as canonical JSON: its configuration, with contents for paths.

        It has the weights' digest as `backbone.weights`, and `data_digests` in the order of all
        classes. A knob that was added after the first results (`moleflow.settings.knob_history`) is
        left out at the value that it had before, so that earlier ids stay. A knob that decides how
        files are read is always left out: their contents are named.

        Raises:
            InvalidInput: a class without a digest.

        """
        values = vars(config)
        members = [self._member(key, values["data" if key == "data_digests" else key], inputs) for key in _KEYS]
        return f"{{{','.join(filter(None, members))}}}"

    def _member(self, key: str, value: object, inputs: Inputs) -> str:
        place = key, id(value), id(inputs) if key in ("backbone", "data_digests") else 0
        known = self._members.get(place)
        if known is None:
            if len(self._members) >= _MOST_CACHED:  # Random draws share no group and would fill the memory.
                self._members.clear()
            content = _content(key, value, inputs)
            # A group of added knobs alone is left out as a whole.
            text = "" if content == {} else f'"{key}":{canonical_json(content)}'
            # The entry holds both objects: Python may give the id() of a freed object to another.
            known = self._members[place] = text, value, inputs
        return known[0]


def _content(key: str, value: object, inputs: Inputs) -> object:
    """Return what an identity holds under a key, given the group, or `data` for `data_digests`."""
    if isinstance(value, DataKnobs) and key == "data_digests":
        missing = [name for name in value.classes if name not in inputs.data]
        if missing:
            known = ", ".join(inputs.data) or "none"
            raise InvalidInput(f"data.tasks: no images of '{missing[0]}' were found; there are: {known}")
        return [inputs.data[name] for name in value.classes]
    if not isinstance(value, BaseModel):
        return value
    if isinstance(value, BankKnobs) and not value.enabled:
        return {}  # A version has no bank.
    added = ADDED.get(key, {})
    aside = BY_CONTENT.get(key, frozenset())
    settings = {
        name: of for name, of in vars(value).items() if name not in aside and (name not in added or of != added[name])
    }
    return settings | {"weights": inputs.weights} if key == "backbone" else settings


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
    """Return a knob's value as a user types it: `2`, `0.05`, `true`, `null`, `leather,grid`.

    A task of several classes is its name: `leather+grid,transistor`.
    """
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return ",".join(task_name(v) if isinstance(v, tuple | list) else spell(v) for v in value)
    return str(value)
