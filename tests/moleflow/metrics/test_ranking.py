"""AUROC, AP and F1-max against scikit-learn, and by the properties that define them."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from moleflow.metrics.ranking import Ranking, ranking

CLOSE = 1e-12


def assert_equals_scikit_learn(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> None:
    found = ranking(labels, scores)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=CLOSE)
    assert found.ap == pytest.approx(average_precision_score(labels, scores), abs=CLOSE)
    precision, recall, _ = precision_recall_curve(labels, scores)
    both = precision + recall > 0
    f1 = 2 * precision[both] * recall[both] / (precision[both] + recall[both])
    assert found.f1_max == pytest.approx(f1.max(), abs=CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("step", [None, 0.5, 0.01])
def test_equals_scikit_learn(dtype: type, rate: float, step: float | None) -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(20_000) < rate
    scores = rng.standard_normal(20_000) + labels
    if step is not None:
        scores = np.round(scores / step) * step  # ties within and across the classes
    assert 0 < labels.sum() < labels.size
    assert_equals_scikit_learn(labels, scores.astype(dtype))


def test_neighbouring_float32_scores_are_told_apart() -> None:
    low = np.float32(-600.0)
    scores = np.array([low, np.nextafter(low, np.float32(0))], dtype=np.float32)
    assert ranking([0, 1], scores).auroc == 1.0
    assert ranking([1, 0], scores).auroc == 0.0


def test_extreme_finite_scores() -> None:
    info = np.finfo(np.float32)
    scores = np.array([info.min, -info.tiny, info.smallest_subnormal, info.max], dtype=np.float32)
    assert ranking([0, 0, 1, 1], scores) == Ranking(auroc=1.0, ap=1.0, f1_max=1.0)


def test_both_zeros_are_one_score() -> None:
    assert ranking([1, 0], [-0.0, 0.0]).auroc == 0.5
    assert ranking([0, 1], [-0.0, 0.0]).auroc == 0.5


def test_constant_scores_are_chance() -> None:
    labels = np.arange(10) < 3
    found = ranking(labels, np.full(10, 2.5))
    assert found.auroc == 0.5
    assert found.ap == pytest.approx(0.3, abs=CLOSE)
    assert found.f1_max == pytest.approx(2 * 0.3 / 1.3, abs=CLOSE)
    assert_equals_scikit_learn(labels, np.full(10, 2.5))


def test_four_scores_by_hand() -> None:
    """Anomalous at 4 and 2, normal at 3 and 1: 3 of 4 pairs are in order.

    From the top: precision 1 at recall 1/2, then 2/3 at recall 1, so AP = 1/2 + 1/3. F1 at two true
    and one false positive: 2 * 2 / (2 + 2 + 1) = 4/5.
    """
    found = ranking([1, 0, 1, 0], [4.0, 3.0, 2.0, 1.0])
    assert (found.auroc, found.ap, found.f1_max) == pytest.approx((0.75, 5 / 6, 0.8))


def test_undefined_is_none() -> None:
    assert ranking([0, 0], [0.1, 0.2]) == Ranking(auroc=None, ap=None, f1_max=None)
    assert ranking([], []) == Ranking(auroc=None, ap=None, f1_max=None)
    assert ranking([1, 1], [0.1, 0.2]) == Ranking(auroc=None, ap=None, f1_max=None)


def test_inputs_are_left_as_they_were() -> None:
    scores = np.array([0.3, 0.1, 0.2])
    ranking(np.ones(3, dtype=bool), scores)
    assert scores.tolist() == [0.3, 0.1, 0.2]


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.0, np.nan], "1 of 2 scores are NaN or infinite"),
        ([0, 1], [np.inf, -np.inf], "2 of 2 scores"),
        ([0, 0], [0.0, np.nan], "1 of 2 scores"),
        ([0, 1, 1], [0.0, 1.0], "one label per score"),
        ([0, 2], [0.0, 1.0], "0 .normal. and 1"),
        ([-1, 1], [0.0, 1.0], "0 .normal. and 1"),
        ([[0, 1]], [[0.0, 1.0]], "1 dimension"),
        ([0, 1], np.array([0.0, 1.0], dtype=np.float16), "float16"),
        ([0, 1], [3, 4], "int64"),
    ],
)
def test_refuses(labels: npt.ArrayLike, scores: npt.ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking(labels, scores)


# Small whole numbers: many ties, and every transform below is exact on them.
labelled = st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=1, max_size=30)


def split(pairs: list[tuple[bool, int]]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    return np.array([label for label, _ in pairs]), np.array([score for _, score in pairs], dtype=np.float64)


@settings(deadline=None)
@given(labelled)
def test_any_small_input_equals_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = split(pairs)
    if labels.any() and not labels.all():
        assert_equals_scikit_learn(labels, scores)
        assert_equals_scikit_learn(labels, scores.astype(np.float32))
    found = ranking(labels, scores)
    assert all(value is None or 0.0 <= value <= 1.0 for value in (found.auroc, found.ap, found.f1_max))


@settings(deadline=None)
@given(labelled)
def test_auroc_is_the_share_of_rightly_ordered_pairs(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = split(pairs)
    ordered = np.sign(scores[labels][:, None] - scores[~labels][None, :])
    expected = None if ordered.size == 0 else float((ordered.mean() + 1) / 2)
    assert ranking(labels, scores).auroc == (expected if expected is None else pytest.approx(expected, abs=CLOSE))


@settings(deadline=None)
@given(labelled, st.randoms(use_true_random=False))
def test_only_the_order_of_the_scores_matters(pairs: list[tuple[bool, int]], random: Random) -> None:
    labels, scores = split(pairs)
    found = ranking(labels, scores)
    assert ranking(labels, 3.0 * scores - 600.0) == found
    assert ranking(labels, scores**3) == found
    assert ranking(labels, np.exp(scores)) == found
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert ranking(*split(shuffled)) == found


@settings(deadline=None)
@given(labelled)
def test_negated_scores_mirror_auroc(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = split(pairs)
    found, mirrored = ranking(labels, scores).auroc, ranking(labels, -scores).auroc
    if found is None or mirrored is None:
        assert found is mirrored
    else:
        assert found + mirrored == pytest.approx(1.0, abs=CLOSE)
