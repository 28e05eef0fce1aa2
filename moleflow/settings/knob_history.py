"""Knobs that were added after the first results, which keep their ids and their place in tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ADDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "data": {"evaluate": "all", "validation_anomalies": "none", "validation_real_share": 0.3},
        "loss": {"center_on": "latent"},
        "training": {"products": "float32"},
    }
)
"""{group: {knob: value that trials had before}}; at that value, a knob is not part of an id."""


def values_before_knob_existed() -> dict[str, Any]:
    """{dotted path: value} of the knobs that the configuration of an older result lacks."""
    return {f"{group}.{name}": value for group, knobs in ADDED.items() for name, value in knobs.items()}
