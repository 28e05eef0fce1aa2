"""The best variant and the seed that scores, chosen by validation images where there are any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moleflow.errors import InvalidInput
from orchestrator.detectors.choice import TEST, VALIDATION, best_variant, choose_detector
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder, write_sweep_folder
from orchestrator.results.detector_files import stored_detectors
from orchestrator.results.store import ResultStore


@pytest.fixture
def trials(add, stored):
    """Gamma 0 and 2 on two seeds; gamma 2 is better, and best with seed 0."""
    found = {
        (gamma, seed): add({"loss.focal_gamma": gamma}, seed, image=(0.9, 0.5 + gamma / 10 - seed / 50))
        for gamma in (0.0, 2.0)
        for seed in (0, 1)
    }
    return found


@pytest.fixture
def folder(trials, stored, plan):
    """The results folder of these trials."""
    store = stored()
    write_sweep_folder(store.folder, plan([*trials.values()]), {})
    return store.folder


def test_test_images_choose_the_variant_but_not_the_seed(trials, folder, plan, store_detector):
    best = best_variant(ResultStore(folder), plan([*trials.values()]))
    assert (best.variant.label, best.split, best.ties) == ("focal_gamma=2", TEST, ())
    assert best.mean == pytest.approx(0.79 + 0.005)
    paths = {key: store_detector(one) for key, one in trials.items()}
    choice = choose_detector(folder)
    assert (choice.trial_id, choice.path) == (trials[2.0, 0], paths[2.0, 0])
    text = "\n".join(choice.reasons)
    assert "focal_gamma=2, the highest mean image AUROC on the test images, as the sweep scores no validation" in text
    assert "its test figures are likely too good" in text
    assert "seed 0: its first seed" in text


def test_the_first_seed_is_taken_even_if_another_is_better_on_test_images(add, stored, plan, store_detector):
    ids = [add({"loss.focal_gamma": 0.0}, seed, image=(0.9, 0.5 + seed / 10)) for seed in (0, 1)]
    store = stored()
    write_sweep_folder(store.folder, plan(ids), {})
    for one in ids:
        store_detector(one)
    assert choose_detector(store.folder).trial_id == ids[0]


def test_validation_images_choose_the_variant_and_the_seed(kept):
    folder = kept / "results/small"
    choice = choose_detector(folder)
    rows = ResultStore(folder).read("metrics").to_pylist()
    means = {}
    for row in rows:
        if row["split"] == VALIDATION and row["after_task"] == 1:
            means.setdefault(row["trial_id"], []).append(row["image_auroc"])
    means = {trial: sum(values) / len(values) for trial, values in means.items()}
    assert len(means) == 4
    assert means[choice.trial_id] == max(means.values())
    text = "\n".join(choice.reasons)
    assert "the highest mean image AUROC on validation images with drawn defects" in text
    tested = {row["trial_id"]: [] for row in rows}
    for row in rows:
        if row["split"] == TEST and row["after_task"] == 1:
            tested[row["trial_id"]].append(row["image_auroc"])
    labels = read_sweep_folder(folder).labels
    own = [np.mean(of) for trial, of in tested.items() if "focal_gamma=0" in labels[trial]]
    assert f"on the test images it has {np.mean(own):.4f}" in text
    assert "focal_gamma=2 has the same value" in text, "gamma changes nothing in two epochs of so small a sweep"


def test_a_variant_without_validation_images_makes_test_images_decide(add, stored, plan):
    ids = [
        add({"loss.focal_gamma": 0.0}, split="validation", image=(0.9, 0.9)),
        add({"loss.focal_gamma": 2.0}, image=(0.6, 0.6)),
    ]
    best = best_variant(stored(), plan(ids))
    assert (best.variant.label, best.split) == ("focal_gamma=2", TEST)


def test_a_memory_bank_is_no_variant(add, stored, plan):
    ids = [
        add({"loss.focal_gamma": 0.0}, image=(0.6, 0.6)),
        add({"loss.focal_gamma": 2.0}, image=(1.0, 1.0), version="memory_bank"),
    ]
    assert best_variant(stored(), plan(ids)).mean == pytest.approx(0.6)


def test_of_a_search_the_finalists_compete(trials, folder, plan):
    tabled = (trials[0.0, 0], trials[0.0, 1])
    assert best_variant(ResultStore(folder), plan([*trials.values()], tabled=tabled)).mean == pytest.approx(0.695)
    untested = best_variant(ResultStore(folder), plan([*trials.values()], tabled=()))
    assert untested.mean == pytest.approx(0.795)


def test_no_image_auroc_leaves_no_best_variant(add, stored, plan, store_detector):
    ids = [add({"loss.focal_gamma": 0.0}, image=(None, None))]
    store = stored()
    assert best_variant(store, plan(ids)) is None
    write_sweep_folder(store.folder, plan(ids), {})
    store_detector(ids[0])
    with pytest.raises(InvalidInput, match=f"has an image AUROC to choose by; give --trial: stored are {ids[0]}"):
        choose_detector(store.folder)


def test_a_trial_can_be_named_by_its_first_digits(trials, folder, store_detector):
    path = store_detector(trials[0.0, 1])
    choice = choose_detector(folder, trials[0.0, 1][:6])
    assert (choice.trial_id, choice.path) == (trials[0.0, 1], path)
    assert choice.reasons == (f"trial:    {trials[0.0, 1]}, label of {trials[0.0, 1]}, as given",)


@pytest.mark.parametrize("given", ["", "zzzz", "../x", "0" * 12])
def test_an_unknown_trial_is_refused_with_those_that_have_a_detector(given, trials, folder, store_detector):
    store_detector(trials[0.0, 1])
    with pytest.raises(InvalidInput, match=r"--trial: given '.*', allowed: the id of a trial with a") as error:
        choose_detector(folder, given)
    assert f"stored are {trials[0.0, 1]} (label of" in str(error.value)
    assert trials[2.0, 0] not in str(error.value)


def test_a_trial_has_the_names_that_diff_takes(trials, folder, store_detector):
    paths = {one: store_detector(one) for one in trials.values()}
    labels = {one: f"focal_gamma={gamma:g} seed={seed}" for (gamma, seed), one in trials.items()}
    write_sweep_folder(folder, SweepFolder("s", "s", {}, (*trials.values(),), "embedded", labels), {})
    for (gamma, seed), one in trials.items():
        few = next(one[:n] for n in range(1, 13) if sum(other.startswith(one[:n]) for other in trials.values()) == 1)
        for given in (one, few, labels[one], f"seed={seed}, focal_gamma={gamma:g}"):
            assert choose_detector(folder, given).path == paths[one]


def test_a_name_means_the_trial_of_the_latest_plan(add, stored, store_detector):
    earlier, now = (add({"loss.focal_gamma": 2.0}, settings={"training.epochs": epochs}) for epochs in (1, 2))
    store = stored()
    for one in (earlier, now):
        store_detector(one)
    write_sweep_folder(store.folder, SweepFolder("s", "s", {}, (now,), "embedded", {now: "focal_gamma=2 seed=0"}), {})
    assert choose_detector(store.folder, "focal_gamma=2 seed=0").trial_id == now
    assert choose_detector(store.folder, earlier).trial_id == earlier


def test_what_the_test_images_say_stands_beside_what_validation_images_chose(
    make_trial, writer, stored, plan, store_detector
):
    ids = []
    for gamma in (0.0, 2.0):
        factors = {"loss.focal_gamma": gamma}
        rows = make_trial(factors, image=(0.9, 0.7 - gamma / 10))
        chosen_by = make_trial(factors, image=(0.9, 0.7 + gamma / 10), split=VALIDATION)
        writer.add(replace(rows, metrics=[*rows.metrics, *chosen_by.metrics]))
        ids.append(rows.attempt["trial_id"])
    store = stored()
    write_sweep_folder(store.folder, plan(ids), {})
    for one in ids:
        store_detector(one)
    choice = choose_detector(store.folder)
    assert choice.trial_id == ids[1]
    assert choice.reasons[:2] == (
        "variant:  focal_gamma=2, the highest mean image AUROC on validation images (0.9000)",
        "          on the test images it has 0.7000; focal_gamma=0, the highest there, has 0.8000",
    )


def test_a_trial_without_a_detector_is_refused_with_those_that_have_one(trials, folder, store_detector):
    with pytest.raises(InvalidInput, match="no trained detector is stored; set `keep: best`"):
        choose_detector(folder)
    store_detector(trials[0.0, 1])
    with pytest.raises(InvalidInput, match=f"no detector of trial {trials[2.0, 0]} is stored; stored are"):
        choose_detector(folder, trials[2.0, 0])
    with pytest.raises(InvalidInput, match="no detector of the best variant, focal_gamma=2, is stored; give --trial"):
        choose_detector(folder)


def test_another_seed_of_the_best_variant_serves(trials, folder, store_detector):
    store_detector(trials[2.0, 1])
    choice = choose_detector(folder)
    assert choice.trial_id == trials[2.0, 1]
    assert "1 of its 2 seeds have no stored detector" in choice.reasons[-1]


def test_the_detector_of_an_attempt_that_does_not_count_is_not_taken(trials, folder, store_detector):
    store_detector(trials[2.0, 0], attempt=2)
    assert [*stored_detectors(folder)] == [(trials[2.0, 0], 2)]
    with pytest.raises(InvalidInput, match="no trained detector is stored"):
        choose_detector(folder)


def test_the_file_of_a_detector_can_be_named(trials, folder, store_detector):
    path = store_detector(trials[2.0, 0])
    assert choose_detector(path).path == path
    with pytest.raises(InvalidInput, match="is the detector of one trial; leave --trial out"):
        choose_detector(path, trials[2.0, 0])


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="holds no sweep"):
        choose_detector(tmp_path)
