"""Columns of tables: their patch grid."""

from __future__ import annotations

import pytest

from orchestrator.reports.variants import number_duplicates, patch_grid, varying_factors


@pytest.mark.parametrize(
    ("settings", "grid"),
    [
        ({"backbone.grid": 14, "backbone.model": "vit_base_patch16_224"}, "14x14"),
        ({"backbone.grid": None, "backbone.model": "vit_base_patch14_dinov2", "data.image_size": 518}, "37x37"),
        (
            {"backbone.grid": None, "backbone.model": "efficientnet_lite0", "data.image_size": 224},
            "of the coarsest layer",
        ),
        ({"backbone.model": "wide_resnet50_2", "backbone.pooled_width": 768}, "of the first layer"),
        ({"backbone.model": "wide_resnet50_2", "backbone.pooled_width": 768, "backbone.grid": 14}, "14x14"),
    ],
)
def test_the_patch_grid_of_measured_columns(settings, grid):
    assert patch_grid(settings) == grid


def test_the_version_is_the_first_of_the_factors_that_differ():
    variants = [{"version": "v1", "lora.rank": 4, "zeta": 1}, {"version": "v2", "lora.rank": 8, "zeta": 1.0}]
    assert varying_factors(variants) == ["version", "lora.rank"]
    assert varying_factors([{"lora.rank": 4}, {}]) == ["lora.rank"]


def test_labels_that_occur_twice_are_numbered():
    assert number_duplicates(["a", "b", "a", "a"]) == ["a #1", "b", "a #2", "a #3"]
