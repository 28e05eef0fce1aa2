"""Columns of tables: their patch grid."""

from __future__ import annotations

import pytest

from orchestrator.reports.variants import factor_labels, number_duplicates, patch_grid, varying_factors


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


def test_sequences_with_joint_tasks_have_short_labels():
    few = [[["bolt", "nut"], "seal"], ["bolt", "nut", "seal"]]
    labels = factor_labels([({"data.tasks": tasks}, "v3") for tasks in few])
    assert labels == ["tasks=bolt+nut -> seal", "tasks=bolt -> nut -> seal"]
    names = [f"c{n}" for n in range(15)]
    many = [[names[:14], names[14]], [names[:10], names[10:]], [names[k : k + 3] for k in range(0, 15, 3)], names]
    assert factor_labels([({"data.tasks": tasks}, "v3") for tasks in many]) == [
        "tasks=14-1",
        "tasks=10-5",
        "tasks=5x3",
        "tasks=15x1",
    ]
    turned = [many[0], [names[1:], names[0]]]
    assert all(label.startswith("tasks=c") for label in factor_labels([({"data.tasks": of}, "v3") for of in turned]))
    singles = [["bolt", "nut"], ["nut", "bolt"]]
    assert factor_labels([({"data.tasks": tasks}, "v3") for tasks in singles])[0] == 'tasks=["bolt","nut"]'
