"""What is known of a column from its settings."""

from __future__ import annotations

import pytest

from orchestrator.reports.variants import patch_grid


@pytest.mark.parametrize(
    ("settings", "grid"),
    [
        ({"backbone.grid": 14, "backbone.model": "vit_base_patch16_224"}, "14x14"),
        ({"backbone.grid": None, "backbone.model": "vit_base_patch14_dinov2", "data.image_size": 518}, "37x37"),
        (
            {"backbone.grid": None, "backbone.model": "efficientnet_lite0", "data.image_size": 224},
            "of the coarsest layer",
        ),
    ],
)
def test_the_patch_grid_of_measured_columns(settings, grid):
    assert patch_grid(settings) == grid
