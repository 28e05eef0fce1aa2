"""The header and notes: flags, densities, no effects, saturation, stale and missing results."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.reports.lock import Recipe
from orchestrator.reports.notes import error_line
from orchestrator.reports.render import latex_text
from orchestrator.reports.tables import build_report

GAMMA = "loss.focal_gamma"
CODE = "c0de" * 16


def markdown(store, version_settings=None, **named):
    return build_report(store, Recipe("t", **named), version_settings=version_settings).markdown()


def header_of(text):
    return next(line for line in text.splitlines() if line.startswith("| Metric"))


def test_equal_state_digests_are_identical_training(stored, add):
    for seed in (0, 1):
        add({GAMMA: 0.0}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
        add({GAMMA: 1.0}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
        add({GAMMA: 2.0}, seed)
    text = markdown(stored())
    sentence = "identical: `loss.focal_gamma` did not reach training (equal state and scores digests for seeds 0, 1)."
    assert f"- `focal_gamma=0` and `focal_gamma=1`: {sentence}" in text
    assert text.count("identical: ") == 1


def test_one_seed_that_differs_is_an_effect(stored, add):
    for seed in (0, 1):
        add({GAMMA: 0.0}, seed, state_digest=f"s{seed}", scores_digest=f"x{seed}")
        add({GAMMA: 2.0}, seed, state_digest="s0", scores_digest="x0")
    assert "identical" not in markdown(stored())


def test_three_columns_without_effect_are_one_sentence(stored, add):
    for gamma in (0.0, 1.0, 2.0):
        add({GAMMA: gamma}, state_digest="s", scores_digest="x")
    assert "`focal_gamma=0` and `focal_gamma=1` and `focal_gamma=2`: identical" in markdown(stored())


def test_a_setting_of_the_scoring_alone_is_not_called_without_effect(stored, add):
    add({"scoring.top_k": 1}, state_digest="s", scores_digest="x")
    add({"scoring.top_k": 3}, state_digest="s", scores_digest="y")
    text = markdown(stored())
    assert (
        "identical training: `scoring.top_k` did not reach it (equal state digests for seed 0); scores differ." in text
    )


def test_equal_scores_of_different_training_are_identical_scores(stored, add):
    add({GAMMA: 0.0}, state_digest="s", scores_digest="x")
    add({GAMMA: 2.0}, state_digest="t", scores_digest="x")
    assert "`focal_gamma=0` and `focal_gamma=2`: identical scores (equal scores digests" in markdown(stored())


def test_missing_digests_prove_nothing(stored, add):
    add({GAMMA: 0.0}, state_digest=None, scores_digest=None)
    add({GAMMA: 2.0}, state_digest=None, scores_digest=None)
    assert "identical" not in markdown(stored())


def test_equal_metrics_are_no_evidence_when_saturated(stored, add):
    for gamma in (0.0, 2.0):
        for seed in (0, 1):
            add({GAMMA: gamma}, seed, image=(1.0, 1.0 - seed / 100))
    text = markdown(stored())
    assert "Saturated: 1 for every seed of every variant, so no evidence either way: leather Image AUROC." in text
    assert "identical" not in text


def test_one_column_or_one_saturated_column_of_two_is_not_called_saturated(stored, add):
    add({GAMMA: 0.0}, image=(1.0, 1.0))
    assert "Saturated" not in markdown(stored())
    add({GAMMA: 2.0}, image=(0.9, 1.0))
    assert "so no evidence either way: grid Image AUROC." in markdown(stored())


def test_the_header_says_data_versions_seeds_code_and_cost(stored, add):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, git_commit="abcdef0123456789", git_dirty=True)
    lines = markdown(stored()).splitlines()
    start = lines.index("- dataset: embedded (generated images), digest d1d1d1d1d1d1")
    assert lines[start - 2 : start] == ["## Data, settings and cost", ""]
    assert lines[start + 1 : start + 8] == [
        "- versions: v7",
        "- seeds: 0 (n = 1 in every variant)",
        "- settings shared by all variants: backbone efficientnet_lite0, patch grid 14x14, 5 epochs",
        "- tasks in order, with their test images (defective ones in brackets): leather 80 (40), grid 80 (40)",
        "- computed on: Model A, torch 2.13.0",
        "- code: c0dec0dec0de (git abcdef012345, uncommitted changes)",
        "- cost: 1 min 12 s of compute time spent; 1 min 48 s without sharing, so 36 s (33%) saved",
    ]


def cost_of(store):
    return next(line for line in markdown(store).splitlines() if line.startswith("- cost: ")).removeprefix("- cost: ")


def test_the_cost_of_unfinished_attempts_is_named_and_their_work_is_no_saving(stored, add):
    add({GAMMA: 0.0}, 0, seconds_spent=3600.0, seconds_reused=0.0)
    assert cost_of(stored()) == "1 h of compute time spent; no training was shared"
    # Its second attempt took from the store what the first one had trained.
    add({GAMMA: 2.0}, 0, attempt=1, status="interrupted", seconds_spent=1800.0, seconds_reused=0.0)
    add({GAMMA: 2.0}, 0, attempt=2, seconds_spent=1800.0, seconds_reused=1700.0)
    words = "2 h of compute time spent, 30 min of it in attempts that did not finish (1 interrupted)"
    assert cost_of(stored()) == f"{words}; no training was shared"
    # Of what this one took, its own first attempt can have trained half an hour at most.
    add({GAMMA: 2.0}, 1, attempt=1, status="failed", seconds_spent=1800.0, seconds_reused=0.0)
    add({GAMMA: 2.0}, 1, attempt=2, seconds_spent=1800.0, seconds_reused=5400.0)
    words = "3 h of compute time spent, 1 h of it in attempts that did not finish (1 failed, 1 interrupted)"
    assert cost_of(stored()) == f"{words}; at least 4 h without sharing, so at least 1 h (25%) saved"


def test_attempts_by_other_code_and_later_ones_reduce_no_saving(stored, add):
    add({GAMMA: 0.0}, attempt=1, status="failed", seconds_spent=1800.0, code_digest="0ther" * 12)
    add({GAMMA: 0.0}, attempt=2, seconds_spent=1800.0, seconds_reused=3600.0)
    add({GAMMA: 0.0}, attempt=3, status="interrupted", seconds_spent=3600.0)
    words = "2 h of compute time spent, 1 h 30 min of it in attempts that did not finish (1 failed, 1 interrupted)"
    assert cost_of(stored()) == f"{words}; 3 h without sharing, so 1 h (33%) saved"


def test_trials_that_are_not_in_the_tables_cost_nothing_there(stored, add):
    add({GAMMA: 0.0}, seconds_spent=3600.0, seconds_reused=0.0)
    add({GAMMA: 2.0}, status="failed", seconds_spent=7200.0, seconds_reused=0.0)
    assert cost_of(stored()) == "1 h of compute time spent; no training was shared"


def test_the_header_names_only_settings_that_all_columns_share(stored, add):
    shared = {"backbone.weights": f"sha256:{'ab' * 32}", "backbone.layers": [2, 3], "training.learning_rate": 0.001}
    add({GAMMA: 0.0}, settings=shared | {"training.epochs": 5})
    add({GAMMA: 2.0}, settings=shared | {"training.epochs": 9}, device_model="Model B")
    lines = markdown(stored()).splitlines()
    words = "backbone efficientnet_lite0, weights sha256:abababab, layers 2, 3, patch grid 14x14, learning rate 0.001"
    assert f"- settings shared by all variants: {words}" in lines
    assert "- computed on: torch 2.13.0" in lines


def test_the_patch_grid_of_a_transformer_is_named_though_no_setting_holds_it(stored, add):
    add(
        {GAMMA: 0.0}, settings={"backbone.model": "vit_base_patch16_224", "backbone.grid": None, "data.image_size": 224}
    )
    text = markdown(stored())
    assert "- settings: backbone vit_base_patch16_224, image size 224, patch grid 14x14, 5 epochs" in text.splitlines()
    assert "null x null" not in text


FLAGGED = {
    "the backbone's weights are random": {"backbone.weights": "random"},
    "the adapter's residual MLP is dead": {
        "adapter.gate_init": 0.0,
        "adapter.gate": "raw",
        "adapter.output_init": "zero",
    },
    "validation anomalies are synthetic": {"data.validation_anomalies": "synthetic", "data.validation_fraction": 0.2},
    "lora.init zero": {"lora.init": "zero"},
    "center_on features": {"loss.center_weight": 0.1, "loss.center_on": "features"},
    "context_from all: not a likelihood": {"flow.cpcf": True, "flow.context_from": "all"},
    "patch attention is not invertible": {"attention.enabled": True},
    "the mixer is not invertible": {"mixer.kernel": 3},
    "focal_form joint": {"loss.focal_gamma": 2.0, "loss.focal_form": "joint"},
}


def test_every_flag_of_a_configuration_has_its_test():
    assert inspect.getsource(TrialConfig.flags).count("flags.append(") == len(FLAGGED)


@pytest.mark.parametrize("start", FLAGGED)
def test_a_table_whose_column_has_a_flag_shows_it(stored, add, start):
    config, quiet = {}, {"backbone": {"weights": "a file"}, "adapter": {"output_init": "random"}}
    for path, value in FLAGGED[start].items():
        section, name = path.split(".")
        config.setdefault(section, {})[name] = value
    given = quiet | {section: quiet.get(section, {}) | of for section, of in config.items()}
    flags = TrialConfig.model_validate(given).flags()
    assert [flag.startswith(start) for flag in flags] == [True]
    assert TrialConfig.model_validate(quiet).flags() == []
    add({"version": "v3"})
    add({"version": "v9"}, settings=FLAGGED[start], flags=json.dumps(flags))
    report = build_report(stored(), Recipe("t"))
    assert f"flag: {flags[0]} (in `v9`)" in report.tables[0].notes
    assert f"% flag: {flags[0]}" in report.latex(), "a comment for the author"
    assert f"flag: {latex_text(flags[0])}" not in report.latex().partition("\\begin{table}")[2]


def test_a_flag_of_every_column_names_none(stored, add):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, flags='["weights: random"]')
    assert "- flag: weights: random\n" in markdown(stored())


def test_a_flag_that_several_classes_share_is_one_line(stored, add):
    for gamma in (0.0, 2.0):
        flags = [f"{name}: no masks, so no pixel metrics" for name in ("leather", "grid")]
        add({GAMMA: gamma}, flags=json.dumps([*flags, "weights: random", *["grid: odd"] * (gamma > 0)]))
    found = [line for line in markdown(stored()).splitlines() if line.startswith("- flag: ")]
    assert found == [
        "- flag: leather, grid: no masks, so no pixel metrics",
        "- flag: weights: random",
        "- flag: grid: odd (in `focal_gamma=2`)",
    ]


ADAPTER = {"adapter.enabled": True, "adapter.task0": True}
DENSITY = "The density is of adapted features"


def test_the_table_says_that_the_density_is_of_adapted_features(stored, add):
    add({"version": "v3"}, settings=ADAPTER)
    text = markdown(stored())
    why = "the input adapters cannot be inverted, so their log-determinant is left out."
    assert f"- {DENSITY}: {why}\n" in text
    add({"version": "v6"}, settings=ADAPTER | {"attention.enabled": True})
    attention = "patch attention cannot be inverted, so its log-determinant is left out."
    text = markdown(stored())
    assert f"- {DENSITY}: {why}\n" in text
    assert f"- {DENSITY} (in `v6`): {attention}\n" in text
    add({"version": "v1"}, settings=ADAPTER | {"adapter.task0": False})
    assert f"- {DENSITY}: {why} The first task has no adapter (in `v1`).\n" in markdown(stored())
    add({"version": "v0"}, settings={"adapter.enabled": False})
    assert f"- {DENSITY} (in `v1`, `v3`, `v6`): {why}" in markdown(stored())


def test_without_adapter_and_attention_there_is_no_note_on_the_density(stored, add):
    add({"version": "v3"}, settings={"adapter.enabled": False, "attention.enabled": False})
    assert DENSITY not in markdown(stored())


def test_tasks_of_another_order_are_not_called_shared(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0}, classes=("grid", "leather"))
    assert "tasks in order" not in markdown(stored())


def test_missing_trials_are_counted_and_named(stored, add):
    done = {add({GAMMA: 0.0}, seed) for seed in (0, 1)}
    failed = add({GAMMA: 2.0}, 0, status="failed", error_kind="Diverged", error="task grid, epoch 3\nmore")
    pruned = add({GAMMA: 2.0}, 1, status="pruned")
    never = "0123456789ab"
    text = markdown(stored(), selection=done | {failed, pruned, never})
    assert "- 3 of 5 trials not in the tables: 1 failed, 1 not run, 1 pruned." in text
    assert f"- `{failed}` failed: loss.focal_gamma=2, seed 0: Diverged: task grid, epoch 3\n" in text
    assert f"- `{pruned}` pruned: loss.focal_gamma=2, seed 1" in text
    assert f"- `{never}` not run" in text
    latex = build_report(stored(), Recipe("t", tuple(done | {failed}))).latex()
    assert "1 of 3 trials not in the tables: 1 failed." in latex
    assert "Not in the tables" not in markdown(stored(), selection=done)


def test_a_trial_that_failed_and_then_finished_is_in_the_table(stored, add):
    add({GAMMA: 2.0}, status="failed", attempt=1)
    add({GAMMA: 2.0}, attempt=2)
    text = markdown(stored())
    assert "n = 1 in every variant" in text
    assert "Not in the tables" not in text


def test_only_the_selection_is_in_the_tables(stored, add):
    chosen = {add({GAMMA: 0.0}), add({GAMMA: 1.0})}
    add({GAMMA: 2.0})
    assert "focal_gamma=2" not in markdown(stored(), selection=chosen)


def test_results_of_other_code_are_shown_as_stale(stored, add):
    add({GAMMA: 0.0})
    add({GAMMA: 2.0}, seed=0, code_digest="old" * 20)
    assert "stale" not in markdown(stored())
    text = markdown(stored(), code=CODE)
    assert header_of(text) == "| Metric | focal_gamma=0 | focal_gamma=2 † (stale) |"
    assert "stale: other code (oldoldoldold) than today's (c0dec0dec0de) made 1 of 1 trial in `focal_gamma=2`." in text


def test_one_stale_trial_marks_its_column(stored, add):
    add({GAMMA: 0.0}, 0)
    add({GAMMA: 0.0}, 1, code_digest="old" * 20)
    text = markdown(stored(), code=CODE)
    assert header_of(text) == "| Metric | focal_gamma=0 † (stale) |"
    assert "made 1 of 2 trials in `focal_gamma=0`." in text


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
    report = build_report(stored(), Recipe("t", (failed,), baseline={GAMMA: 0.0}))
    assert "no finished trial yet" in report.markdown()
    assert "1 of 1 trial not in the tables: 1 failed" in report.markdown()
    assert "1 of 1 trial not in the tables: 1 failed" in report.latex()
    assert report.csv().count("\n") == 1


def test_a_search_that_tested_nothing_says_what_it_judged(stored, add):
    for gamma in (0.0, 2.0):
        for seed in range(2):
            add({GAMMA: gamma}, seed, split="validation")
    add({GAMMA: 3.0}, status="pruned", split="validation")
    report = build_report(stored(), Recipe("t", ()))
    assert report.header[0] == (
        "nothing tested: 2 configurations were judged on validation images alone, and no test image was "
        "opened after the scan of the data folder"
    )
    assert {"images: validation, not test", "seeds: 0, 1 (n = 2 in every variant)"} <= set(report.header)
    assert len(report.lock.trials) == 4
    assert (report.tables, report.records) == ((), ())
    add({GAMMA: 0.0}, 9)
    assert build_report(stored(), Recipe("t", ())).header == ("no finished trial yet",)


def test_validation_rows_stay_out_unless_asked_for(stored, add):
    add({GAMMA: 0.0}, image=(0.9, 0.8))
    trial = add({GAMMA: 2.0}, split="validation")
    text = markdown(stored())
    assert f"`{trial}` finished without test rows: loss.focal_gamma=2, seed 0" in text
    assert "images: validation, not test" in markdown(stored(), split="validation")


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("Diverged", "Diverged: the loss became nan\nmore", "Diverged: the loss became nan"),
        ("WorkerDied", "no sign of life", "WorkerDied: no sign of life"),
        (None, "stopped", "stopped"),
        (None, None, ""),
    ],
)
def test_an_error_names_its_class_once(kind, error, said):
    assert error_line(kind, error) == said


def test_the_last_attempt_gives_the_reason_and_many_missing_trials_are_counted(stored, add):
    late, early = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)
    trial = add({GAMMA: 2.0}, status="failed", attempt=2, started_at=early, ended_at=early, error_kind="E", error="e")
    add({GAMMA: 2.0}, status="interrupted", attempt=1, started_at=late, ended_at=late)
    never = {f"{k:012d}" for k in range(11)}
    lines = build_report(stored(), Recipe("t", tuple({trial} | never))).missing
    assert lines[0] == "12 of 12 trials not in the tables: 1 interrupted, 11 not run."
    assert len(lines) == 12
    assert lines[-1] == "and 2 more."
    assert build_report(stored(), Recipe("t", (trial,))).missing[1].startswith(f"`{trial}` interrupted: ")


def test_columns_that_are_all_baselines_name_none(stored, add):
    """A report over all stored trials has the baselines of earlier plans."""
    for epochs in (2, 30):
        add({"version": "v3"}, version="v3", settings={"training.epochs": epochs})
    text = markdown(stored(), baseline={"version": "v3"})
    assert "Change is (b-a)/a" in text
    assert "Baselines:" not in text
