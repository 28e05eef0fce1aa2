"""Confounds between columns, and the columns that they mark."""

from __future__ import annotations

import csv
import io

import pytest

from orchestrator.reports.lock import Recipe
from orchestrator.reports.tables import build_report

GAMMA = "loss.focal_gamma"
CODE = "c0de" * 16


def markdown(store, version_settings=None, **named):
    return build_report(store, Recipe("t", **named), version_settings=version_settings).markdown()


def header_of(text):
    return next(line for line in text.splitlines() if line.startswith("| Metric"))


def test_only_the_compared_factor_differs(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0})
    text = markdown(stored())
    assert "Compared: `loss.focal_gamma` (0, 2)." in text
    assert "Nothing else differs" in text
    assert "†" not in text


def test_every_other_setting_that_differs_is_a_confound_and_marks_its_columns(stored, add):
    add({"version": "v1"}, settings={"backbone.model": "vit", "backbone.grid": 14})
    add({"version": "v2"}, settings={"backbone.model": "dino", "backbone.grid": 37})
    add({"version": "v3"}, settings={"backbone.model": "dino", "backbone.grid": 37})
    text = markdown(stored(), baseline={"version": "v1"})
    assert "† Confounded by `backbone.model`: vit in `v1`; dino in `v2`, `v3`." in text
    assert "† Confounded by `backbone.grid`: 14 in `v1`; 37 in `v2`, `v3`." in text
    assert header_of(text) == "| Metric | v1 | v2 † | v3 † |"
    assert (
        "† Confounds, with their values under the first table: `backbone.grid`, `backbone.model`." in text
    )  # under the other tables
    records = csv.DictReader(io.StringIO(build_report(stored(), Recipe("t", baseline={"version": "v1"})).csv()))
    assert {row["marks"] for row in records if row["variant"] == "version=v2"} == {"†"}


def test_without_a_baseline_the_odd_one_out_is_marked(stored, add):
    for version, epochs in (("v1", 5), ("v2", 40), ("v3", 5)):
        add({"version": version}, settings={"training.epochs": epochs})
    assert header_of(markdown(stored())) == "| Metric | v1 | v2 † | v3 |"


def test_a_setting_that_the_version_sets_is_no_confound(stored, add):
    add({"version": "v3"}, settings={GAMMA: 0.0, "training.epochs": 5})
    add({"version": "v7"}, settings={GAMMA: 2.0, "training.epochs": 9})
    text = markdown(stored(), version_settings={"v3": {GAMMA: 0.0}, "v7": {GAMMA: 2.0}})
    assert "Set by `version`, and so different with it: `loss.focal_gamma`." in text
    assert "Confounded by `training.epochs`: 5 in `v3`; 9 in `v7`" in text
    assert "Confounded by `loss.focal_gamma`" in markdown(stored())  # unless it says what it sets


def test_equal_factors_under_another_configuration_are_columns_of_their_own(stored, add):
    add({GAMMA: 2.0}, seed=0)
    add({GAMMA: 2.0}, seed=1, settings={"training.epochs": 40})
    text = markdown(stored())
    assert "`training.epochs`: 40 in `focal_gamma=2 #1`; 5 in `focal_gamma=2 #2`" in text
    assert "`focal_gamma=2 #1` n = 1 (1); `focal_gamma=2 #2` n = 1 (0); none in common" in text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("code_digest", "other" * 10),
        ("device", "cuda"),
        ("device_model", "Model B"),
        ("torch", "2.14.0"),
        ("cuda", "13.0"),
        ("dtype", "float16"),
        ("threads", 2),
        ("tf32", True),
        ("dataset", "mvtec"),
    ],
)
def test_another_environment_is_a_difference(stored, add, column, value):
    add({GAMMA: 0.0})
    add({GAMMA: 1.0})
    add({GAMMA: 2.0}, **{column: value})
    text = markdown(stored())
    shown = str(value).lower() if isinstance(value, bool) else str(value)[:12]
    assert f"† Confounded by `{column}`: " in text
    assert f"{shown} in `focal_gamma=2`" in text
    assert header_of(text).endswith("focal_gamma=1 | focal_gamma=2 † |")


def test_another_package_version_is_a_difference(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0}, packages='{"timm":"1.0.99"}')
    assert "`package timm`: 1.0.31 in `focal_gamma=0`; 1.0.99 in `focal_gamma=2`" in markdown(stored())


def test_devices_mixed_within_a_column_are_shown(stored, add):
    for gamma in (0.0, 2.0):
        for seed, model in ((0, "Model A"), (1, "Model B")):
            add({GAMMA: gamma}, seed, device_model=model)
    text = markdown(stored())
    assert "`device_model`: Model A + Model B in `focal_gamma=0`, `focal_gamma=2`" in text
    assert header_of(text) == "| Metric | focal_gamma=0 † | focal_gamma=2 † |"


def test_unequal_seeds_are_named_in_header_columns_and_notes(stored, add):
    for gamma, seeds in ((0.0, (0, 1, 2)), (2.0, (0, 2))):
        for seed in seeds:
            add({GAMMA: gamma}, seed)
    text = markdown(stored())
    assert header_of(text) == "| Metric | focal_gamma=0 (n=3) | focal_gamma=2 (n=2) † |"
    words = "`focal_gamma=0` n = 3 (0, 1, 2); `focal_gamma=2` n = 2 (0, 2); in common: 0, 2"
    assert text.count(words) == 2
    assert "Nothing else differs" in text


def test_other_seeds_mark_their_column_even_if_they_are_as_many(stored, add):
    for gamma, seeds in ((0.0, (0, 1, 2)), (1.0, (0, 1, 2)), (2.0, (1, 2, 5))):
        for seed in seeds:
            add({GAMMA: gamma}, seed)
    text = markdown(stored(), baseline={GAMMA: 0.0})
    assert header_of(text) == "| Metric | focal_gamma=0 (n=3) | focal_gamma=1 (n=3) | focal_gamma=2 (n=3) † |"
    note = next(line for line in text.splitlines() if line.startswith("- † Seeds: "))
    assert "`focal_gamma=2` n = 3 (1, 2, 5); in common: 1, 2" in note
    assert note.endswith("A paired test uses only the seeds that a column shares with its baseline.")
    assert "Seeds: n = 3 in every variant, not the same seeds." in text  # under the other tables
    assert "variant shares with its baseline count: `focal_gamma=2` on seeds 1, 2." in text
    assert "- † Confounds, with their values under the first table: `seeds`." in text


def test_the_scaling_that_changes_with_the_rank_is_a_confound(stored, add):
    for rank in (4, 16):
        add({"lora.rank": rank}, lora_scaling=1 / rank)
    text = markdown(stored(), baseline={"lora.rank": 4})
    words = "† Confounded by `effective LoRA scaling` (the rule is the same, but its number changes with the rank): "
    assert f"{words}0.25 in `rank=4`; 0.0625 in `rank=16`." in text
    assert header_of(text) == "| Metric | rank=4 | rank=16 † | Change |"
    assert "† Confounds, with their values under the first table: `effective LoRA scaling`." in text
    assert "Nothing else differs" not in text


def test_a_setting_that_differs_from_its_version_is_a_confound(stored, add):
    for version, gamma, rank in (("v3", 0.0, 32), ("v7", 2.0, 8)):
        add({"version": version}, settings={GAMMA: gamma, "lora.rank": rank})
    settings = {"v3": {GAMMA: 0.0, "lora.rank": 32}, "v7": {GAMMA: 2.0, "lora.rank": 32}}
    text = markdown(stored(), version_settings=settings)
    assert "Set by `version`, and so different with it: `loss.focal_gamma`." in text
    assert "Confounded by `lora.rank`: 32 in `v3`; 8 in `v7`" in text
    settings["v7"]["lora.rank"] = 8
    assert "Confounded" not in markdown(stored(), version_settings=settings)


def test_another_order_of_the_same_classes_is_no_other_data_set(stored, add):
    for tasks, digests in ((["leather", "grid"], ["a", "b"]), (["grid", "leather"], ["b", "a"])):
        add({"data.tasks": tasks}, settings={"data_digests": digests})
    assert "Nothing else differs" in markdown(stored())
    add({"data.tasks": ["grid", "bottle"]}, settings={"data_digests": ["c", "d"]})
    assert "Confounded by `data_digests.grid`: c in" in markdown(stored())


def test_a_rank_sweep_under_one_scaling_rule_is_confounded_by_the_scaling(stored, add):
    for rule, rank, scaling in (
        ("alpha/rank", 32, 1 / 32),
        ("alpha/rank", 8, 1 / 8),
        ("alpha/rank", 64, 1 / 64),
        (0.03125, 8, 1 / 32),
        (0.03125, 64, 1 / 32),
    ):
        add({"lora.rank": rank, "lora.scaling": rule}, lora_scaling=scaling)
    text = markdown(stored(), baseline={"lora.rank": 32, "lora.scaling": "alpha/rank"})
    rows = text.partition("## After the final task\n")[2].partition("\n- ")[0]
    assert {line.split(" | ")[0].removeprefix("| ") for line in rows.splitlines() if "†" in line} == {
        "rank=8, scaling=alpha/rank †",
        "rank=64, scaling=alpha/rank †",
    }
    assert "changes with the rank): 0.03125 in `rank=32, scaling=alpha/rank`" in text


@pytest.mark.parametrize(("name", "scaling"), [("lora.scaling", None), ("lora.alpha", None), (None, 1.0)])
def test_a_scaling_that_another_rule_means_or_that_stays_is_no_confound(stored, add, name, scaling):
    for rank in (4, 16):
        factors = {"lora.rank": rank} | ({} if name is None else {name: f"of {rank}"})
        add(factors, lora_scaling=scaling or 1 / rank)
    text = markdown(stored())
    assert "effective LoRA scaling" not in text
    assert "Nothing else differs" in text


VIT = {"backbone.model": "vit_base_patch16_224", "backbone.grid": None, "data.image_size": 224}
DINO = {"backbone.model": "vit_base_patch14_dinov2", "backbone.grid": None, "data.image_size": 224}


def test_a_patch_grid_that_follows_from_backbone_and_size_is_a_difference_of_its_own(stored, add):
    for settings in (VIT, DINO):
        add({"backbone.model": settings["backbone.model"]}, settings=settings)
    text = markdown(stored(), baseline={"backbone.model": VIT["backbone.model"]})
    names = [f"model={settings['backbone.model']}" for settings in (VIT, DINO)]
    assert header_of(text) == f"| Metric | {names[0]} | {names[1]} † | Change |"
    assert f"† Confounded by `patch grid`: 14x14 in `{names[0]}`; 16x16 in `{names[1]}`." in text
    assert "patch grid" not in next(line for line in text.splitlines() if line.startswith("- settings shared"))


def test_a_patch_grid_that_is_equal_or_that_its_own_setting_lists_is_not_listed_twice(stored, add):
    add({GAMMA: 0.0}, settings=VIT)
    add({GAMMA: 2.0}, settings=VIT | {"backbone.grid": 14})
    assert "`backbone.grid`: null in" in markdown(stored())
    assert "`patch grid`" not in markdown(stored())
    add({GAMMA: 3.0}, settings=VIT | {"backbone.grid": 7})
    only = {trial for trial, of in stored().finished().items()}
    assert "`patch grid`: 14x14 in `focal_gamma=0`, `focal_gamma=2`; 7x7 in `focal_gamma=3`." in markdown(
        stored(), selection=only
    )


def test_another_scaling_by_another_rule_than_the_baseline_is_no_confound(stored, add):
    for rule, scaling in (("alpha/rank", 0.25), ("alpha/(2*rank)", 0.125)):
        add({"lora.scaling": rule}, lora_scaling=scaling)
    text = markdown(stored(), baseline={"lora.scaling": "alpha/rank"})
    assert "effective LoRA scaling" not in text
