"""The ledger: contrasts measured, judged, and printed with rows that began before the rules."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.claims.claims import Stated, rules_digest, stated_claims
from orchestrator.claims.ledger import build_ledger, ledger_markdown
from orchestrator.cli import entry
from orchestrator.reports.paired import IMAGES_AND_SEEDS, SEEDS
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter

GAMMA, FORM = "loss.focal_gamma", "loss.focal_form"
STATED = stated_claims()
RULES = STATED.rules
CLAIMS = {claim.id: claim for claim in STATED.claims}
REAL = {"dataset": "mvtec"}
RUN = "`moleflow-sweep run sweeps/v7_gamma.yaml --data IMAGES"


def rows_of(store, name, **named):
    return [row for row in build_ledger([(store, None)], **named) if row.claim.id == name]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.05, "held"), (-0.05, "refuted"), (0.0, "too small to matter"), (0.003, "too small to matter")],
)
def test_a_contrast_over_three_seeds_is_measured_and_judged(contrast, stored, gain, verdict):
    contrast(gain)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert row.verdict == verdict
    assert row.measured.difference == pytest.approx(gain)
    assert row.measured.resampled == SEEDS
    assert row.setup == "mvtec (leather, grid), efficientnet_lite0, 5 epochs"
    assert (row.before, row.after) == ("focal_gamma=0", "focal_gamma=2")


def test_image_claims_are_judged_from_images_and_seeds(add, stored, make_images):
    for seed in range(5):
        add({GAMMA: 0.0}, seed, images=make_images((0.5, 0.5), seed, 80), **REAL)
        add({GAMMA: 2.0}, seed, images=make_images((2.0, 2.0), seed + 50, 80), **REAL)
    store = stored()
    row = rows_of(store, "v7-gamma2-image")[0]
    assert (row.verdict, row.measured.resampled) == ("held", IMAGES_AND_SEEDS)
    assert rows_of(store, "v7-gamma1-image")[0].reason == "not measured"


def test_a_claim_without_measurement_names_the_sweep_to_run(contrast, stored):
    contrast(0.05)
    rows = build_ledger([(stored(), None)])
    assert [row.claim.id for row in rows] == list(CLAIMS)
    told = {row.claim.id: (row.verdict, row.reason, row.to_decide) for row in rows}
    for name, sweep in (("v4-image", "versions"), ("v2-scaling-image", "v2_ablation"), ("v5-compact", "center_weight")):
        run = f"`moleflow-sweep run sweeps/{sweep}.yaml --data IMAGES` would tell"
        assert told[name] == ("undecided", "not measured", run)


@pytest.mark.parametrize(
    ("both", "reason", "to_decide"),
    [
        ({"dataset": "embedded"}, "generated images", f"{RUN}` would tell, with real images"),
        (
            {"flags": '["the backbone\'s weights are random, as the configuration asks"]'},
            "random weights",
            f"{RUN}` would tell, with pretrained weights",
        ),
        (
            {"scores_digest": "same"},
            "identical: the setting did not reach the scores (equal digests)",
            "no run with this setup would tell",
        ),
        ({"seeds": 2}, "2 seeds in common, 3 needed", "1 more seed would tell"),
        (
            {"after": {"settings": {"training.epochs": 9}}},
            "confounded by training.epochs",
            f"{RUN}` would tell, with both on one base",
        ),
        (
            {"after": {"device_model": "Model B"}},
            "confounded by device_model",
            f"{RUN} --out NEW` would tell, with both on one machine with the same code and packages",
        ),
    ],
)
def test_an_undecided_row_says_why_and_what_would_decide_it(contrast, stored, both, reason, to_decide):
    contrast(0.05, **both)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.reason, row.to_decide) == ("undecided", reason, to_decide)
    assert row.measured.difference == pytest.approx(0.05, abs=1e-3)


def test_saturated_scores_leave_a_claim_undecided(add, stored):
    for seed in range(3):
        for gamma in (0.0, 2.0):
            add({GAMMA: gamma}, seed, pixel=(1.0, 1.0), **REAL)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert row.reason == "saturated at 1 in both: no evidence"
    assert row.to_decide == "classes that are harder to detect would tell"


def test_a_variant_that_falls_from_a_perfect_baseline_is_not_saturated(add, stored):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(1.0, 1.0), **REAL)
        add({GAMMA: 2.0}, seed, pixel=(0.9, 0.9 + seed / 1000), **REAL)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.reason) == ("refuted", "the whole interval lies on the other side by more than 0.005")


@pytest.mark.parametrize(("model", "verdict"), [("vit_base_patch16_224", "held"), ("efficientnet_lite0", "undecided")])
def test_a_claim_about_transformers_is_one_about_transformers_only(add, stored, model, verdict):
    for seed in range(3):
        for enabled in (False, True):
            pixel = (0.8 + seed / 100, 0.7 - (0.1 + seed / 1000) * enabled)
            add({"attention.enabled": enabled}, seed, pixel=pixel, settings={"backbone.model": model}, **REAL)
    row = rows_of(stored(), "v6-harm-pixel")[0]
    assert row.verdict == verdict
    if verdict == "undecided":
        assert row.reason == "a claim about backbone.model vit_* only"
        assert row.to_decide.endswith("would tell, with backbone.model vit_*")


def test_a_claim_about_transformers_has_no_row_of_another_backbone_beside_theirs(add, stored):
    for model in ("vit_base_patch16_224", "efficientnet_lite0"):
        for seed in range(3):
            for enabled in (False, True):
                pixel = (0.8, 0.7 - (0.1 + seed / 1000) * enabled)
                add({"attention.enabled": enabled}, seed, pixel=pixel, settings={"backbone.model": model}, **REAL)
    (row,) = rows_of(stored(), "v6-harm-pixel")
    assert row.verdict == "held"


def test_only_the_selection_counts(contrast, add, stored):
    contrast(0.05)
    one = add({GAMMA: 3.0})
    rows = build_ledger([(stored(), {one})])
    assert all(row.measured is None for row in rows)


def test_the_markdown_has_a_row_a_claim_and_the_rules(contrast, stored):
    contrast(0.05)
    rows = build_ledger([(stored(), None)])
    words = ledger_markdown(rows, RULES)
    lines = [line for line in words.splitlines() if line.startswith("| v")]
    assert len(lines) == len(CLAIMS)
    measured = [row.claim.id for row in rows if row.measured is not None]
    assert {line.split()[1] for line in lines[: len(measured)]} == set(measured) != set(CLAIMS)
    # Image AUROC is the same to the last digit in both.
    decided = "1 held (1 also simultaneously), 0 refuted, 1 too small to matter (1 also simultaneously)"
    assert f"- {len(CLAIMS)} rows: {decided}, {len(CLAIMS) - 2} undecided" in words
    held = next(line for line in lines if line.startswith("| v7-gamma2-pixel "))
    assert "| 3 | +0.0500 from 0.7550 (+6.6%) | " in held
    assert "**held: the whole interval lies on the claimed side by more than 0.005; also simultaneously**" in held
    assert "within 0.005 of zero" in words
    assert all(bool(row.to_decide) == (row.verdict == "undecided") for row in rows)
    unmeasured = next(line for line in lines if line.startswith("| v4-image "))
    run = "`moleflow-sweep run sweeps/versions.yaml --data IMAGES` would tell"
    assert unmeasured.endswith(f"| undecided: not measured | {run} |")


def test_changed_rules_change_the_verdict(contrast, stored):
    contrast(0.05)
    strict = Stated(rules=RULES.model_copy(update={"smallest_effect": 0.2}), claims=STATED.claims)
    assert rows_of(stored(), "v7-gamma2-pixel", stated=strict)[0].verdict == "too small to matter"


LATE = datetime(2027, 1, 1, tzinfo=UTC)
PERIODS = len({rule.since for rule in RULES.stated if rule.until is None})
BETWEEN = max(rule.since for rule in RULES.stated) - timedelta(seconds=1)


def dated(start, reused=0.0):
    return {"started_at": start, "ended_at": start + timedelta(minutes=1), "seconds_reused": reused}


@pytest.mark.parametrize(
    ("before", "after", "early", "reused"),
    [
        (dated(LATE), dated(LATE), ["none"] * PERIODS, False),
        (dated(LATE), dated(BETWEEN), [*["none"] * (PERIODS - 1), "`v7-gamma2-image`; `v7-gamma2-pixel`"], False),
        (
            dated(datetime(2026, 1, 1, tzinfo=UTC)),
            dated(LATE),
            ["`v7-gamma2-image`; `v7-gamma2-pixel`"] * PERIODS,
            False,
        ),
        (dated(LATE), dated(LATE, 3.0), ["none"] * PERIODS, True),
    ],
)
def test_the_ledger_names_rows_that_began_before_its_rules(contrast, stored, before, after, early, reused):
    contrast(0.05, before=before, after=after)
    lines = ledger_markdown(build_ledger([(stored(), None)]), RULES).splitlines()
    rules = [line for line in lines if line.startswith("- Rules since ")]
    assert [line.rsplit("began before: ", 1)[1] for line in rules if "began before" in line] == [f"{x}." for x in early]
    assert next(line for line in rules if " until " in line).endswith("No longer applied.")
    taken = [line for line in lines if "reuse trained tasks" in line]
    assert [line.endswith(": `v7-gamma2-image`; `v7-gamma2-pixel`.") for line in taken] == [True] * reused
    assert f"digest {rules_digest(RULES, STATED.claims)[:12]} of their content" in "\n".join(lines)
    assert not any("written before the runs" in line for line in lines)
    for rule in RULES.stated:
        assert any(rule.rule in line for line in rules)


def test_a_trial_in_two_folders_counts_from_its_first_start(make_trial, tmp_path):
    stores = []
    for place, start in (("late", LATE), ("early", BETWEEN)):
        stores.append(ResultStore(tmp_path / place))
        writer = PartWriter(stores[-1])
        for gamma in (0.0, 2.0):
            writer.add(make_trial({GAMMA: gamma}, pixel=(0.8, 0.7 + gamma / 30), **REAL, **dated(start)))
        writer.flush()
    for sources in (stores, stores[::-1]):
        (row,) = [
            row for row in build_ledger([(store, None) for store in sources]) if row.claim.id == "v7-gamma2-pixel"
        ]
        assert row.started_at == BETWEEN


def test_the_norm_of_normal_patches_settles_whether_the_centre_loss_makes_them_compact(add, make_trial, writer, stored):
    for seed in range(3):
        for weight in (0.0, 0.05):
            rows = make_trial({"loss.center_weight": weight}, seed, **REAL)
            for row in rows.metrics:
                row["normal_latent_norm"] = 0.9 - 2 * weight + seed / 1000 * (1 + weight)
            writer.add(rows)
    row = rows_of(stored(), "v5-compact")[0]
    assert (row.verdict, row.measured.resampled) == ("held", SEEDS)
    assert row.measured.difference == pytest.approx(-0.1, abs=1e-3)


def test_the_command_prints_the_ledger_of_several_folders(contrast, stored, tmp_path, monkeypatch, capsys):
    contrast(0.05)
    place = stored().folder
    content = {
        "name": "sweep",
        "title": "t",
        "baseline": {},
        "dataset": "mvtec",
        "trials": [],
        "spec": {},
        "command": [],
    }
    (place / "sweep.json").write_text(json.dumps(content))
    other = shutil.copytree(place, tmp_path / "copy")
    for words, held in (((str(place),), 0), ((str(place), str(other), "--all"), 1)):
        monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "claims", *words])
        entry.main()
        assert f"rows: {held} held" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "claims", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_only_the_paired_trials_date_a_row(contrast, add, stored):
    contrast(0.05, **dated(LATE))
    add({GAMMA: 0.0}, 9, **REAL, **dated(datetime(2020, 1, 1, tzinfo=UTC)))
    assert rows_of(stored(), "v7-gamma2-pixel")[0].started_at == LATE


def test_the_row_gives_the_change_against_the_baseline_with_its_sign(add, stored):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(0.80, 0.80), **REAL)
        add({GAMMA: 2.0}, seed, pixel=(0.76, 0.76 + (seed - 1) / 5000), **REAL)
    words = ledger_markdown(rows_of(stored(), "v7-gamma2-pixel"), RULES)
    assert "| -0.0400 from 0.8000 (-5.0%) | -0.0402 to -0.0398, over seeds (t) |" in words
    assert "1 row: 0 held, 1 refuted, 0 too small to matter, 0 undecided" in words


NO_LOSS = "no loss to recover from: that of LoRA on task 0: off to on"


@pytest.mark.parametrize(
    ("loss", "verdict", "reason", "to_decide"),
    [
        (0.06, "held", "the whole interval lies on the claimed side", ""),
        (0.001, "undecided", f"{NO_LOSS} is too small to matter", "no run would tell: there is no loss"),
        (-0.06, "undecided", f"{NO_LOSS} is refuted", "no run would tell: there is no loss"),
        (
            None,
            "undecided",
            "no loss was measured to recover from",
            "`moleflow-sweep run sweeps/v2_ablation.yaml --data IMAGES` would tell",
        ),
    ],
)
def test_a_recovery_needs_a_loss(add, stored, loss, verdict, reason, to_decide):
    of_v2, of_v3 = CLAIMS["v3-task0-pixel"].before, CLAIMS["v3-task0-pixel"].after
    without = of_v2 | {"lora.task0": False}
    for seed in range(3):
        moved = 1 + seed / 100
        if loss is not None:
            add({"version": "v2a"}, seed, settings=without, pixel=(0.8 + loss * moved, 0.7), **REAL)
        add({"version": "v2"}, seed, settings=of_v2, pixel=(0.8, 0.7), **REAL)
        add({"version": "v3"}, seed, settings=of_v3, pixel=(0.8 + 0.05 * moved, 0.7), **REAL)
    (row,) = rows_of(stored(), "v3-task0-pixel")
    assert row.measured.difference == pytest.approx(0.0505, abs=1e-6)
    assert (row.verdict, row.to_decide) == (verdict, to_decide)
    assert row.reason.startswith(reason)


@pytest.mark.parametrize(("gain", "verdict"), [(0.001, "too small to matter"), (-0.05, "refuted")])
def test_a_recovery_that_does_not_come_is_decided_without_a_loss(add, stored, gain, verdict):
    of_v2, of_v3 = CLAIMS["v3-task0-pixel"].before, CLAIMS["v3-task0-pixel"].after
    for seed in range(3):
        add({"version": "v2"}, seed, settings=of_v2, pixel=(0.8, 0.7), **REAL)
        add({"version": "v3"}, seed, settings=of_v3, pixel=(0.8 + gain * (1 + seed / 100), 0.7), **REAL)
    (row,) = rows_of(stored(), "v3-task0-pixel")
    assert (row.verdict, row.to_decide) == (verdict, "")


ALL_VERSIONS = Path(__file__).parents[3] / "results" / "measured" / "all-versions"


@pytest.mark.process
def test_no_verdict_hangs_on_the_seed_of_the_bootstrap(monkeypatch):
    found = set()
    for seed in range(8):
        monkeypatch.setattr("orchestrator.reports.paired.BOOTSTRAP_SEED", seed)
        found.add(tuple((row.claim.id, row.verdict) for row in build_ledger([(ResultStore(ALL_VERSIONS), None)])))
    (verdicts,) = found
    assert ("v3-transfer-image", "held") in verdicts
