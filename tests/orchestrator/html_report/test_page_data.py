"""The data of a page: caveats, rankings, choices of variants, and unfinished trials."""

from __future__ import annotations

import pytest

from orchestrator.html_report.best_and_worst import extreme_trials
from orchestrator.reports.final_metrics import MEAN


def test_a_confound_and_a_setting_without_effect_are_caveats_of_their_variants(keep, trial, page_data_of, page_of):
    same = {"state_digest": "one", "scores_digest": "one"}
    place = keep([trial(0.0, **same), trial(1.0, **same), trial(2.0, torch="2.0.0")])
    page_data = page_data_of(place)
    labels = [variant.label for variant in page_data.variants]
    caveats = dict(zip(labels, page_data.caveats, strict=True))
    assert [caveat[:9] for caveat in caveats["focal_gamma=0"]] == ["identical"]
    assert [caveat[:9] for caveat in caveats["focal_gamma=1"]] == ["identical"]
    assert caveats["focal_gamma=2"] == ("† torch: 2.0.0",)
    assert list(page_data.variant_numbers) == [
        "focal_gamma=0",
        "focal_gamma=1",
        "focal_gamma=2 †",
    ]
    assert page_data.variant_names[0].endswith(" ∅")
    section = page_of(place).read_text(encoding="utf-8").partition('<section id="tables"')[2].partition("<div")[0]
    assert "† behind a name: a setting differs that is not compared." in section
    assert "∅ behind a name: identical to another variant." in section


def test_of_many_variants_the_baseline_the_best_and_the_worst_are_chosen(keep, trial, page_data_of):
    page_data = page_data_of(keep([trial(float(gamma)) for gamma in range(20)]))
    worth = [variant.values(MEAN, "image_auroc")[0] for variant in page_data.variants]
    best, worst = worth.index(max(worth)), worth.index(min(worth))
    assert page_data.ranking[0] == best
    assert page_data.ranking[-1] == worst
    chosen = page_data.baselines_and_extremes(5)
    assert len(chosen) == 5
    assert {0, best, worst} <= set(chosen)
    assert page_data.variants[0].factors["loss.focal_gamma"] == 0
    assert {best, worst} <= set(page_data.spread_over_ranking(7))
    assert len(page_data.spread_over_ranking(7)) == 7
    assert page_data.baselines_and_extremes(20) == page_data.spread_over_ranking(20) == tuple(range(20))


def test_an_unfinished_trial_shows_its_last_attempt(keep, trial, failed, page_data_of):
    page_data = page_data_of(keep([trial(), failed(gamma=1.0)], not_run=["0123456789ab"]))
    found = {one.status: one for one in page_data.unfinished}
    assert found.keys() == {"failed", "not run"}
    assert found["failed"].error == "RuntimeError: out of memory"
    assert found["failed"].settings["loss.focal_gamma"] == 1
    assert found["not run"].trial_id == "0123456789ab"


@pytest.mark.parametrize(("trials", "is_large"), [(100, False), (101, True)])
def test_a_sweep_of_more_than_a_hundred_trials_is_large(keep, trial, page_data_of, trials, is_large):
    place = keep([trial()], not_run=[f"{k:012x}" for k in range(trials - 1)])
    assert page_data_of(place).is_large is is_large


def test_the_best_and_the_worst_trial_of_each_variant(keep, trial, page_data_of):
    same = {"state_digest": "one", "scores_digest": "one"}
    page_data = page_data_of(keep([trial(0.0, seed) for seed in range(3)] + [trial(1.0, **same)]))
    quality = [one.values[MEAN, "image_auroc"] for one in page_data.variants[0].trials]
    best, worst, only = extreme_trials(page_data)
    assert [(one.variant, one.role) for one in (best, worst, only)] == [
        (0, "highest Image AUROC of its variant"),
        (0, "lowest Image AUROC of its variant"),
        (1, "the only trial of its variant"),
    ]
    assert best.trial.values[MEAN, "image_auroc"] == max(quality)
    assert worst.trial.values[MEAN, "image_auroc"] == min(quality)


def test_baselines_take_at_most_half_of_the_chosen_variants(keep, trial, page_data_of):
    """Each rank has its own baseline, so that there are five baselines of ten variants."""
    trials = [trial(gamma, also={"lora.rank": rank}) for gamma in (0.0, 1.0) for rank in (1, 2, 3, 4, 5)]
    page_data = page_data_of(keep(trials, baseline={"loss.focal_gamma": 0.0}))
    baselines = {k for k in page_data.comparison.baselines if k is not None}
    assert len(baselines) == 5
    chosen = page_data.baselines_and_extremes(4)
    first, second = list(dict.fromkeys(k for k in page_data.comparison.baselines if k is not None))[:2]
    best, worst = page_data.ranking[0], page_data.ranking[-1]
    assert len(chosen) == 4
    assert {first, second} <= set(chosen)
    assert best in chosen or worst in chosen


def test_variants_spread_over_the_ranking_are_equally_far_apart(keep, trial, page_data_of):
    page_data = page_data_of(keep([trial(float(gamma)) for gamma in range(9)]))
    expected = {page_data.ranking[k] for k in (0, 2, 4, 6, 8)}
    assert set(page_data.spread_over_ranking(5)) == expected
