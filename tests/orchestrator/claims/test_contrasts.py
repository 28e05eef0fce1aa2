"""Contrasts found among stored trials: by knobs, without confounds, one for each setup."""

from __future__ import annotations

import pytest

from orchestrator.claims.claims import stated_claims
from orchestrator.claims.ledger import build_ledger
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter

GAMMA, FORM = "loss.focal_gamma", "loss.focal_form"
STATED = stated_claims()
RULES = STATED.rules
CLAIMS = {claim.id: claim for claim in STATED.claims}
REAL = {"dataset": "mvtec"}


def rows_of(store, name, **named):
    return [row for row in build_ledger([(store, None)], **named) if row.claim.id == name]


def test_versions_are_contrasts_of_their_knobs(add, stored):
    for seed in range(3):
        add({"version": "v3"}, seed, settings={GAMMA: 0.0}, version="v3", pixel=(0.8, 0.7 + seed / 100), **REAL)
        add({"version": "v7"}, seed, settings={GAMMA: 2.0}, version="v7", pixel=(0.9, 0.8 + seed / 90), **REAL)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.before, row.after) == ("held", "version=v3", "version=v7")


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ({"settings": {"training.epochs": 40}}, "confounded by training.epochs"),
        (
            {"settings": {"backbone.model": "vit_base", "backbone.grid": 37}},
            "confounded by backbone.grid, backbone.model",
        ),
        ({"code_digest": "other" * 10}, "confounded by code_digest"),
        ({"device_model": "Model B"}, "confounded by device_model"),
        ({"packages": '{"timm":"1.0.99"}'}, "confounded by package timm"),
        ({"settings": {FORM: "relative"}}, "not measured"),
    ],
)
def test_a_confounded_contrast_is_undecided(contrast, stored, after, reason):
    contrast(0.05, after=after)
    row = rows_of(stored(), "v7-gamma2-pixel")[0]
    assert (row.verdict, row.reason) == ("undecided", reason)


def test_seeds_that_ran_on_different_machines_pair_by_pair_are_no_confound(add, stored):
    for seed, model in enumerate(("Model A", "Model B", "Model A")):
        for gamma in (0.0, 2.0):
            pixel = (0.8 + seed / 100, 0.7 + gamma / 30 + gamma * seed / 2000)
            add({GAMMA: gamma}, seed, pixel=pixel, device_model=model, **REAL)
    assert rows_of(stored(), "v7-gamma2-pixel")[0].verdict == "held"


def test_the_first_class_and_the_later_ones_are_told_apart(add, stored):
    classes = ("zipper", "bottle", "leather")
    for seed in range(3):
        for on in (False, True):
            pixel = (0.9 - 0.1 * on + on * (seed - 1) / 1000, 0.7 + seed / 100, 0.7)
            factors = {"lora.task0": on, "lora.scaling": "alpha/rank"}
            add(factors, seed, classes=classes, image=(1, 1, 1), routing=(1, 1, 1), pixel=pixel, **REAL)
    row = rows_of(stored(), "v2-task0-pixel")[0]
    assert (row.verdict, row.measured.baseline) == ("held", pytest.approx(0.9))
    assert row.measured.difference == pytest.approx(-0.1)


def test_the_second_baseline_of_a_claim_serves_where_the_first_is_missing(add, stored):
    for seed in range(3):
        add({"version": "v1", "lora.task0": False, "lora.scaling": "alpha/(2*rank)"}, seed, pixel=(0.9, 0.7), **REAL)
        add(
            {"version": "v2", "lora.task0": True, "lora.scaling": "alpha/rank"},
            seed,
            pixel=(0.8 + seed / 1000, 0.7),
            **REAL,
        )
    assert rows_of(stored(), "v2-task0-pixel")[0].verdict == "held"
    for seed in range(3):
        add({"version": "v1", "lora.task0": False, "lora.scaling": "alpha/rank"}, seed, pixel=(0.75, 0.7), **REAL)
    rows = rows_of(stored(), "v2-task0-pixel")
    assert [(row.verdict, row.measured.baseline) for row in rows] == [("refuted", 0.75)]


def test_each_setup_has_its_own_row(contrast, stored):
    contrast(0.05)
    contrast(-0.05, settings={"backbone.model": "vit_base", "backbone.grid": 7})
    found = {row.setup: row.verdict for row in rows_of(stored(), "v7-gamma2-pixel")}
    assert found == {
        "mvtec (leather, grid), efficientnet_lite0, 5 epochs, backbone.grid=14": "held",
        "mvtec (leather, grid), vit_base, 5 epochs, backbone.grid=7": "refuted",
    }


def test_a_contrast_may_span_folders_and_the_order_of_rows_does_not_matter(make_trial, tmp_path):
    def written(place, trials):
        store = ResultStore(tmp_path / place)
        writer = PartWriter(store)
        for gamma, seed in trials:
            pixel = (0.8 + seed / 100, 0.7 + gamma / 30 + gamma * seed / 2000)
            writer.add(make_trial({GAMMA: gamma}, seed, pixel=pixel, **REAL))
        writer.flush()
        return store

    trials = [(gamma, seed) for gamma in (0.0, 2.0) for seed in range(3)]
    apart = [(written("a", trials[:3]), None), (written("b", trials[3:]), None)]
    together = build_ledger([(written("c", trials[::-1]), None)])
    assert build_ledger(apart) == build_ledger(apart[::-1]) == together
    assert "held" in {row.verdict for row in together}


def test_of_pairs_of_one_setup_the_one_with_more_common_seeds_counts_then_that_of_one_version(add, stored):
    def gamma(value, version, seeds, pixel):
        for seed in seeds:
            add({"version": version}, seed, settings={GAMMA: value}, version=version, pixel=pixel, **REAL)

    gamma(0.0, "v3", range(3), (0.80, 0.70))
    gamma(0.0, "v7a", range(2), (0.90, 0.90))
    gamma(2.0, "v7", range(3), (0.85, 0.75))
    (row,) = rows_of(stored(), "v7-gamma2-pixel")
    assert (row.before, row.measured.n) == ("version=v3", 3)
    gamma(0.0, "v7", range(3), (0.82, 0.72))
    (row,) = rows_of(stored(), "v7-gamma2-pixel")
    assert row.measured.difference == pytest.approx(0.03)


def test_of_confounded_pairs_the_nearest_names_its_confounds(add, stored):
    for settings in ({"training.epochs": 40, "backbone.grid": 7}, {"training.epochs": 40}):
        add({GAMMA: 0.0}, settings=settings, **REAL)
    add({GAMMA: 2.0}, **REAL)
    (row,) = rows_of(stored(), "v7-gamma2-pixel")
    assert row.reason == "confounded by training.epochs"


V3 = CLAIMS["v3-transfer-pixel"]
LITERAL = {"adapter.mlp_layers": 3, "adapter.output_init": "normal", "adapter.gamma_dims": 4}


def v2_to_v3(add, of_v2, of_v3, gain=0.05, **more):
    for seed in range(3):
        add({"version": "v2"}, seed, settings=V3.before | of_v2, version="v2", pixel=(0.9, 0.7), **more)
        pixel = (0.9, 0.7 + gain * (1 + seed / 100))
        add({"version": "v3"}, seed, settings=V3.after | of_v3, version="v3", pixel=pixel, **more)


@pytest.mark.parametrize(
    ("of_v2", "of_v3", "reason"),
    [
        ({}, LITERAL, "the whole interval lies on the claimed side by more than 0.005"),
        ({}, {}, "the whole interval lies on the claimed side by more than 0.005"),
        (LITERAL, LITERAL, "the whole interval lies on the claimed side by more than 0.005"),
        # Half of the notes' form is neither ours nor theirs.
        ({}, {"adapter.mlp_layers": 3}, "confounded by adapter.mlp_layers"),
        ({}, LITERAL | {"training.epochs": 40}, "confounded by training.epochs"),
    ],
)
def test_v3_in_the_notes_literal_form_is_measured_against_v2(add, stored, of_v2, of_v3, reason):
    v2_to_v3(add, of_v2, of_v3, **REAL)
    (row,) = rows_of(stored(), V3.id)
    assert row.reason == reason
    assert (row.verdict == "held") == ("confounded" not in reason)


def test_the_literal_form_serves_only_setups_without_ours(add, stored):
    v2_to_v3(add, {}, {}, gain=0.05, **REAL)
    v2_to_v3(add, {}, LITERAL, gain=-0.05, **REAL)
    assert [row.verdict for row in rows_of(stored(), V3.id)] == ["held"]
    v2_to_v3(add, {"training.epochs": 40}, {"training.epochs": 40, **LITERAL}, gain=-0.05, **REAL)
    found = {row.setup: row.verdict for row in rows_of(stored(), V3.id)}
    ours, theirs = found
    assert list(found.values()) == ["held", "refuted"]
    assert ours.endswith("5 epochs, adapter.gamma_dims=1, adapter.mlp_layers=2, adapter.output_init=zero")
    assert theirs.endswith("40 epochs")
