"""What a page is about: marks, rankings, choices, and the trials that are not compared."""

from __future__ import annotations

import pytest

from orchestrator.reports.final_metrics import MEAN


def test_a_confound_and_a_setting_without_effect_mark_their_variants(keep, trial, evidence_of):
    same = {"state_digest": "one", "scores_digest": "one"}
    place = keep([trial(0.0, **same), trial(1.0, **same), trial(2.0, torch="2.0.0")])
    evidence = evidence_of(place)
    labels = [variant.label for variant in evidence.variants]
    marks = dict(zip(labels, evidence.marks, strict=True))
    assert [mark[:9] for mark in marks["focal_gamma=0"]] == ["no effect"]
    assert [mark[:9] for mark in marks["focal_gamma=1"]] == ["no effect"]
    assert marks["focal_gamma=2"] == ("† torch: 2.0.0",)
    assert list(evidence.places) == ["focal_gamma=0 (stale)", "focal_gamma=1 (stale)", "focal_gamma=2 † (stale)"]
    assert evidence.names[0].endswith(" ∅")


def test_of_many_variants_the_baseline_the_best_and_the_worst_are_chosen(keep, trial, evidence_of):
    evidence = evidence_of(keep([trial(float(gamma)) for gamma in range(20)]))
    worth = [variant.values(MEAN, "image_auroc")[0] for variant in evidence.variants]
    best, worst = worth.index(max(worth)), worth.index(min(worth))
    assert evidence.ranking[0] == best
    assert evidence.ranking[-1] == worst
    chosen = evidence.chosen(5)
    assert len(chosen) == 5
    assert {0, best, worst} <= set(chosen)
    assert evidence.variants[0].factors["loss.focal_gamma"] == 0
    assert {best, worst} <= set(evidence.spread(7))
    assert len(evidence.spread(7)) == 7
    assert evidence.chosen(20) == evidence.spread(20) == tuple(range(20))


def test_what_did_not_finish_is_told_by_its_last_attempt(keep, trial, failed, evidence_of):
    evidence = evidence_of(keep([trial(), failed(gamma=1.0)], not_run=["0123456789ab"]))
    found = {one.status: one for one in evidence.unfinished}
    assert found.keys() == {"failed", "not run"}
    assert found["failed"].error == "RuntimeError: out of memory"
    assert found["failed"].settings["loss.focal_gamma"] == 1
    assert found["not run"].trial_id == "0123456789ab"


@pytest.mark.parametrize(("trials", "many"), [(100, False), (101, True)])
def test_from_a_hundred_trials_on_there_are_many(keep, trial, evidence_of, trials, many):
    place = keep([trial()], not_run=[f"{k:012x}" for k in range(trials - 1)])
    assert evidence_of(place).many is many
