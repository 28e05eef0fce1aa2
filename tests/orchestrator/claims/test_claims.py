"""Claims as data that fit the sweeps, and verdicts by the stated rules."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.settings.knobs import fields
from orchestrator.claims.claims import StatedClaim, rules_digest, stated_claims
from orchestrator.claims.judging import judge_claim, stands_in_family
from orchestrator.reports.final_metrics import METRICS
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.paired import IMAGES, IMAGES_AND_SEEDS, SEEDS, PairedComparison
from orchestrator.reports.statistics import t_interval, widening
from orchestrator.sweep.expansion import expand
from orchestrator.sweep.sweep import load_sweep

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
    (change, *_) = claim.changes
    assert change.knobs - {"version"} <= fields().keys()
    sweep = load_sweep(ROOT / claim.sweep, data_root=Path("/images"))
    configurations = [settings_of(variant.config) for variant in expand(sweep).variants]
    assert any(lies_between(change, a, b) for a in configurations for b in configurations)


def settings_of(config):
    """A configuration as {dotted knob: text}."""
    flat = {}
    for path in fields():
        value = config.model_dump(mode="json")
        for part in path.split("."):
            value = value[part]
        flat[path] = setting_text(value)
    return flat


def lies_between(change, a, b):
    """True if b is a with the change, and nothing else differs."""
    ends = [{path: setting_text(value) for path, value in end.items()} for end in (change.before, change.after)]
    fits = ends[0].items() <= a.items() and ends[1].items() <= b.items()
    return fits and all(a[path] == b[path] for path in a.keys() - change.knobs)


def test_the_notes_literal_v3_and_v4_are_changes_that_claims_know():
    sweep = load_sweep(ROOT / "sweeps/versions.yaml", base="published", data_root=Path("/images"))
    of = {variant.config.version: settings_of(variant.config) for variant in expand(sweep).variants}
    # The notes ran v3 once more on the footing of v4: its row v3@224 in results/published.
    of["v3@224"] = of["v3"] | {path: of["v4"][path] for path in ("backbone.model", "data.image_size")}
    for names, before, after in (
        (["v3-task0-pixel", "v3-transfer-image", "v3-transfer-pixel"], "v2", "v3"),
        (["v4-image", "v4-pixel", "v4-bias-first", "v4-bias-later"], "v3@224", "v4"),
        (["v4.1-mends-image", "v4.1-mends-pixel"], "v4", "v4.1"),
    ):
        for name in names:
            assert [lies_between(change, of[before], of[after]) for change in CLAIMS[name].changes][-1]


def paired(low, high, n=5, baseline=0.8, over=IMAGES_AND_SEEDS, seeds=None, errors=(0.0, 0.0)):
    """A comparison with given intervals; its differences have half the width as their spread."""
    seeds = seeds or (low, high)
    middle, spread = sum(seeds) / 2, (seeds[1] - seeds[0]) / 2
    differences = tuple(middle + spread * (k % 3 - 1) for k in range(n))
    return PairedComparison(
        tuple(range(n)),
        baseline,
        (low + high) / 2,
        low,
        high,
        over,
        seed_low=seeds[0],
        seed_high=seeds[1],
        differences=differences,
        low_error=errors[0],
        high_error=errors[1],
    )


SMALL = "too small to matter"


@pytest.mark.parametrize(
    ("claim", "measured", "verdict"),
    [
        ("v7-gamma2-image", paired(0.01, 0.03), "held"),
        ("v7-gamma2-image", paired(0.0001, 0.0051), "undecided"),
        ("v7-gamma2-image", paired(0.0019, 0.0049), SMALL),
        ("v7-gamma2-image", paired(-0.004, 0.005), SMALL),
        ("v7-gamma2-image", paired(-0.03, -0.01), "refuted"),
        ("v7-gamma2-image", paired(-0.03, -0.001), "undecided"),
        ("v7-gamma2-image", paired(-0.01, 0.03), "undecided"),
        ("v6-harm-image", paired(-0.03, -0.01), "held"),
        ("v6-harm-image", paired(0.01, 0.03), "refuted"),
        ("v4-image", paired(0.03, 0.05), "held"),  # 5 % of 0.8 is 0.04
        ("v4-image", paired(0.07, 0.12), "held"),
        ("v4-image", paired(0.01, 0.03), "undecided"),
        ("v4-image", paired(0.09, 0.12), "held"),  # A larger effect has no worse verdict.
        ("v7-gamma2-image", paired(0.01, 0.03, n=2), "undecided"),
        ("v7-gamma2-image", PairedComparison((0, 1, 2), 0.8, 0.02, resampled="not the same test images"), "undecided"),
        ("v7-gamma2-image", PairedComparison((), resampled="no seed in common"), "undecided"),
        ("v7-gamma2-image", paired(0.01, 0.03, 3, over=IMAGES, seeds=(0.006, 0.04)), "held"),
        ("v7-gamma2-image", paired(0.01, 0.03, 3, over=IMAGES, seeds=(-0.01, 0.04)), "undecided"),
        ("v7-gamma2-image", paired(-0.01, 0.03, 3, over=IMAGES, seeds=(0.01, 0.04)), "undecided"),
        # Drawing five or ten seeds covers too little of their noise: the t interval has to agree.
        ("v7-gamma2-image", paired(0.01, 0.03, 5, seeds=(-0.01, 0.04)), "undecided"),
        ("v7-gamma2-image", paired(-0.03, -0.01, 10, seeds=(-0.04, 0.001)), "undecided"),
        ("v7-gamma2-image", paired(-0.004, 0.004, 10, seeds=(-0.006, 0.006)), "undecided"),
        ("v7-gamma2-pixel", paired(0.01, 0.03, 3, over=SEEDS, seeds=(0.01, 0.03)), "held"),
        ("v5-compact", paired(-0.003, -0.001, 3, over=SEEDS), "held"),  # no smallest effect but for AUROC
        ("v5-compact", paired(0.001, 0.003, 3, over=SEEDS), "refuted"),
        # A bound has to clear its threshold by two of its Monte Carlo errors.
        ("v7-gamma2-image", paired(0.0052, 0.03, errors=(0.00009, 0.0)), "held"),
        ("v7-gamma2-image", paired(0.0052, 0.03, errors=(0.00011, 0.0)), "undecided"),
        ("v4-image", paired(0.03, 0.0401, errors=(0.0, 0.0001)), "undecided"),
    ],
)
def test_a_claim_is_judged_by_the_stated_rules(claim, measured, verdict):
    found, reason, to_decide = judge_claim(CLAIMS[claim], RULES, measured)
    assert found == verdict
    assert reason
    assert bool(to_decide) == (verdict == "undecided")


RANKS = {"refuted": 0, SMALL: 1, "undecided": 1, "held": 2}
BOUND = st.floats(-0.03, 0.03, allow_nan=False)
WIDTH = st.floats(0.0001, 0.03)
SHIFT = st.floats(0.0, 0.03)


@settings(max_examples=300, deadline=None)
@given(BOUND, WIDTH, SHIFT, SHIFT, st.sampled_from(["v7-gamma2-pixel", "v4-pixel", "v5-compact", "v6-harm-pixel"]))
def test_the_verdict_is_monotone_in_the_interval(low, width, more, widening, name):
    """If both bounds rise, a claim that something is higher never gets a worse verdict."""
    claim, up = CLAIMS[name], 1 if CLAIMS[name].direction == "higher" else -1
    raised = (low + more, low + more + width + widening)
    before, after = (
        RANKS[judge_claim(claim, RULES, paired(*of, n=5, over=SEEDS))[0]] for of in ((low, low + width), raised)
    )
    assert up * before <= up * after


@settings(max_examples=300, deadline=None)
@given(BOUND, WIDTH, st.floats(0.0, 0.49), st.floats(0.0, 0.49))
def test_a_narrower_interval_never_overturns_a_verdict(low, width, from_below, from_above):
    claim = CLAIMS["v7-gamma2-pixel"]
    wide = judge_claim(claim, RULES, paired(low, low + width, over=SEEDS))[0]
    inner = (low + from_below * width, low + width - from_above * width)
    assert wide in ("undecided", judge_claim(claim, RULES, paired(*inner, over=SEEDS))[0])


REFUTED = "direction held, size refuted: claimed"
PLAIN = "the whole interval lies on the claimed side by more than 0.005"
STAYS = "more seeds would not tell if the difference stays as it is"


@pytest.mark.parametrize(
    ("claim", "measured", "verdict", "reason", "to_decide"),
    [
        # A size that is part of the rule decides. One that is only named appears in the reason.
        (
            "v4-image",
            paired(0.0056, 0.0096, seeds=(0.0055, 0.012)),
            "undecided",
            f"{REFUTED} +5 to +10 %, interval +0.7 to +1.2 %, over the seeds +0.7 to +1.5 %",
            STAYS,
        ),
        (
            "v4-pixel",
            paired(0.2, 0.3, 3, over=SEEDS),
            "held",
            f"{PLAIN}, beyond the size that the notes name (+10 to +15 %)",
            "",
        ),
        (
            "v4-image",
            paired(0.01, 0.03, seeds=(0.01, 0.05)),
            "undecided",
            "direction held, size undecided, since the intervals disagree: claimed +5 to +10 %, "
            "interval +1.2 to +3.8 %, over the seeds +1.2 to +6.2 %",
            STAYS,
        ),
        (
            "v2-bundle-pixel",
            paired(0.0064, 0.008, 3, over=SEEDS),
            "held",
            f"{REFUTED} +7.1 %, interval +0.8 to +1.0 %",
            "",
        ),
        (
            "v2-task0-pixel",
            paired(-0.02, -0.01, 3, over=SEEDS),
            "held",
            f"{REFUTED} -6.1 %, interval -2.5 to -1.2 %",
            "",
        ),
        (
            "v2-task0-pixel",
            paired(-0.06, -0.04, 3, over=SEEDS),
            "held",
            f"{PLAIN}, and reaches the size that the notes name (-6.1 %)",
            "",
        ),
        (
            "v2-bundle-pixel",
            paired(0.001, 0.004, 3, over=SEEDS),
            SMALL,
            "the whole interval lies within 0.005 of zero",
            "",
        ),
        ("v7-gamma2-pixel", paired(0.01, 0.03, 3, over=SEEDS), "held", PLAIN, ""),
        # Every undecided row says what would decide it.
        (
            "v7-gamma2-pixel",
            paired(0.001, 0.03, 3, over=SEEDS),
            "undecided",
            "the interval reaches to within 0.005 of zero",
            "14 more seeds would tell",
        ),
        (
            "v7-gamma2-image",
            paired(-0.01, 0.03, 3, over=IMAGES, seeds=(0.01, 0.04)),
            "undecided",
            "test images say undecided, the t interval over the seeds (+0.0100 to +0.0400) says held",
            "more test images would tell, more seeds would not",
        ),
        (
            "v7-gamma2-image",
            paired(0.01, 0.03, n=1),
            "undecided",
            "1 seed in common, 3 needed",
            "at least 2 more seeds are needed",
        ),
        (
            "v5-compact",
            PairedComparison((0, 1, 2), resampled="the metric is undefined"),
            "undecided",
            "the metric is undefined",
            "`moleflow-sweep run sweeps/center_weight.yaml --data IMAGES --out NEW` would tell",
        ),
    ],
)
def test_the_reason_names_a_size_that_is_missed_and_what_would_tell(claim, measured, verdict, reason, to_decide):
    assert judge_claim(CLAIMS[claim], RULES, measured) == (verdict, reason, to_decide)


def test_the_results_hold_the_metric_of_every_claim():
    assert {claim.metric for claim in STATED.claims} <= set(METRICS)


def test_a_nan_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        judge_claim(CLAIMS["v7-gamma2-pixel"], RULES, paired(float("nan"), 0.03, over=SEEDS))


def test_a_claim_that_something_is_recovered_names_the_loss():
    recovering = {claim.id: claim.recovers for claim in STATED.claims if claim.recovers}
    assert recovering == {
        "v3-task0-pixel": "v2-task0-pixel",
        "v4.1-mends-image": "v4-bias-later",
        "v4.1-mends-pixel": "v4-bias-later",
    }
    loss = CLAIMS["v4.1-mends-pixel"].loss(CLAIMS["v4-bias-later"])
    assert (loss.metric, loss.classes, loss.direction, loss.size) == ("pixel_auroc", "later", "lower", None)
    assert (loss.before, loss.after) == (CLAIMS["v4-bias-later"].before, CLAIMS["v4-bias-later"].after)


def test_every_claim_that_states_a_size_in_its_words_has_it_as_data():
    for claim in STATED.claims:
        words = re.search(r"([+-][\d.]+)(?:-([\d.]+))? %", claim.claim)
        size = claim.size or claim.named
        assert (words is None) == (size is None) == (not claim.size_text())
        if words and size:
            sign = 1 if claim.direction == "higher" else -1
            assert size == tuple(pytest.approx(sign * float(of) / 100) for of in (words[1], words[2] or words[1]))
            assert claim.size_text().startswith(words[1])


def test_rules_are_dated_and_one_that_was_changed_still_stands():
    first = RULES.stated[0].since
    assert [rule.since for rule in RULES.stated] == sorted(rule.since for rule in RULES.stated)
    over = [rule for rule in RULES.stated if rule.until is not None]
    assert over
    for rule in over:
        assert rule.until in {later.since for later in RULES.stated if later.since > first}


def test_the_digest_is_over_rules_and_claims_alike():
    own = rules_digest(RULES, STATED.claims)
    assert own == rules_digest(RULES, list(stated_claims().claims))
    assert own != rules_digest(RULES.model_copy(update={"smallest_effect": 0.006}), STATED.claims)
    assert own != rules_digest(RULES, STATED.claims[1:])


def test_the_words_for_random_weights_are_those_of_the_flag():
    from moleflow.settings.config import TrialConfig

    config = TrialConfig.model_validate({"backbone": {"weights": "random"}})
    assert any(flag.startswith(start) for flag in config.flags() for start in RULES.no_evidence.flags)


def test_a_claim_with_missing_or_unknown_keys_is_an_error():
    given = json.loads(CLAIMS["v7-gamma2-pixel"].model_dump_json(by_alias=True))
    assert StatedClaim.model_validate(given) == CLAIMS["v7-gamma2-pixel"]
    for changed in (given | {"direction": "better"}, given | {"colour": "red"}):
        with pytest.raises(ValueError, match=r"direction|colour"):
            StatedClaim.model_validate(changed)


def test_a_verdict_stands_in_a_family_if_its_wider_intervals_say_the_same():
    claim, rng = CLAIMS["v7-gamma2-pixel"], np.random.default_rng(3)
    for n in (3, 5, 10):
        differences = tuple(0.03 + 0.004 * rng.standard_normal(n))
        low, high = t_interval(differences)
        measured = replace(paired(low, high, n, over=SEEDS), differences=differences)
        assert judge_claim(claim, RULES, measured).verdict == "held"
        for family in (1, 40, 10_000):
            wide = t_interval(differences, family)
            assert stands_in_family(claim, RULES, measured, family) == (wide[0] > RULES.smallest_effect)


def test_the_bootstraps_interval_is_widened_for_a_family_too():
    claim = CLAIMS["v7-gamma2-image"]
    clear = tuple(0.05 + 0.0001 * k for k in range(10))
    assert widening(1) == 1 and widening(40) == pytest.approx(1.6466, abs=1e-4)
    for low, stands in ((0.024, True), (0.022, False)):  # 0.05 - 1.6466 * 0.026 = 0.0072, less 0.028 = 0.0039
        measured = replace(paired(low, 0.1 - low, 10, seeds=(0.0498, 0.0511)), difference=0.05, differences=clear)
        assert judge_claim(claim, RULES, measured).verdict == "held"
        assert stands_in_family(claim, RULES, measured, 40) is stands
    assert not stands_in_family(claim, RULES, paired(-0.01, 0.03), 1)
