"""What a table must say about itself: confounds, no effects, saturation, stale, missing and damaged results."""

from __future__ import annotations

import pytest

from orchestrator.reports.tables import build

GAMMA = "loss.focal_gamma"
CODE = "c0de" * 16


def markdown(store, **named):
    arguments = {"selection": None, "baseline": None, "title": "t"} | named
    return build(store, **arguments).markdown()


def header_of(text):
    return next(line for line in text.splitlines() if line.startswith("| Metric"))


def test_only_the_compared_factor_differs(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0})
    text = markdown(stored())
    assert "What differs between the columns: compared: `loss.focal_gamma` (0, 2)." in text
    assert "Nothing else differs" in text
    assert "†" not in text


def test_every_other_setting_that_differs_is_a_confound_and_marks_its_columns(stored, add):
    add({"version": "v1"}, settings={"backbone.model": "vit", "backbone.grid": 14})
    add({"version": "v2"}, settings={"backbone.model": "dino", "backbone.grid": 37})
    add({"version": "v3"}, settings={"backbone.model": "dino", "backbone.grid": 37})
    text = markdown(stored(), baseline={"version": "v1"})
    assert (
        "† Not compared, yet different: `backbone.model`: vit in `version=v1`; dino in `version=v2`, `version=v3`."
        in text
    )
    assert (
        "† Not compared, yet different: `backbone.grid`: 14 in `version=v1`; 37 in `version=v2`, `version=v3`." in text
    )
    assert header_of(text) == "| Metric | version=v1 | version=v2 † | version=v3 † |"
    assert "† Also differing, as listed there: `backbone.grid`, `backbone.model`." in text  # under the other tables
    csv = build(stored(), None, {"version": "v1"}, "t").csv()
    assert {line.rsplit(",", 1)[1] for line in csv.splitlines() if "version=v2" in line} == {"†"}


def test_without_a_baseline_the_odd_one_out_is_marked(stored, add):
    for version, epochs in (("v1", 5), ("v2", 40), ("v3", 5)):
        add({"version": version}, settings={"training.epochs": epochs})
    assert header_of(markdown(stored())) == "| Metric | version=v1 | version=v2 † | version=v3 |"


def test_what_a_version_sets_by_itself_is_no_confound(stored, add):
    add({"version": "v3"}, settings={GAMMA: 0.0, "training.epochs": 5})
    add({"version": "v7"}, settings={GAMMA: 2.0, "training.epochs": 9})
    text = markdown(stored(), covers={"version": ["loss"]})
    assert "`version` sets by itself, and so differs with it: `loss.focal_gamma`." in text
    assert "yet different: `training.epochs`: 5 in `version=v3`; 9 in `version=v7`" in text
    assert "yet different: `loss.focal_gamma`" in markdown(stored())  # unless it says what it sets


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
    assert f"† Not compared, yet different: `{column}`: " in text
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


def test_unequal_seeds_are_said_in_header_columns_and_notes(stored, add):
    for gamma, seeds in ((0.0, (0, 1, 2)), (2.0, (0, 2))):
        for seed in seeds:
            add({GAMMA: gamma}, seed)
    text = markdown(stored())
    assert header_of(text) == "| Metric | focal_gamma=0 (n=3) | focal_gamma=2 (n=2) |"
    words = "`focal_gamma=0` n = 3 (0, 1, 2); `focal_gamma=2` n = 2 (0, 2); in common: 0, 2"
    assert text.count(words) == 2


def test_equal_state_digests_mean_no_effect(stored, add):
    for seed in (0, 1):
        add({GAMMA: 0.0}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
        add({GAMMA: 1.0}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
        add({GAMMA: 2.0}, seed)
    text = markdown(stored())
    sentence = "no effect: the setting did not reach training (equal state and scores digests for seeds 0, 1)."
    assert f"- `focal_gamma=0` and `focal_gamma=1`: {sentence}" in text
    assert text.count("no effect") == 1


def test_one_seed_that_differs_is_an_effect(stored, add):
    for seed in (0, 1):
        add({GAMMA: 0.0}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
        add({GAMMA: 2.0}, seed, state_digest="s0", scores_digest="x0")
    assert "no effect" not in markdown(stored())


def test_three_columns_without_effect_are_one_sentence(stored, add):
    for gamma in (0.0, 1.0, 2.0):
        add({GAMMA: gamma}, state_digest="s", scores_digest="x")
    assert "`focal_gamma=0` and `focal_gamma=1` and `focal_gamma=2`: no effect" in markdown(stored())


def test_a_setting_of_the_scoring_alone_is_not_called_without_effect(stored, add):
    add({"scoring.top_k": 1}, state_digest="s", scores_digest="x")
    add({"scoring.top_k": 3}, state_digest="s", scores_digest="y")
    text = markdown(stored())
    assert (
        "no effect on training: the setting did not reach it (equal state digests for seed 0); scores differ." in text
    )


def test_equal_scores_of_different_training_mean_no_effect_on_the_scores(stored, add):
    add({GAMMA: 0.0}, state_digest="s", scores_digest="x")
    add({GAMMA: 2.0}, state_digest="t", scores_digest="x")
    assert "`focal_gamma=0` and `focal_gamma=2`: no effect on the scores (equal scores digests" in markdown(stored())


def test_missing_digests_prove_nothing(stored, add):
    add({GAMMA: 0.0}, state_digest=None, scores_digest=None)
    add({GAMMA: 2.0}, state_digest=None, scores_digest=None)
    assert "no effect" not in markdown(stored())


def test_equal_metrics_are_no_evidence_when_saturated(stored, add):
    for gamma in (0.0, 2.0):
        for seed in (0, 1):
            add({GAMMA: gamma}, seed, image=(1.0, 1.0 - seed / 100))
    text = markdown(stored())
    assert "Saturated at 1 in every column, and so evidence of nothing: leather Image AUROC." in text
    assert "no effect" not in text


def test_the_header_says_data_versions_seeds_code_flags_and_cost(stored, add):
    add({GAMMA: 0.0}, flags='["weights: random"]', git_commit="abcdef0123456789", git_dirty=True)
    add({GAMMA: 2.0}, flags='["weights: random","the adapter is dead"]', git_commit="abcdef0123456789", git_dirty=True)
    lines = markdown(stored()).splitlines()
    assert lines[:3] == ["# t", "", "- dataset: embedded (generated images), digest d1d1d1d1d1d1"]
    assert lines[3:12] == [
        "- versions: v7",
        "- seeds: 0 (n = 1 in every column)",
        "- settings shared by all columns: backbone efficientnet_lite0, patch grid 14 x 14, 5 epochs",
        "- tasks in order, with test images (defective ones among them): leather 80 (40), grid 80 (40)",
        "- made on: Model A, torch 2.13.0",
        "- code: c0dec0dec0de (git abcdef012345, uncommitted changes)",
        "- flag: weights: random",
        "- flag: the adapter is dead (in `focal_gamma=2`)",
        "- cost: 0.02 compute-hours spent, 0.01 reused from earlier work",
    ]


def test_the_header_names_only_settings_that_all_columns_share(stored, add):
    shared = {"backbone.weights": f"sha256:{'ab' * 32}", "backbone.layers": [2, 3], "training.learning_rate": 0.001}
    add({GAMMA: 0.0}, settings=shared | {"training.epochs": 5})
    add({GAMMA: 2.0}, settings=shared | {"training.epochs": 9}, device_model="Model B")
    lines = markdown(stored()).splitlines()
    words = "backbone efficientnet_lite0, weights sha256:abababab, layers 2, 3, patch grid 14 x 14, learning rate 0.001"
    assert f"- settings shared by all columns: {words}" in lines
    assert "- made on: torch 2.13.0" in lines


def test_tasks_of_another_order_are_not_called_shared(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0}, classes=("grid", "leather"))
    assert "tasks in order" not in markdown(stored())


def test_the_scaling_that_a_rank_brings_with_it_is_a_confound(stored, add):
    for rank in (4, 16):
        add({"lora.rank": rank}, lora_scaling=1 / rank)
    text = markdown(stored(), baseline={"lora.rank": 4})
    assert "† The effective LoRA scaling differs too: 0.25, 0.0625." in text
    assert header_of(text) == "| Metric | rank=4 | rank=16 † | Change |"
    assert "† Also differing, as listed there: `effective LoRA scaling`." in text
    assert "Nothing else differs" not in text


def test_what_somebody_else_set_is_a_confound_though_a_version_sets_it_too(stored, add):
    for version, gamma, rank in (("v3", 0.0, 32), ("v7", 2.0, 8)):
        add({"version": version}, settings={GAMMA: gamma, "lora.rank": rank})
    named = {"covers": {"version": [GAMMA, "lora.rank"]}}
    brought = {"v3": {GAMMA: 0.0, "lora.rank": 32}, "v7": {GAMMA: 2.0, "lora.rank": 32}}
    text = markdown(stored(), **named, bundles={"version": brought})
    assert "sets by itself, and so differs with it: `loss.focal_gamma`." in text
    assert "yet different: `lora.rank`: 32 in `version=v3`; 8 in `version=v7`" in text
    brought["v7"]["lora.rank"] = 8
    assert "yet different" not in markdown(stored(), **named, bundles={"version": brought})


def test_another_order_of_the_same_classes_is_no_other_data_set(stored, add):
    for tasks, digests in ((["leather", "grid"], ["a", "b"]), (["grid", "leather"], ["b", "a"])):
        add({"data.tasks": tasks}, settings={"data_digests": digests})
    assert "Nothing else differs" in markdown(stored())
    add({"data.tasks": ["grid", "bottle"]}, settings={"data_digests": ["c", "d"]})
    assert "yet different: `data_digests.grid`: c in" in markdown(stored())


@pytest.mark.parametrize("name", ["lora.scaling", "lora.alpha", "version", None])
def test_a_scaling_that_is_compared_or_covered_or_equal_is_no_confound(stored, add, name):
    for rank in (4, 16):
        factors = {"lora.rank": rank} | ({} if name is None else {name: f"of {rank}"})
        add(factors, lora_scaling=1.0 if name is None else 1 / rank)
    text = markdown(stored(), covers={"version": ["lora"]})
    assert "effective LoRA scaling" not in text
    assert "Nothing else differs" in text


def test_what_is_missing_is_counted_and_named_never_dropped(stored, add):
    done = {add({GAMMA: 0.0}, seed) for seed in (0, 1)}
    failed = add({GAMMA: 2.0}, 0, status="failed", error_kind="Diverged", error="task grid, epoch 3\nmore")
    pruned = add({GAMMA: 2.0}, 1, status="pruned")
    never = "0123456789ab"
    text = markdown(stored(), selection=done | {failed, pruned, never})
    assert "- 3 of 5 trials not in the tables: 1 failed, 1 not run, 1 pruned." in text
    assert f"- `{failed}` failed: loss.focal_gamma=2, seed 0: Diverged: task grid, epoch 3\n" in text
    assert f"- `{pruned}` pruned: loss.focal_gamma=2, seed 1" in text
    assert f"- `{never}` not run" in text
    latex = build(stored(), done | {failed}, None, "t").latex()
    assert "1 of 3 trials not in the tables: 1 failed." in latex
    assert "Not in the tables" not in markdown(stored(), selection=done)


def test_a_trial_that_failed_and_then_finished_is_in_the_table(stored, add):
    add({GAMMA: 2.0}, status="failed", attempt=1)
    add({GAMMA: 2.0}, attempt=2)
    text = markdown(stored())
    assert "n = 1 in every column" in text
    assert "Not in the tables" not in text


def test_only_the_selection_is_in_the_tables(stored, add):
    chosen = {add({GAMMA: 0.0}), add({GAMMA: 1.0})}
    add({GAMMA: 2.0})
    assert "focal_gamma=2" not in markdown(stored(), selection=chosen)


def test_results_of_other_code_are_shown_as_stale(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0}, seed=0, code_digest="old" * 20)
    assert "stale" not in markdown(stored())
    text = markdown(stored(), current_code=CODE)
    assert header_of(text) == "| Metric | focal_gamma=0 | focal_gamma=2 † (stale) |"
    assert "stale: `focal_gamma=2`: 1 of 1 trial made by other code (oldoldoldold) than today's (c0dec0dec0de)." in text


def test_damaged_files_are_named(stored, add):
    good = add({GAMMA: 0.0})
    stored()
    bad = add({GAMMA: 2.0})
    path = max((stored().parts / "metrics").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    text = markdown(stored(), selection={good, bad})
    assert f"damaged: `parts/metrics/{path.name}`: its bytes are not those that were written" in text
    assert f"- `{bad}` not run" in text


def test_a_report_of_nothing_says_so(stored, add):
    failed = add({GAMMA: 2.0}, status="failed", error_kind="Diverged", error="x")
    report = build(stored(), {failed}, {GAMMA: 0.0}, "t")
    assert "no finished trial yet" in report.markdown()
    assert "1 of 1 trial not in the tables: 1 failed" in report.markdown()
    assert "1 of 1 trial not in the tables: 1 failed" in report.latex()
    assert report.csv().count("\n") == 1


def test_validation_rows_stay_out_unless_asked_for(stored, add):
    add({GAMMA: 0.0}, image=(0.9, 0.8))
    trial = add({GAMMA: 2.0}, split="validation")
    text = markdown(stored())
    assert f"`{trial}` finished without test rows: loss.focal_gamma=2, seed 0" in text
    assert "images: validation, not test" in markdown(stored(), split="validation")
