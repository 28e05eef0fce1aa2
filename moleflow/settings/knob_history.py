"""Knobs that were added after the first results, which keep their ids and their place in tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ADDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "data": {
            "evaluate": "all",
            "validation_anomalies": "none",
            "validation_real_share": 0.3,
            "layout": "auto",
            "normal_names": None,
            "value_range": "full",
        },
        "backbone": {"projection_init": "normal", "normalisation": "model", "pooled_width": None},
        "features": {"position_order": "row_column"},
        "flow": {"global_affine": "trained", "subnets": "joint", "scale_context": None},
        "lora": {"enabled": True},
        "adapter": {"mlp_layers": 2, "gamma_dims": 1, "form": "residual", "later_gamma": 1.25},
        "mixer": {"kernel": None},
        "auxiliary": {"couplings": 0, "hidden_share": 0.5, "limit": 1.9},
        "loss": {
            "center_on": "latent",
            "patch_reduction": "mean",
            "tail_weight": 0.0,
            "tail_share": 0.02,
            "log_det_weight": 0.0,
        },
        "bank": {"enabled": False, "patches": 8000, "pick": "random"},
        "training": {
            "products": "float32",
            "schedule_by": "step",
            "lanes": 1,
            "stop_at_nll": None,
            "compile": False,
        },
    }
)
"""{group: {knob: value that trials had before}}; at that value, a knob is not part of an id.

A group whose knobs were all added later is not part of an id either while all have these values.
"""

BY_CONTENT: Mapping[str, frozenset[str]] = MappingProxyType({"data": frozenset({"layout", "normal_names"})})
"""{group: knobs} that decide how files are read. Ids hold the contents found, and not these."""


def values_before_knob_existed() -> dict[str, Any]:
    """{dotted path: value} of the knobs that the configuration of an older result lacks."""
    return {f"{group}.{name}": value for group, knobs in ADDED.items() for name, value in knobs.items()}
