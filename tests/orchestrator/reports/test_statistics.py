"""Paired statistics against scikit-learn, brute force and what is known of them; and the table that shows them."""

from __future__ import annotations

import csv
import io
import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, rankdata, ttest_rel
from sklearn.metrics import roc_auc_score

from orchestrator.reports.bootstrap import ClassScores, Contrast, intervals, read_scores
from orchestrator.reports.statistics import (
    BEYOND,
    IMAGES,
    IMAGES_AND_SEEDS,
    NO_EFFECT,
    NOT_MEASURED,
    SATURATED,
    SEEDS,
    effect_size,
    floor,
    holm,
    paired,
    seed_noise,
    signed_rank,
    t_interval,
)
from orchestrator.reports.tables import build
from orchestrator.reports.variants import finished_trials, group

GAMMA = "loss.focal_gamma"


@pytest.fixture
def both(stored):
    """Store, and its two variants with their image scores."""

    def both():
        store = stored()
        variants = group(finished_trials(store, None, "test"))
        ids = {trial.trial_id for variant in variants for trial in variant.trials}
        return variants, read_scores(store, ids, "test")

    return both


def scored(rng, n, p, shift):
    """Scores of `n` images, `p` of them defective, rounded so that some tie."""
    anomalous = np.arange(n) < p
    return ClassScores(tuple(map(str, range(n))), anomalous, np.round(rng.normal(size=n) + shift * anomalous, 1))


def contrast(rng, sizes, seeds):
    pairs = []
    for _ in range(seeds):
        a = {name: scored(rng, n, p, 0.5) for name, (n, p) in sizes.items()}
        b = {name: scored(rng, n, p, 1.0) for name, (n, p) in sizes.items()}
        pairs.append((a, b))
    return Contrast(tuple(range(seeds)), tuple(pairs), tuple(sizes))


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_the_interval_is_that_of_scikit_learn_computed_anew_for_every_resample(seeds):
    of = contrast(np.random.default_rng(seeds), {"a": (13, 6), "b": (9, 4)}, seeds)

    def slowly(*indices, axis=-1):
        found = []
        for r in range(indices[0].shape[0]):
            rows = [index[r].astype(int) for index in indices]
            drawn_seeds = rows[4] if seeds == 5 else range(seeds)
            differences = []
            for s in drawn_seeds:
                values = []
                for held in of.pairs[s]:
                    aurocs = []
                    for k, name in enumerate(of.classes):
                        bad, good = held[name].scores[held[name].anomalous], held[name].scores[~held[name].anomalous]
                        bad, good = bad[rows[2 * k]], good[rows[2 * k + 1]]
                        labels = [1] * len(bad) + [0] * len(good)
                        aurocs.append(roc_auc_score(labels, np.concatenate([bad, good])))
                    values.append(fmean(aurocs))
                differences.append(values[1] - values[0])
            found.append(fmean(differences))
        return np.array(found)

    sizes = [6, 7, 4, 5] + [5] * (seeds == 5)
    options = {"n_resamples": 60, "confidence_level": 0.95, "method": "percentile", "rng": np.random.default_rng(3)}
    want = bootstrap([np.arange(n) for n in sizes], slowly, vectorized=True, paired=False, **options)
    got = intervals([of], seed=3, resamples=60)[0]
    assert (got.low, got.high) == pytest.approx(tuple(want.confidence_interval), abs=1e-12)
    assert got.over_seeds == (seeds == 5)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    # Scores N(0,1) against N(d,1): AUROC is Phi(d / sqrt 2). Both variants see the same hard images.
    rng = np.random.default_rng(0)
    truth = 0.5 * (math.erf(1.2 / 2) - math.erf(0.8 / 2))
    hits = 0
    for _ in range(200):
        hard, anomalous = rng.normal(size=100) * math.sqrt(0.5), np.arange(100) < 50
        pair = []
        for shift in (0.8, 1.2):
            scores = hard + rng.normal(size=100) * math.sqrt(0.5) + shift * anomalous
            pair.append({"a": ClassScores(tuple(map(str, range(100))), anomalous, scores)})
        interval = intervals([Contrast((0,), (tuple(pair),), ("a",))], seed=1, resamples=200)[0]
        hits += interval.low <= truth <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_pairing_the_images_is_what_makes_the_interval_narrow():
    rng = np.random.default_rng(0)
    n, anomalous = 200, np.arange(200) < 100
    hard = rng.normal(size=n) + 1.0 * anomalous
    names = tuple(map(str, range(n)))
    a = {"a": ClassScores(names, anomalous, hard)}
    b = {"a": ClassScores(names, anomalous, hard + 0.1 * rng.normal(size=n))}
    unrelated = {"a": ClassScores(names, anomalous, rng.normal(size=n) + 1.0 * anomalous)}
    width = []
    for other in (b, unrelated):
        interval = intervals([Contrast((0,), ((a, other),), ("a",))], seed=0)[0]
        width.append(interval.high - interval.low)
    assert width[0] < width[1] / 3


def test_an_interval_does_not_depend_on_what_stands_beside_it():
    rng = np.random.default_rng(5)
    sizes = {"a": (13, 6), "b": (9, 4)}
    few, more, other = contrast(rng, sizes, 2), contrast(rng, sizes, 2), contrast(rng, {"a": (7, 3)}, 5)
    five = Contrast((0, 1, 2, 3, 4), few.pairs * 2 + few.pairs[:1], few.classes)  # the same images, and seeds to draw
    alone = [intervals([of], seed=0, resamples=50)[0] for of in (few, more, other, five)]
    assert intervals([five, other, more, few], seed=0, resamples=50) == alone[::-1]
    assert alone[3].over_seeds and not alone[0].over_seeds


def test_one_image_of_each_kind_gives_no_interval():
    assert intervals([contrast(np.random.default_rng(0), {"a": (2, 1)}, 3)], seed=0) == [None]


@pytest.mark.parametrize(
    ("differences", "p", "least"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.0625, 0.0625),
        ([-0.1, -0.2, -0.3, -0.4, -0.5], 0.0625, 0.0625),
        ([0.1, 0.2, 0.3], 0.25, 0.25),
        ([0.1, 0.0, 0.2], 0.5, 0.5),  # a difference of zero is left out, and raises the floor
        ([0.0, 0.0], 1.0, 1.0),
        ([0.3], None, None),
    ],
)
def test_the_test_and_its_floor(differences, p, least):
    assert signed_rank(differences) == p
    assert floor(differences) == least


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=7))
def test_the_test_is_exact_with_ties_and_zeros(whole):
    differences = [0.01 * k for k in whole]
    nonzero = [k for k in whole if k]
    if not nonzero:
        assert signed_rank(differences) == 1
        return
    ranks = rankdata([abs(k) for k in nonzero])
    sums = [
        sum(r for r, up in zip(ranks, ups, strict=True) if up) for ups in itertools.product((0, 1), repeat=len(ranks))
    ]
    seen = sum(r for r, k in zip(ranks, nonzero, strict=True) if k > 0)
    tails = [sum(s >= seen for s in sums), sum(s <= seen for s in sums)]
    assert signed_rank(differences) == pytest.approx(min(1.0, 2 * min(tails) / len(sums)))
    assert signed_rank(differences) >= floor(differences)


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(p):
    ordered = sorted(p)
    for value, corrected in zip(p, holm(p), strict=True):
        last = len(p) - ordered[::-1].index(value)
        steps = [min(1.0, (len(p) - k) * ordered[k]) for k in range(last)]
        assert corrected == pytest.approx(max(steps))
        assert value <= corrected <= 1


def test_t_interval_effect_size_and_noise_are_the_textbook_ones():
    a, b = [0.80, 0.82, 0.85], [0.83, 0.83, 0.91]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    test = ttest_rel(b, a)
    assert t_interval(differences) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert effect_size(differences) == pytest.approx(test.statistic / math.sqrt(3))  # d_z = t / sqrt(n)
    assert seed_noise(a, b) == pytest.approx(2 * math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2))
    assert t_interval([0.1, 0.2]) is None
    assert t_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert (effect_size([0.1]), effect_size([0.1, 0.1]), seed_noise([0.9], [0.8])) == (None, None, None)


def test_only_seeds_in_common_count(add, both, make_images):
    for seed in (0, 1, 2):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 0.5), seed))
    for seed in (2, 3, 1):
        add({GAMMA: 2.0}, seed, images=make_images((1.5, 1.0), seed + 10))
    (a, b), scores = both()
    result = paired([(a, b)], scores)[0]
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
    all_seeds = paired([(a, b)], scores)[0]
    assert all_seeds.resampled == IMAGES_AND_SEEDS
    few = type(a)(a.label, a.factors, a.trials[:4])
    four = paired([(few, b)], scores)[0]
    assert four.resampled == IMAGES
    assert all_seeds.high - all_seeds.low > 1.5 * (four.high - four.low)


def test_one_seed_gives_an_interval_over_images_and_no_test(add, both, make_images):
    add({GAMMA: 0.0}, images=make_images((1.0, 0.5)))
    add({GAMMA: 2.0}, images=make_images((1.5, 1.0), 1))
    (a, b), scores = both()
    result = paired([(a, b)], scores)[0]
    assert result.low < result.high
    assert (result.p, result.p_holm, result.effect, result.noise, result.verdict) == (None, None, None, None, "")


def test_no_common_seed_other_images_and_wrong_scores_give_no_interval(add, both, make_images):
    add({GAMMA: 0.0}, 0, images=make_images((1.0, 0.5)))
    add({GAMMA: 1.0}, 1, images=make_images((1.0, 0.5)))
    add({GAMMA: 2.0}, 0, images=make_images((1.0, 0.5), n=20))
    add({GAMMA: 3.0}, 0)
    (a, b, c, d), scores = both()
    results = paired([(a, b), (a, c), (a, d)], scores)
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
    assert "do not give the stored image AUROC" in paired([(a, a)], spoilt)[0].resampled


def test_pixel_metrics_have_an_interval_over_seeds_alone(add, both):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(0.90, 0.80 + seed / 100))
        add({GAMMA: 2.0}, seed, pixel=(0.92, 0.81 + seed / 50))
    (a, b), scores = both()
    result = paired([(a, b)], scores, metric="pixel_auroc")[0]
    assert result.resampled == SEEDS
    assert (result.low, result.high) == pytest.approx(t_interval([0.015, 0.020, 0.025]))
    first = paired([(a, b)], scores, [("leather",)], "pixel_auroc")[0]
    assert (first.low, first.high) == pytest.approx((0.02, 0.02))


def test_verdicts(add, both, make_images):
    perfect = [([0, 1], [0.1, 0.9])] * 2
    for seed in range(3):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 0.5), seed * 7, 60), scores_digest=f"s{seed}")
        add({GAMMA: 1.0}, seed, images=make_images((1.0, 0.5), seed * 7, 60), scores_digest=f"s{seed}")
        add({GAMMA: 2.0}, seed, images=make_images((1.0, 0.5), seed * 7, 60))
        add({GAMMA: 3.0}, seed, images=make_images((5.0, 5.0), seed, 60))
        add({GAMMA: 4.0}, seed, images=perfect)
        add({GAMMA: 5.0}, seed, images=perfect)
    (a, same, alike, better, top, also), scores = both()
    results = paired([(a, same), (a, alike), (a, better), (top, also)], scores)
    assert [result.verdict for result in results] == [NO_EFFECT, NOT_MEASURED, BEYOND, SATURATED]
    # Equal digests are no test, and do not count in the correction of the others.
    assert (results[0].p, results[0].floor, results[0].p_holm) == (None, None, None)
    tested = results[1:]
    assert [result.p_holm for result in tested] == pytest.approx(holm([result.p for result in tested]))
    assert results[1].noise > 0
    assert (results[1].low, results[1].high) == (0.0, 0.0)


def statistics_table(report):
    section = report.markdown().split("## Against ")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}, section


def test_the_report_holds_the_comparisons_and_says_what_was_resampled(stored, add, make_images):
    for seed in range(5):
        for gamma, strength in ((0.0, 0.5), (1.0, 0.6), (2.0, 3.0)):
            add({GAMMA: gamma}, seed, images=make_images((strength, 1.0), seed + int(10 * gamma)))
    report = build(stored(), None, {GAMMA: 0.0}, "t")
    table, section = statistics_table(report)
    assert section.startswith("focal_gamma=0: Mean Image AUROC\n")
    assert list(table) == ["focal_gamma=1", "focal_gamma=2"]
    row = table["focal_gamma=2"]
    assert row["n"] == "5"
    assert row["p (Wilcoxon)"] == "0.0625 (floor 0.0625)"
    assert float(row["p (Holm)"]) in (0.0625, 0.125)
    low, high = map(float, row["95 % interval"].split(" to "))
    assert low < float(row["Difference"]) < high
    for words in (
        "of the test images, drawn with replacement within each class",
        "and of the seeds in common",
        "5 seeds 0.0625",
        "none of them can fall below 0.1250",
    ):
        assert words in section
    records = {
        (r["variant"], r["metric"]): r for r in csv.DictReader(io.StringIO(report.csv())) if r["class"] == "Mean"
    }
    assert float(records["focal_gamma=2", "image_auroc_difference"]["mean"]) == pytest.approx(
        float(row["Difference"]), abs=1e-4
    )
    assert records["focal_gamma=2", "image_auroc_p_wilcoxon"]["n"] == "5"
    assert ("focal_gamma=0", "image_auroc_difference") not in records


def test_the_report_says_so_where_seeds_are_few_or_differ(stored, add, make_images):
    for seed in (0, 1, 2):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 0.5), seed))
    for seed in (1, 2, 5):
        add({GAMMA: 2.0}, seed, images=make_images((1.0, 0.5), seed + 10))
    for seed in (1, 2):
        add({GAMMA: 3.0}, seed, images=make_images((1.0, 0.5), seed + 20))
    _, section = statistics_table(build(stored(), None, {GAMMA: 0.0}, "t"))
    assert "only those in common count: `focal_gamma=2` on seeds 1, 2; `focal_gamma=3` on seeds 1, 2." in section
    assert "Seeds are not drawn (fewer than 5 in common)" in section


def test_without_a_baseline_or_a_second_column_there_is_no_such_table(stored, add, make_images):
    add({GAMMA: 0.0}, images=make_images((1.0, 0.5)))
    assert "## Against" not in build(stored(), None, {GAMMA: 0.0}, "t").markdown()
    add({GAMMA: 2.0}, images=make_images((1.0, 0.5)))
    assert "## Against" not in build(stored(), None, None, "t").markdown()
    assert "## Against" in build(stored(), None, {GAMMA: 0.0}, "t").markdown()


def test_equal_scores_make_equal_bytes_whatever_the_order_of_writing(stored, add, make_trial, make_images, tmp_path):
    from orchestrator.results.store import PartWriter, ResultStore

    trials = [({GAMMA: gamma}, seed, make_images((gamma, 1.0), seed)) for gamma in (0.0, 2.0) for seed in (0, 1)]
    for factors, seed, images in trials:
        add(factors, seed, images=images)
    other = ResultStore(tmp_path / "other")
    writer = PartWriter(other, "another")
    for factors, seed, images in reversed(trials):
        rows = make_trial(factors, seed, images=images)
        writer.add(type(rows)(rows.attempt, rows.metrics, list(reversed(rows.scores))))
        writer.flush()
    here, there = (build(store, None, {GAMMA: 0.0}, "t") for store in (stored(), other))
    assert (here.markdown(), here.csv(), here.latex()) == (there.markdown(), there.csv(), there.latex())
    assert "\u2013" not in statistics_table(here)[0]["focal_gamma=2"]["95 % interval"]
