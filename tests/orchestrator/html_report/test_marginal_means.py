"""Marginal means, compared with the values that they are means of."""

from __future__ import annotations

import pytest

from orchestrator.html_report.marginal_means import MarginalMeans, marginal_means
from orchestrator.reports.final_metrics import MEAN


def of(variants, key, other):
    return marginal_means(variants, lambda v: v.factors[key], lambda v: v.factors[other], "image_auroc")


@pytest.fixture
def variants(keep, trial, page_data_of):
    def made(settings):
        place = keep([trial(gamma, seed, also={"lora.rank": rank}) for gamma, rank, seed in settings])
        return page_data_of(place).variants

    return made


def test_only_settings_that_all_values_have_are_averaged(variants):
    found = variants([(g, r, s) for g in (0.0, 1.0) for r in (4, 8) for s in range(3)] + [(1.0, 64, 0)])
    means = of(found, "loss.focal_gamma", "lora.rank")
    assert (len(means.means), means.settings) == (2, 2)
    for gamma, estimate in means.means:
        values = [
            trial.values[MEAN, "image_auroc"]
            for variant in found
            if variant.factors["loss.focal_gamma"] == gamma and variant.factors["lora.rank"] != 64
            for trial in variant.trials
        ]
        assert len(values) == 6
        assert estimate.mean == pytest.approx(sum(values) / 6)
        assert estimate.n == 3


def test_seeds_that_a_variant_lacks_are_left_out_of_all(variants):
    found = variants([(0.0, 4, 0), (0.0, 4, 1), (1.0, 4, 1), (1.0, 4, 2)])
    means = of(found, "loss.focal_gamma", "lora.rank")
    assert [estimate.n for _, estimate in means.means] == [1, 1]


def test_values_that_share_no_setting_have_none(variants):
    assert of(variants([(0.0, 4, 0), (1.0, 8, 0)]), "loss.focal_gamma", "lora.rank") == MarginalMeans()


def test_values_that_share_no_seed_have_none(variants):
    assert of(variants([(0.0, 4, 0), (1.0, 4, 1)]), "loss.focal_gamma", "lora.rank") == MarginalMeans()
