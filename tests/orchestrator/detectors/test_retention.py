"""Detectors that stay at the end of a run, and those that go."""

from __future__ import annotations

import shutil

import pytest
import yaml

from orchestrator.detectors.choice import choose_detector
from orchestrator.detectors.retention import retain_detectors
from orchestrator.results.detector_files import stored_detectors
from orchestrator.results.store import ResultStore


@pytest.fixture
def trials(add):
    """Gamma 0 and 2 on two seeds; gamma 2 is better."""
    return {
        (gamma, seed): add({"loss.focal_gamma": gamma}, seed, image=(0.9, 0.5 + gamma / 10))
        for gamma in (0.0, 2.0)
        for seed in (0, 1)
    }


def left(store):
    return {trial for trial, _ in stored_detectors(store.folder)}


def test_the_best_variant_keeps_its_detectors_and_the_others_lose_theirs(trials, stored, plan, store_detector):
    store = stored()
    for one in trials.values():
        store_detector(one)
    lines = retain_detectors(store, plan([*trials.values()]), "best", complete=True)
    assert left(store) == {trials[2.0, 0], trials[2.0, 1]}
    assert lines == [f"detectors: {store.folder}/detectors (2 of the best variant, focal_gamma=2, by test images)"]


def test_all_keeps_all(trials, stored, plan, store_detector):
    store = stored()
    for one in trials.values():
        store_detector(one)
    assert retain_detectors(store, plan([*trials.values()]), "all", complete=True) == [
        f"detectors: {store.folder}/detectors (4, of every trial)"
    ]
    assert left(store) == {*trials.values()}


def test_an_unfinished_sweep_keeps_all(trials, stored, plan, store_detector):
    """Any variant may become the best until all trials are finished."""
    store = stored()
    for one in trials.values():
        store_detector(one)
    (line,) = retain_detectors(store, plan([*trials.values(), "0" * 12]), "best", complete=False)
    assert left(store) == {*trials.values()}
    assert "4; the best variant is chosen once all have finished" in line


def test_the_detector_of_a_running_attempt_stays(trials, stored, plan, store_detector):
    """It is written before the rows, which another driver does not see yet."""
    store = stored()
    store_detector("0" * 12)
    for one in trials.values():
        store_detector(one)
    retain_detectors(store, plan([*trials.values()]), "best", complete=True)
    assert "0" * 12 in left(store)


def test_attempts_that_do_not_count_lose_their_detectors(trials, add, stored, plan, store_detector):
    failed = add({"loss.focal_gamma": 0.0}, 0, status="failed", attempt=2)
    assert failed == trials[0.0, 0]
    store = stored()
    for attempt in (1, 2):
        store_detector(failed, attempt)
    retain_detectors(store, plan([*trials.values()]), "all", complete=True)
    assert [*stored_detectors(store.folder)] == [(failed, 1)]


def test_trials_of_an_earlier_plan_keep_their_detectors_and_are_counted_apart(trials, stored, plan, store_detector):
    store = stored()
    for one in trials.values():
        store_detector(one)
    now = [one for key, one in trials.items() if key != (0.0, 1)]
    (line,) = retain_detectors(store, plan(now), "best", complete=True)
    assert left(store) == {trials[2.0, 0], trials[2.0, 1], trials[0.0, 1]}
    assert "(2 of the best variant, focal_gamma=2, by test images; 1 of trials of an earlier plan)" in line


def test_trials_that_finished_before_it_was_asked_for_are_counted(trials, stored, plan, store_detector):
    store = stored()
    (line,) = retain_detectors(store, plan([*trials.values()]), "all", complete=True)
    assert line == "detectors: none is stored, since all trials finished before `keep: all` was set"
    store_detector(trials[2.0, 0])
    lines = retain_detectors(store, plan([*trials.values()]), "all", complete=True)
    assert lines[1].strip() == "3 trials without one: finished before `keep: all` was set"
    lines = retain_detectors(store, plan([*trials.values()]), "best", complete=True)
    assert lines[1].strip().startswith("1 trial without one: finished before `keep: best` was set, or")
    assert "run the sweep into another folder (--out)" in lines[2]


def test_seeds_whose_detectors_were_removed_while_another_variant_was_the_best_are_named_so(
    add, trials, stored, plan, store_detector
):
    store = stored()
    for one in trials.values():
        store_detector(one)
    assert len(retain_detectors(store, plan([*trials.values()]), "best", complete=True)) == 1
    new = [add({"loss.focal_gamma": 0.0}, seed, image=(0.99, 0.99)) for seed in (2, 3)]
    store = stored()
    for one in new:
        store_detector(one)
    lines = retain_detectors(store, plan([*trials.values(), *new]), "best", complete=True)
    assert left(store) == {*new}
    assert "(2 of the best variant, focal_gamma=0, by test images)" in lines[0]
    assert (
        lines[1].strip() == "2 trials without one: removed while another variant was the best; `keep: all` removes none"
    )


def sweep_with(place, **keys):
    path = place / "sweep.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def test_a_run_keeps_the_best_and_a_later_one_whatever_becomes_the_best(place, features, command):
    """It enters no id, and survives the cache."""
    plain = command("plan", "sweep.yaml", "--json").out
    sweep_with(place, keep="best")
    assert command("plan", "sweep.yaml", "--json").out == plain
    ended = command("sweep.yaml", "--backend", "inline")
    assert ended.code == 0
    folder = place / "results/small"
    assert "2 of the best variant, focal_gamma=0, by test images" in ended.out
    assert len(stored_detectors(folder)) == 2
    shutil.rmtree(place / "cache")
    first = choose_detector(folder)
    assert first.path.is_file()
    sweep_with(place, seeds=3)
    ended = command("sweep.yaml", "--backend", "inline")
    assert "4 done, 2 to run" in ended.out
    kept = {trial for trial, _ in stored_detectors(folder)}
    assert len(kept) == 3
    assert first.trial_id in kept


def test_a_sweep_without_keep_stores_no_detector(small_run):
    assert stored_detectors(small_run / "results/small") == {}


def test_every_finished_trial_has_its_detector(kept):
    folder = kept / "results/small"
    finished = ResultStore(folder).finished()
    assert stored_detectors(folder).keys() == {(trial, of.attempt) for trial, of in finished.items()}


def test_an_unknown_word_is_refused(place, command):
    sweep_with(place, keep="some")
    ended = command("plan", "sweep.yaml")
    assert ended.code == 2
    assert "sweep.yaml: keep: given 'some', allowed: best | all" in ended.err
