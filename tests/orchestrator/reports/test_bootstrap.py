"""Bootstrap intervals against scikit-learn and scipy, and how often they cover."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from orchestrator.reports.bootstrap import ClassScores, Contrast, bootstrap_intervals, read_scores

GAMMA = "loss.focal_gamma"


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
    options = {"n_resamples": 20, "confidence_level": 0.95, "method": "percentile", "rng": np.random.default_rng(3)}
    want = bootstrap([np.arange(n) for n in sizes], slowly, vectorized=True, paired=False, **options)
    got = bootstrap_intervals([of], seed=3, resamples=20)[0]
    assert (got.low, got.high) == pytest.approx(tuple(want.confidence_interval), abs=1e-12)
    assert got.over_seeds == (seeds == 5)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    # Scores N(0,1) against N(d,1): AUROC is Phi(d / sqrt 2). Both variants share hard images.
    rng = np.random.default_rng(0)
    truth = 0.5 * (math.erf(1.2 / 2) - math.erf(0.8 / 2))
    hits = 0
    for _ in range(200):
        hard, anomalous = rng.normal(size=100) * math.sqrt(0.5), np.arange(100) < 50
        pair = []
        for shift in (0.8, 1.2):
            scores = hard + rng.normal(size=100) * math.sqrt(0.5) + shift * anomalous
            pair.append({"a": ClassScores(tuple(map(str, range(100))), anomalous, scores)})
        interval = bootstrap_intervals([Contrast((0,), (tuple(pair),), ("a",))], seed=1, resamples=200)[0]
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
        interval = bootstrap_intervals([Contrast((0,), ((a, other),), ("a",))], seed=0)[0]
        width.append(interval.high - interval.low)
    assert width[0] < width[1] / 3


def test_an_interval_does_not_depend_on_the_contrasts_computed_with_it():
    rng = np.random.default_rng(5)
    sizes = {"a": (13, 6), "b": (9, 4)}
    few, more, other = contrast(rng, sizes, 2), contrast(rng, sizes, 2), contrast(rng, {"a": (7, 3)}, 5)
    five = Contrast((0, 1, 2, 3, 4), few.pairs * 2 + few.pairs[:1], few.classes)  # the same images, and seeds to draw
    alone = [bootstrap_intervals([of], seed=0, resamples=50)[0] for of in (few, more, other, five)]
    assert bootstrap_intervals([five, other, more, few], seed=0, resamples=50) == alone[::-1]
    assert alone[3].over_seeds and not alone[0].over_seeds


def test_one_image_of_each_kind_gives_no_interval():
    assert bootstrap_intervals([contrast(np.random.default_rng(0), {"a": (2, 1)}, 3)], seed=0) == [None]


def test_scores_are_read_by_split_in_the_order_of_the_images(add, stored, make_trial, writer):
    images = [([0, 1, 1], [0.1, 0.9, 0.8]), ([0, 1], [0.2, 0.7])]
    test = add({GAMMA: 0.0}, images=images)
    other = make_trial({GAMMA: 2.0}, images=images, split="validation")
    other.scores.reverse()
    writer.add(other)
    validation = other.attempt["trial_id"]
    assert read_scores(stored(), [validation], "test") == {}
    assert set(read_scores(stored(), [test, validation], "test")) == {test}
    scores = read_scores(stored(), [test, validation], "validation")[validation]
    assert list(scores) == ["grid", "leather"]
    assert scores["leather"].images == tuple(f"leather/test/{k:03d}.png" for k in range(3))
    assert scores["leather"].anomalous.tolist() == [False, True, True]
    assert scores["leather"].scores.tolist() == [0.1, 0.9, 0.8]
    assert scores["grid"].auroc() == 1.0


def test_the_interval_of_a_constant_difference_is_that_difference():
    # Every resample of a has AUROC 0.5 by ties, and every resample of b 1.
    anomalous, names = np.array([True, True, False, False]), tuple("wxyz")
    flat, perfect = (ClassScores(names, anomalous, np.array(scores)) for scores in ([1.0] * 4, [2.0, 2.0, 1.0, 1.0]))
    for seeds in (1, 5):
        of = Contrast(tuple(range(seeds)), (({"a": flat, "b": flat}, {"a": perfect, "b": flat}),) * seeds, ("a", "b"))
        interval = bootstrap_intervals([of], seed=0, resamples=20)[0]
        assert (interval.low, interval.high) == (0.25, 0.25)  # 0.5 in one of two classes.
