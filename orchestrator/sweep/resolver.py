"""The resolver of a sweep: from a variant's factors to its checked configuration."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knobs import Layer, resolve
from orchestrator.sweep.axes import check_value
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import label

Model = TypeVar("Model", bound=BaseModel)
_MOST_CACHED = 4096


@cache
def _group_models() -> dict[str, type[BaseModel]]:
    """The groups of knobs (`loss`, `flow`, ...) as {name: pydantic model}."""
    types = {name: info.annotation for name, info in TrialConfig.model_fields.items()}
    return {name: one for name, one in types.items() if isinstance(one, type) and issubclass(one, BaseModel)}


@cache
def _groups_of() -> Callable[[Mapping[str, Any]], tuple[BaseModel, ...]]:
    return operator.itemgetter(*_group_models())


@cache
def _field_names(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def _share_fields_set(model: Model) -> Model:
    """Let all models of a type share one set of field names; a set each would take most memory."""
    # Frozen models refuse a plain assignment.
    object.__setattr__(model, "__pydantic_fields_set__", _field_names(type(model)))
    return model


def copy_with(config: TrialConfig, **checked: object) -> TrialConfig:
    """Return the configuration with other groups or another seed, which are already checked."""
    return _share_fields_set(config.model_copy(update=checked))


@dataclass(frozen=True)
class _BaseSettings:
    """Every knob under the factors of one version's variants, flat and by group."""

    flat: dict[str, Any]
    groups: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Resolver:
    """Makes the configurations of one sweep's variants.

    They equal `moleflow.settings.knobs.resolve` of the sweep's layers and the factors. Each
    distinct group of knobs is checked and stored once, which saves time and memory in large sweeps.
    """

    sweep: Sweep
    _base: dict[str, _BaseSettings] = field(default_factory=dict)
    _without_factors: dict[tuple[str, ...], TrialConfig] = field(default_factory=dict)
    _checked: dict[tuple[Any, ...], BaseModel] = field(default_factory=dict)
    _interned: dict[BaseModel, BaseModel] = field(default_factory=dict)

    def base_values(self, factors: Mapping[str, Any]) -> dict[str, Any]:
        """Every knob's value where these factors do not set it, as {dotted path: value}."""
        return self._base_settings(self._version(factors)).flat

    def config(self, factors: Mapping[str, Any]) -> TrialConfig:
        """The configuration with these factors and seed 0.

        Raises:
            InvalidInput: the factors make no possible configuration.

        """
        version = self._version(factors)
        by_group: dict[str, dict[str, Any]] = {}
        for path, value in factors.items():
            group, dot, name = path.rpartition(".")
            if dot:
                by_group.setdefault(group, {})[name] = value
        try:
            groups = {name: self._group(version, name, values) for name, values in by_group.items()}
            config = copy_with(self._config_without_factors(version, by_group), **groups)
            config.check_groups()  # A copy is not checked.
            return config
        except ValueError:  # ValidationError is one.
            self._explain(version, factors)
            raise

    def key(self, config: TrialConfig) -> tuple[object, ...]:
        """A key that configurations of this resolver share if they differ at most in the seed."""
        # Equal groups are one object, so that id() compares them without hashing every knob.
        return config.version, *map(id, _groups_of()(vars(config)))

    def _version(self, factors: Mapping[str, Any]) -> str:
        version: str | None = factors.get("version", self.sweep.version)
        if version is None:
            raise InvalidInput(f"{self.sweep.source}: variant {label(factors)}: has no version; give the sweep one")
        return version

    def _base_settings(self, version: str) -> _BaseSettings:
        if version not in self._base:
            settings = {path: check_value(path, v, "") for path, v in self.sweep.settings(version).items()}
            flat = flatten_config(TrialConfig.model_validate({})) | settings
            groups: dict[str, dict[str, Any]] = {name: {} for name in _group_models()}
            for path, value in flat.items():
                group, _, name = path.rpartition(".")
                if group:
                    groups[group][name] = value
            self._base[version] = _BaseSettings(flat, groups)
        return self._base[version]

    def _config_without_factors(self, version: str, replaced: Mapping[str, object]) -> TrialConfig:
        """The version's configuration; the groups in `replaced` are left to the caller."""
        key = (version, *replaced)
        config = self._without_factors.get(key)
        if config is None:
            groups = {name: self._group(version, name, {}) for name in _group_models() if name not in replaced}
            # Not checked, as the groups that are left out may make it possible.
            config = self._without_factors[key] = copy_with(TrialConfig(), version=version, **groups)
        return config

    def _group(self, version: str, name: str, factors: Mapping[str, Any]) -> BaseModel:
        key = (version, name, *factors.items())
        group = self._checked.get(key)
        if group is None:
            checked = _group_models()[name].model_validate({**self._base_settings(version).groups[name], **factors})
            if len(self._checked) >= _MOST_CACHED:  # Random draws hardly ever repeat a group.
                self._checked.clear()
            group = self._checked[key] = self._interned.setdefault(checked, checked)
            _share_fields_set(group)
        return group

    def _explain(self, version: str, factors: Mapping[str, Any]) -> None:
        """Raise the error that `resolve` raises for these factors; it names the layer at fault."""
        try:
            resolve([*self.sweep.layers[version], Layer("its factors", factors)])
        except InvalidInput as error:
            raise InvalidInput(f"{self.sweep.source}: variant {label(factors)}: {error}") from None
