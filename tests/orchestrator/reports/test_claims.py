"""The ledger: claims as data that fit the sweeps, contrasts found without confounds, and verdicts by the stated rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from moleflow.knobs import fields
from orchestrator import cli
from orchestrator.expansion import expand
from orchestrator.reports.claims import Claim, Rules, Stated, judge, stated_claims
from orchestrator.reports.ledger import ledger, ledger_markdown
from orchestrator.reports.statistics import IMAGES, IMAGES_AND_SEEDS, SEEDS, Paired
from orchestrator.reports.variants import text
from orchestrator.spec import load_sweep

ROOT = Path(__file__).parents[3]
GAMMA, FORM = "loss.focal_gamma", "loss.focal_form"
STATED = stated_claims()
RULES = STATED.rules
CLAIMS = {claim.id: claim for claim in STATED.claims}
REAL = {"dataset": "mvtec"}


def test_every_claim_that_is_to_be_settled_has_a_row():
    assert {claim.id.split("-")[0] for claim in STATED.claims} == {"v2", "v3", "v4", "v4.1", "v5", "v6", "v7"}
    wanted = {
        ("v2-scaling-image", "image_auroc", "mean", "higher"),
        ("v2-task0-pixel", "pixel_auroc", "first", "lower"),
        ("v3-task0-pixel", "pixel_auroc", "first", "higher"),
        ("v3-transfer-image", "image_auroc", "later", "higher"),
        ("v4-image", "image_auroc", "mean", "higher"),
        ("v4-pixel", "pixel_auroc", "mean", "higher"),
        ("v4-bias-later", "image_auroc", "later", "lower"),
        ("v4.1-mends-image", "image_auroc", "later", "higher"),
        ("v5-pixel", "pixel_auroc", "mean", "higher"),
        ("v6-harm-image", "image_auroc", "mean", "lower"),
        ("v7-gamma1-image", "image_auroc", "mean", "higher"),
        ("v7-gamma2-image", "image_auroc", "mean", "higher"),
    }
    assert wanted <= {(c.id, c.metric, c.classes, c.direction) for c in STATED.claims}
    assert (CLAIMS["v4-image"].size, CLAIMS["v4-pixel"].size) == ((0.05, 0.10), (0.10, 0.15))
    assert "v5-compact" in CLAIMS
    assert len(CLAIMS) == len(STATED.claims)


@pytest.mark.parametrize("claim", STATED.claims, ids=lambda claim: claim.id)
def test_the_sweep_that_a_claim_needs_holds_its_contrast_and_nothing_else_differs(claim):
    assert claim.knobs - {"version"} <= fields().keys()
    sweep = load_sweep(ROOT / claim.sweep, data_root=Path("/images"))

    def held(config):
        flat = {}
        for path in fields():
            value = config.model_dump(mode="json")
            for part in path.split("."):
                value = value[part]
            flat[path] = text(value)
        return flat

    settings = [held(variant.config) for variant in expand(sweep).variants]
    before, after = (
        [{p: v for p, v in of.items() if p not in claim.knobs} for of in settings if wanted.items() <= of.items()]
        for wanted in ({p: text(v) for p, v in end.items()} for end in (claim.before, claim.after))
    )
    assert any(of in before for of in after)


def paired(low, high, n=5, baseline=0.8, over=IMAGES_AND_SEEDS, seeds=(None, None)):
    return Paired(tuple(range(n)), baseline, (low + high) / 2, low, high, over, seed_low=seeds[0], seed_high=seeds[1])


@pytest.mark.parametrize(
    ("claim", "measured", "verdict"),
    [
        ("v7-gamma2-image", paired(0.01, 0.03), "held"),
        ("v7-gamma2-image", paired(0.001, 0.006), "held"),
        ("v7-gamma2-image", paired(0.001, 0.004), "refuted"),  # within 0.005 of zero, on the claimed side as it is
        ("v7-gamma2-image", paired(-0.004, 0.005), "refuted"),
        ("v7-gamma2-image", paired(-0.03, -0.01), "refuted"),
        ("v7-gamma2-image", paired(-0.01, 0.03), "undecided"),
        ("v6-harm-image", paired(-0.03, -0.01), "held"),
        ("v6-harm-image", paired(0.01, 0.03), "refuted"),
        ("v4-image", paired(0.03, 0.05), "held"),  # 5 % of 0.8 is 0.04
        ("v4-image", paired(0.07, 0.12), "held"),
        ("v4-image", paired(0.01, 0.03), "undecided"),
        ("v4-image", paired(0.09, 0.12), "undecided"),
        ("v7-gamma2-image", paired(0.01, 0.03, n=2), "undecided"),
        ("v7-gamma2-image", Paired((0, 1, 2), 0.8, 0.02, resampled="not the same test images"), "undecided"),
        ("v7-gamma2-image", Paired((), resampled="no seed in common"), "undecided"),
        ("v7-gamma2-image", paired(0.01, 0.03, 3, over=IMAGES, seeds=(0.002, 0.04)), "held"),
        ("v7-gamma2-image", paired(0.01, 0.03, 3, over=IMAGES, seeds=(-0.01, 0.04)), "undecided"),
        ("v7-gamma2-image", paired(-0.01, 0.03, 3, over=IMAGES, seeds=(0.01, 0.04)), "undecided"),
        ("v7-gamma2-pixel", paired(0.01, 0.03, 3, over=SEEDS, seeds=(0.01, 0.03)), "held"),
    ],
)
def test_the_rules(claim, measured, verdict):
    found, reason = judge(CLAIMS[claim], RULES, measured)
    assert found == verdict
    assert reason


def rows_of(store, name, **named):
    return [row for row in ledger([(store, None)], **named) if row.claim.id == name]


@pytest.fixture
def contrast(add):
    """Add v3 and v7's gammas on several seeds: b's pixel AUROC is a's plus `gain`, spread a little."""

    def contrast(gain, seeds=3, before=None, after=None, **both):
        attempt = REAL | both
        for seed in range(seeds):
            pixel = (0.80 + seed / 100, 0.70)
            add({GAMMA: 0.0}, seed, pixel=pixel, **(attempt | (before or {})))
            moved = tuple(value + gain + (seed - 1) / 2000 for value in pixel)
            add({GAMMA: 2.0}, seed, pixel=moved, **(attempt | (after or {})))

    return contrast


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, "held"), (-0.05, "refuted"), (0.0, "refuted"), (0.006, "held")])
def test_a_contrast_over_three_seeds_is_measured_and_judged(contrast, stored, gain, verdict):
    contrast(gain)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert row.verdict == verdict
    assert row.measured.difference == pytest.approx(gain)
    assert row.measured.resampled == SEEDS
    assert row.footing == "mvtec (leather, grid), efficientnet_lite0, 5 epochs"
    assert (row.before, row.after) == ("focal_gamma=0", "focal_gamma=2")


def test_image_claims_are_judged_from_images_and_seeds(add, stored, make_images):
    for seed in range(5):
        add({GAMMA: 0.0}, seed, images=make_images((0.5, 0.5), seed, 80), **REAL)
        add({GAMMA: 2.0}, seed, images=make_images((2.0, 2.0), seed + 50, 80), **REAL)
    store = stored()
    row = rows_of(store, "v7-gamma2-image")[0]
    assert (row.verdict, row.measured.resampled) == ("held", IMAGES_AND_SEEDS)
    assert rows_of(store, "v7-gamma1-image")[0].reason == "needs sweeps/v7_gamma.yaml"


def test_versions_are_contrasts_of_their_knobs(add, stored):
    for seed in range(3):
        add({"version": "v3"}, seed, settings={GAMMA: 0.0}, version="v3", pixel=(0.8, 0.7 + seed / 100), **REAL)
        add({"version": "v7"}, seed, settings={GAMMA: 2.0}, version="v7", pixel=(0.9, 0.8 + seed / 90), **REAL)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.before, row.after) == ("held", "version=v3", "version=v7")


def test_what_is_not_there_says_which_sweep_to_run(contrast, stored):
    contrast(0.05)
    rows = ledger([(stored(), None)])
    assert [row.claim.id for row in rows] == list(CLAIMS)
    reasons = {row.claim.id: (row.verdict, row.reason) for row in rows}
    assert reasons["v4-image"] == ("undecided", "needs sweeps/versions.yaml")
    assert reasons["v2-scaling-image"] == ("undecided", "needs sweeps/v2_ablation.yaml")
    assert reasons["v5-compact"] == ("undecided", "no column holds normal_latent_norm; needs sweeps/center_weight.yaml")


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ({"settings": {"training.epochs": 40}}, "confounded by training.epochs"),
        (
            {"settings": {"backbone.model": "vit_base", "backbone.grid": 37}},
            "confounded by backbone.grid, backbone.model",
        ),
        ({"code_digest": "other" * 10}, "confounded by code_digest"),
        ({"device_model": "Model B"}, "confounded by device_model"),
        ({"packages": '{"timm":"1.0.99"}'}, "confounded by package timm"),
        ({"settings": {FORM: "relative"}}, "needs sweeps/v7_gamma.yaml"),
    ],
)
def test_a_confounded_contrast_settles_nothing(contrast, stored, after, reason):
    contrast(0.05, after=after)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.reason) == ("undecided", reason)


def test_seeds_that_ran_on_different_machines_pair_by_pair_are_no_confound(add, stored):
    for seed, model in enumerate(("Model A", "Model B", "Model A")):
        for gamma in (0.0, 2.0):
            pixel = (0.8 + seed / 100, 0.7 + gamma / 30)
            add({GAMMA: gamma}, seed, pixel=pixel, device_model=model, **REAL)
    assert rows_of(stored(), "v7-gamma2-pixel")[0].verdict == "held"


@pytest.mark.parametrize(
    ("both", "reason"),
    [
        ({"dataset": "embedded"}, "generated images"),
        ({"flags": '["the backbone\'s weights are random, as the configuration asks"]'}, "random weights"),
        ({"scores_digest": "same"}, "no effect: the setting did not reach the scores (equal digests)"),
        ({"seeds": 2}, "2 seeds in common, 3 needed"),
    ],
)
def test_what_is_no_evidence_settles_nothing(contrast, stored, both, reason):
    contrast(0.05, **both)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.reason) == ("undecided", reason)
    assert row.measured.difference == pytest.approx(0.05, abs=1e-3)


def test_the_words_for_random_weights_are_those_of_the_flag():
    from moleflow.config import TrialConfig

    config = TrialConfig.model_validate({"backbone": {"weights": "random"}})
    assert any(flag.startswith(start) for flag in config.flags() for start in RULES.no_evidence.flags)


def test_saturated_scores_settle_nothing(add, stored):
    for seed in range(3):
        for gamma in (0.0, 2.0):
            add({GAMMA: gamma}, seed, pixel=(1.0, 1.0), **REAL)
    assert rows_of(stored(), "v7-gamma2-pixel")[0].reason == "saturated at 1 in both: no evidence"


@pytest.mark.parametrize(("model", "verdict"), [("vit_base_patch16_224", "held"), ("efficientnet_lite0", "undecided")])
def test_a_claim_about_transformers_is_one_about_transformers_only(add, stored, model, verdict):
    for seed in range(3):
        for enabled in (False, True):
            pixel = (0.8 + seed / 100, 0.7 - 0.1 * enabled)
            add({"attention.enabled": enabled}, seed, pixel=pixel, settings={"backbone.model": model}, **REAL)
    row = rows_of(stored(), "v6-harm-pixel")[0]
    assert row.verdict == verdict
    assert verdict == "held" or row.reason == "a claim about backbone.model vit_* only"


def test_the_first_class_and_the_later_ones_are_told_apart(add, stored):
    classes = ("zipper", "bottle", "leather")
    for seed in range(3):
        for on in (False, True):
            pixel = (0.9 - 0.1 * on, 0.7 + seed / 100, 0.7)
            factors = {"lora.task0": on, "lora.scaling": "alpha/rank"}
            add(factors, seed, classes=classes, image=(1, 1, 1), routing=(1, 1, 1), pixel=pixel, **REAL)
    row = rows_of(stored(), "v2-task0-pixel")[0]
    assert (row.verdict, row.measured.baseline) == ("held", pytest.approx(0.9))
    assert row.measured.difference == pytest.approx(-0.1)


def test_another_start_serves_where_the_first_is_not_there(add, stored):
    for seed in range(3):
        add({"version": "v1", "lora.task0": False, "lora.scaling": "alpha/(2*rank)"}, seed, pixel=(0.9, 0.7), **REAL)
        add({"version": "v2", "lora.task0": True, "lora.scaling": "alpha/rank"}, seed, pixel=(0.8, 0.7), **REAL)
    assert rows_of(stored(), "v2-task0-pixel")[0].verdict == "held"
    for seed in range(3):
        add({"version": "v1", "lora.task0": False, "lora.scaling": "alpha/rank"}, seed, pixel=(0.75, 0.7), **REAL)
    rows = rows_of(stored(), "v2-task0-pixel")
    assert [(row.verdict, row.measured.baseline) for row in rows] == [("refuted", 0.75)]


def test_each_footing_has_its_own_row(contrast, stored):
    contrast(0.05)
    contrast(-0.05, settings={"backbone.model": "vit_base", "backbone.grid": 7})
    found = {row.footing: row.verdict for row in rows_of(stored(), "v7-gamma2-pixel")}
    assert found == {
        "mvtec (leather, grid), efficientnet_lite0, 5 epochs, backbone.grid=14": "held",
        "mvtec (leather, grid), vit_base, 5 epochs, backbone.grid=7": "refuted",
    }


def test_a_contrast_may_span_folders_and_the_order_of_rows_does_not_matter(make_trial, tmp_path):
    from orchestrator.results.store import PartWriter, ResultStore

    def written(place, trials):
        store = ResultStore(tmp_path / place)
        writer = PartWriter(store, "test")
        for gamma, seed in trials:
            writer.add(make_trial({GAMMA: gamma}, seed, pixel=(0.8 + seed / 100, 0.7 + gamma / 30), **REAL))
        writer.flush()
        return store

    trials = [(gamma, seed) for gamma in (0.0, 2.0) for seed in range(3)]
    apart = [(written("a", trials[:3]), None), (written("b", trials[3:]), None)]
    together = ledger([(written("c", trials[::-1]), None)])
    assert ledger(apart) == ledger(apart[::-1]) == together
    assert "held" in {row.verdict for row in together}


def test_only_the_selection_counts(contrast, add, stored):
    contrast(0.05)
    one = add({GAMMA: 3.0})
    rows = ledger([(stored(), {one})])
    assert all(row.measured is None for row in rows)


def test_the_markdown_has_a_row_a_claim_and_the_rules(contrast, stored):
    contrast(0.05)
    rows = ledger([(stored(), None)])
    words = ledger_markdown(rows, RULES)
    lines = [line for line in words.splitlines() if line.startswith("| v")]
    assert len(lines) == len(CLAIMS)
    measured = [row.claim.id for row in rows if row.measured is not None]
    assert {line.split()[1] for line in lines[: len(measured)]} == set(measured) != set(CLAIMS)
    # Image AUROC is the same to the last digit in both, which refutes that it rose.
    assert f"- {len(CLAIMS)} rows: 1 held, 1 refuted, {len(CLAIMS) - 2} undecided" in words
    held = next(line for line in lines if line.startswith("| v7-gamma2-pixel "))
    assert "| 3 | +0.0500 from 0.7550 (+6.6%) | " in held
    assert "**held: the whole interval lies on the claimed side**" in held
    assert "within 0.005 of zero" in words


def test_rules_are_data(contrast, stored):
    contrast(0.05)
    strict = Stated(rules=Rules(negligible=0.2, least_seeds=3), claims=STATED.claims)
    assert rows_of(stored(), "v7-gamma2-pixel", stated=strict)[0].verdict == "refuted"


def test_a_claim_that_says_too_little_or_too_much_is_refused():
    given = json.loads(CLAIMS["v7-gamma2-pixel"].model_dump_json(by_alias=True))
    assert Claim.model_validate(given) == CLAIMS["v7-gamma2-pixel"]
    for changed in (given | {"direction": "better"}, given | {"colour": "red"}):
        with pytest.raises(ValueError, match=r"direction|colour"):
            Claim.model_validate(changed)


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
    for words, held in (((str(place),), 0), ((str(place), str(place), "--all"), 1)):
        monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "claims", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        assert f"rows: {held} held" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "claims", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "holds no sweep" in capsys.readouterr().err
