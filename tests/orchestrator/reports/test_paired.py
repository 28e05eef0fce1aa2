"""Two variants paired by seed: the seeds that count, the intervals, and the verdict."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from orchestrator.reports.bootstrap import ClassScores, read_scores
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.paired import (
    IMAGES,
    IMAGES_AND_SEEDS,
    SEEDS,
    PairedComparison,
    compare_paired,
    judge_family,
)
from orchestrator.reports.statistics import holm, signed_rank, t_interval
from orchestrator.reports.variants import group_variants
from orchestrator.reports.verdicts import FEW_SEEDS, NO_SPREAD, Outcome

GAMMA = "loss.focal_gamma"


@pytest.fixture
def both(stored):
    """Store, and its two variants with their image scores."""

    def both():
        store = stored()
        variants = group_variants(finished_trials(store, None, "test"))
        ids = {trial.trial_id for variant in variants for trial in variant.trials}
        return variants, read_scores(store, ids, "test")

    return both


def test_only_seeds_in_common_count(add, both, make_images):
    for seed in (0, 1, 2):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 0.5), seed))
    for seed in (2, 3, 1):
        add({GAMMA: 2.0}, seed, images=make_images((1.5, 1.0), seed + 10))
    (a, b), scores = both()
    result = compare_paired([(a, b)], scores)[0]
    assert (result.seeds, result.n, result.resampled) == ((1, 2), 2, IMAGES)
    values = [{trial.seed: trial.values["Mean", "image_auroc"] for trial in v.trials} for v in (a, b)]
    assert result.difference == pytest.approx(fmean(values[1][s] - values[0][s] for s in (1, 2)))
    assert result.low <= result.difference <= result.high
    assert result.p == result.floor == 0.5


def test_five_seeds_are_drawn_as_well_and_widen_the_interval(add, both, make_images):
    for seed in range(5):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 1.0), seed, n=200))
        add({GAMMA: 2.0}, seed, images=make_images((0.2 + seed / 2, 1.0), seed + 10, n=200))
    (a, b), scores = both()
    all_seeds = compare_paired([(a, b)], scores)[0]
    assert all_seeds.resampled == IMAGES_AND_SEEDS
    few = type(a)(a.label, a.factors, a.trials[:4])
    four = compare_paired([(few, b)], scores)[0]
    assert four.resampled == IMAGES
    assert all_seeds.high - all_seeds.low > 1.5 * (four.high - four.low)


def test_one_seed_gives_an_interval_over_images_and_no_test(add, both, make_images):
    add({GAMMA: 0.0}, images=make_images((1.0, 0.5)))
    add({GAMMA: 2.0}, images=make_images((1.5, 1.0), 1))
    (a, b), scores = both()
    result = compare_paired([(a, b)], scores)[0]
    assert result.low < result.high
    assert (result.p, result.p_holm, result.effect, result.noise) == (None, None, None, None)
    assert (result.outcome, result.reason) == (Outcome.UNDECIDED, FEW_SEEDS)
    assert result.verdict() == "undecided: at least 2 more seeds are needed (fewer than three seeds)"


def test_no_common_seed_other_images_and_wrong_scores_give_no_interval(add, both, make_images):
    add({GAMMA: 0.0}, 0, images=make_images((1.0, 0.5)))
    add({GAMMA: 1.0}, 1, images=make_images((1.0, 0.5)))
    add({GAMMA: 2.0}, 0, images=make_images((1.0, 0.5), n=20))
    add({GAMMA: 3.0}, 0)
    (a, b, c, d), scores = both()
    results = compare_paired([(a, b), (a, c), (a, d)], scores)
    assert [result.resampled.split(";")[0] for result in results] == [
        "no seed in common",
        "not the same test images",
        "no image scores are stored",
    ]
    assert [result.difference is None for result in results] == [True, False, False]
    trial = a.trials[0].trial_id
    leather = scores[trial]["leather"]
    spoilt = scores | {
        trial: scores[trial] | {"leather": ClassScores(leather.images, leather.anomalous, -leather.scores)}
    }
    assert "do not give the stored image AUROC" in compare_paired([(a, a)], spoilt)[0].resampled


def test_pixel_metrics_have_an_interval_over_seeds_alone(add, both):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(0.90, 0.80 + seed / 100))
        add({GAMMA: 2.0}, seed, pixel=(0.92, 0.81 + seed / 50))
    (a, b), scores = both()
    result = compare_paired([(a, b)], scores, metric="pixel_auroc")[0]
    assert result.resampled == SEEDS
    assert (result.low, result.high) == pytest.approx(t_interval([0.015, 0.020, 0.025]))
    first = compare_paired([(a, b)], scores, [("leather",)], "pixel_auroc")[0]
    assert (first.low, first.high) == pytest.approx((0.02, 0.02))


def test_equal_digests_are_no_test_and_saturation_is_no_evidence(add, both, make_images):
    perfect = [([0, 1], [0.1, 0.9])] * 2
    for seed in range(3):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 0.5), seed * 7, 60), scores_digest=f"s{seed}")
        add({GAMMA: 1.0}, seed, images=make_images((1.0, 0.5), seed * 7, 60), scores_digest=f"s{seed}")
        add({GAMMA: 2.0}, seed, images=make_images((1.0, 0.5), seed * 7, 60))
        add({GAMMA: 3.0}, seed, images=make_images((5.0, 5.0), seed, 60))
        add({GAMMA: 4.0}, seed, images=perfect)
        add({GAMMA: 5.0}, seed, images=perfect)
    (a, same, alike, better, top, also), scores = both()
    results = compare_paired([(a, same), (a, alike), (a, better), (top, also)], scores)
    outcomes = [Outcome.IDENTICAL, Outcome.WITHIN, Outcome.ABOVE, Outcome.SATURATED]
    assert [result.outcome for result in results] == outcomes
    assert results[0].verdict() == "identical (equal digests)"
    assert results[3].verdict() == "saturated (1 in every class and seed of both)"
    # Equal digests are no test, and do not count in the correction of the others.
    assert (results[0].p, results[0].floor, results[0].p_holm) == (None, None, None)
    tested = results[1:]
    assert [result.p_holm for result in tested] == pytest.approx(holm([result.p for result in tested]))
    assert results[1].noise > 0
    assert (results[1].low, results[1].high) == (0.0, 0.0)


def verdict_of(add, both, before, after):
    """The comparison of pixel AUROC of two variants, given the mean of each seed."""
    for seed, (x, y) in enumerate(zip(before, after, strict=True)):
        add({GAMMA: 0.0}, seed, pixel=(x, x))
        add({GAMMA: 2.0}, seed, pixel=(y, y))
    (a, b), scores = both()
    return compare_paired([(a, b)], scores, metric="pixel_auroc")[0]


@pytest.mark.parametrize(
    ("after", "difference", "interval", "noise", "verdict"),
    [
        # The baseline is 0.80, 0.81, 0.82: its standard deviation is 0.01. t(0.975; 2) is 4.302653,
        # so differences with the standard deviation 0.001 have the half-width 0.0024841.
        ((0.899, 0.910, 0.921), 0.1, (0.0975159, 0.1024841), 0.0210238, "better"),
        ((0.699, 0.710, 0.721), -0.1, (-0.1024841, -0.0975159), 0.0210238, "worse"),
        # Smaller than seed noise, and yet measured: the interval excludes zero.
        ((0.804, 0.815, 0.826), 0.005, (0.0025159, 0.0074841), 0.0210238, "better"),
        (
            (0.800, 0.811, 0.822),
            0.001,
            (-0.0014841, 0.0034841),
            0.0210238,
            "smaller than seed noise: +0.0010 (-0.0015 to +0.0035)",
        ),
        ((0.79, 0.81, 0.83), 0.0, (-0.0248414, 0.0248414), 0.0316228, "smaller than seed noise"),
        ((0.79, 0.82, 0.84), 0.00666667, (-0.0312792, 0.0446125), 0.0382971, "undecided: 2 more seeds would tell"),
    ],
)
def test_a_verdict_compares_the_interval_with_seed_noise_on_both_sides(
    add, both, after, difference, interval, noise, verdict
):
    result = verdict_of(add, both, (0.80, 0.81, 0.82), after)
    assert result.difference == pytest.approx(difference)
    assert (result.low, result.high) == pytest.approx(interval, abs=1e-7)
    assert (result.seed_low, result.seed_high) == (result.low, result.high)
    assert result.noise == pytest.approx(noise, abs=1e-7)  # 2 sqrt((0.01^2 + 0.011^2) / 2) = 0.0210238
    assert result.baseline == pytest.approx(0.81)
    assert result.verdict().startswith(verdict)


def test_ten_seeds_of_four_thousandths_each_are_better(add, both):
    result = verdict_of(
        add, both, *zip(*((0.8 + s / 50, 0.804 + s / 50 + s % 2 / 10_000) for s in range(10)), strict=True)
    )
    assert result.p < 0.01
    assert result.high < result.noise
    assert result.verdict() == "better"
    # The same without any spread: all that the seeds say is that they share a sign.
    same = verdict_of_differences([0.004] * 10)
    assert same.verdict() == "better (no spread between the seeds)"
    assert same.p == pytest.approx(2 / 2**10)


def test_two_noisy_seeds_are_never_a_verdict(add, both):
    result = verdict_of(add, both, (0.70, 0.90), (0.71, 0.89))
    assert (result.outcome, result.reason) == (Outcome.UNDECIDED, FEW_SEEDS)
    assert result.verdict() == "undecided: 1 more seed would tell (fewer than three seeds)"
    far = verdict_of_differences([0.1, 0.1001])
    assert far.outcome is Outcome.UNDECIDED


def verdict_of_differences(differences, noise=0.02, family=1):
    """The verdict on differences seed by seed, as a table of `family` comparisons gives it."""
    one = PairedComparison(
        tuple(range(len(differences))),
        0.8,
        fmean(differences),
        p=signed_rank(differences),
        noise=noise,
        differences=tuple(differences),
    )
    return judge_family([one] * family)[0]


def test_three_seeds_without_spread_say_no_more_than_their_signs():
    result = verdict_of_differences([0.1] * 3)
    assert (result.joint_low, result.joint_high) == (0.1, 0.1)
    assert (result.outcome, result.reason) == (Outcome.UNDECIDED, NO_SPREAD)
    # 2 / 2^6 is below 0.05, and 4 times 2 / 2^8.
    assert result.verdict() == "undecided: 3 more seeds would tell (no spread between the seeds)"
    assert "5 more seeds" in verdict_of_differences([0.1] * 3, family=4).verdict()
    assert verdict_of_differences([0.0] * 3).verdict() == "smaller than seed noise: +0.0000 (+0.0000 to +0.0000)"


def test_a_nan_is_an_error():
    with pytest.raises(ValueError, match="not finite: differences"):
        judge_family([PairedComparison((0, 1, 2), 0.8, 0.1, differences=(0.1, float("nan"), 0.1))])


def test_the_simultaneous_interval_grows_with_the_table():
    alone, of_seven = (verdict_of_differences([0.020, 0.022, 0.029], family=n) for n in (1, 7))
    assert alone.verdict() == "better"
    assert (of_seven.outcome, of_seven.family) == (Outcome.UNDECIDED, 7)
    assert of_seven.joint_low < alone.joint_low
    assert (of_seven.joint_low, of_seven.joint_high) == t_interval([0.020, 0.022, 0.029], family=7)


def test_identical_and_saturated_rows_do_not_widen_the_intervals_of_the_others():
    one = PairedComparison((0, 1, 2), 0.8, 0.1, noise=0.02, differences=(0.1, 0.11, 0.09))
    others = [replace(one, identical=True), replace(one, saturated=True), PairedComparison(())]
    results = judge_family([one, *others])
    assert [of.family for of in results[:3]] == [1, 1, 1]
    assert [of.outcome for of in results] == [Outcome.ABOVE, Outcome.IDENTICAL, Outcome.SATURATED, None]


def test_the_effect_and_the_test_take_the_differences_seed_by_seed(add, both):
    result = verdict_of(add, both, (0.80, 0.80, 0.80), (0.81, 0.82, 0.83))
    assert result.effect == pytest.approx(2.0)  # Mean 0.02 over standard deviation 0.01.
    assert (result.p, result.floor, result.p_holm) == (0.25, 0.25, 0.25)
    assert (result.seeds, result.exact) == ((0, 1, 2), True)


def test_saturation_needs_every_class_of_every_seed(add, both):
    assert verdict_of(add, both, (1.0, 1.0), (1.0, 1.0)).outcome is Outcome.SATURATED
    add({GAMMA: 0.0}, 2, pixel=(1.0, 0.9))
    add({GAMMA: 2.0}, 2, pixel=(1.0, 0.9))
    (a, b), scores = both()
    assert compare_paired([(a, b)], scores, metric="pixel_auroc")[0].outcome is not Outcome.SATURATED
    first = compare_paired([(a, b)], scores, [("leather",)], "pixel_auroc")[0]
    assert first.outcome is Outcome.SATURATED


def test_two_seeds_have_no_t_interval_and_other_classes_no_comparison(add, both):
    result = verdict_of(add, both, (0.8, 0.9), (0.7, 0.8))
    assert result.resampled == "scores of pixels are not stored; t over seeds needs three"
    assert (result.low, result.outcome) == (None, Outcome.UNDECIDED)
    add({GAMMA: 3.0}, 0, classes=("leather", "wood"))
    (a, _, c), scores = both()
    other = compare_paired([(a, c)], scores, metric="pixel_auroc")[0]
    assert (other.resampled, other.baseline, other.verdict()) == ("not the same classes", None, "")


def test_an_undefined_metric_is_not_compared(add, both):
    for gamma, pixel in ((0.0, (0.9, None)), (2.0, (0.9, 0.9))):
        add({GAMMA: gamma}, pixel=pixel)
    (a, b), scores = both()
    result = compare_paired([(a, b)], scores, metric="pixel_auroc")[0]
    assert (result.resampled, result.difference, result.verdict()) == ("the metric is undefined", None, "")
    first = compare_paired([(a, b)], scores, [("leather",)], "pixel_auroc")[0]
    assert first.difference == 0.0


def test_missing_digests_are_not_equal_digests(add, both):
    for seed in range(3):
        for gamma in (0.0, 2.0):
            add({GAMMA: gamma}, seed, pixel=(0.8, 0.8 + seed / 100), scores_digest=None)
    (a, b), scores = both()
    result = compare_paired([(a, b)], scores, metric="pixel_auroc")[0]
    assert (result.outcome, result.p) == (Outcome.WITHIN, 1.0)


def test_equal_digests_on_one_seed_are_an_effect_on_the_others(add, both):
    for seed in range(3):
        for gamma in (0.0, 2.0):
            digest = "same" if seed == 0 else f"{gamma} {seed}"
            add({GAMMA: gamma}, seed, pixel=(0.8, 0.8 + (gamma + 1) * seed / 100), scores_digest=digest)
    (a, b), scores = both()
    result = compare_paired([(a, b)], scores, metric="pixel_auroc")[0]
    assert (result.outcome, result.p) == (Outcome.UNDECIDED, 0.5)  # The difference of seed 0 is exactly 0.
