"""Resolve the settings of a variant: one checked configuration."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knobs import Layer, resolve
from orchestrator.sweep.axes import check_value
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import label

Model = TypeVar("Model", bound=BaseModel)


_NONE: Mapping[str, Any] = {}


_MOST_CHECKED = 4096


@cache
def _models() -> dict[str, type[BaseModel]]:
    """The groups of knobs, as {name: model}."""
    kinds = {name: info.annotation for name, info in TrialConfig.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


@cache
def _groups() -> Callable[[Mapping[str, Any]], tuple[BaseModel, ...]]:
    """All groups of a configuration's values."""
    return operator.itemgetter(*_models())


@cache
def _names(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def drop_fields_set(model: Model) -> Model:
    """A frozen model with all of its knobs given; beside a set of their names of its own its values would be small."""
    object.__setattr__(model, "__pydantic_fields_set__", _names(type(model)))
    return model


def copy_with(config: TrialConfig, **checked: object) -> TrialConfig:
    """A configuration with other groups or another seed, which are checked."""
    return drop_fields_set(config.model_copy(update=checked))


@dataclass(frozen=True)
class _BaseSettings:
    """What stands under the factors of a version's variants: every knob, flat and by group."""

    flat: dict[str, Any]
    groups: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Resolver:
    """Configurations of one sweep's variants.

    Equal to `moleflow.settings.knobs.resolve` of the layers and the factors, but a group of knobs is checked once for all
    variants that have it in common, and equal groups are one object.
    """

    sweep: Sweep
    _grounds: dict[str, _BaseSettings] = field(default_factory=dict)
    _usual: dict[tuple[str, ...], TrialConfig] = field(default_factory=dict)
    _checked: dict[tuple[Any, ...], BaseModel] = field(default_factory=dict)
    _equal: dict[BaseModel, BaseModel] = field(default_factory=dict)

    def ground(self, factors: Mapping[str, Any]) -> dict[str, Any]:
        """Every knob's value where these factors leave it out, as {dotted path: value}."""
        return self._ground(self._version(factors)).flat

    def config(self, factors: Mapping[str, Any]) -> TrialConfig:
        """The configuration with these factors, with seed 0.

        Raises:
            InvalidInput: they make no possible configuration.

        """
        version = self._version(factors)
        own: dict[str, dict[str, Any]] = {}
        for path, value in factors.items():
            group, dot, name = path.rpartition(".")
            if dot:
                own.setdefault(group, {})[name] = value
        try:
            groups = {name: self._group(version, name, values) for name, values in own.items()}
            return copy_with(self._usual_config(version, own), **groups)
        except ValidationError:
            self._explain(version, factors)
            raise

    def _version(self, factors: Mapping[str, Any]) -> str:
        version: str | None = factors.get("version", self.sweep.version)
        if version is None:
            raise InvalidInput(f"{self.sweep.source}: variant {label(factors)}: has no version; give the sweep one")
        return version

    def _ground(self, version: str) -> _BaseSettings:
        if version not in self._grounds:
            settings = {path: check_value(path, v, "") for path, v in self.sweep.settings(version).items()}
            flat = flatten_config(TrialConfig.model_validate({})) | settings
            groups: dict[str, dict[str, Any]] = {name: {} for name in _models()}
            for path, value in flat.items():
                group, _, name = path.rpartition(".")
                if group:
                    groups[group][name] = value
            self._grounds[version] = _BaseSettings(flat, groups)
        return self._grounds[version]

    def _usual_config(self, version: str, own: Mapping[str, object]) -> TrialConfig:
        """The configuration without factors, with any values in the groups that have some."""
        place = (version, *own)
        found = self._usual.get(place)
        if found is None:
            groups = {name: self._group(version, name, _NONE) for name in _models() if name not in own}
            found = self._usual[place] = TrialConfig.model_validate({"version": version, **groups})
        return found

    def _group(self, version: str, name: str, factors: Mapping[str, Any]) -> BaseModel:
        key = (version, name, *factors.items())
        found = self._checked.get(key)
        if found is None:
            group = _models()[name].model_validate({**self._ground(version).groups[name], **factors})
            if len(self._checked) >= _MOST_CHECKED:  # Random draws: hardly any comes twice.
                self._checked.clear()
            found = self._checked[key] = self._equal.setdefault(group, group)
            if found is group:
                drop_fields_set(group)
        return found

    def _explain(self, version: str, factors: Mapping[str, Any]) -> None:
        """Raise what `resolve` has to say of these factors."""
        where = f"{self.sweep.source}: variant {label(factors)}"
        try:
            resolve([*self.sweep.layers[version], Layer("its factors", factors)])
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from None
