"""The memory bank's columns: a table of their own, and no part in any comparison."""

from __future__ import annotations

import csv
import io

import pytest

from orchestrator.claims.ledger import build_ledger
from orchestrator.html_report.page_data import gather_page_data
from orchestrator.reports.cross_sweep import ComparedSweep, cross_sweep_report
from orchestrator.reports.lock import Recipe
from orchestrator.reports.render import ABSENT
from orchestrator.reports.tables import build_report
from orchestrator.reports.yardstick import LABEL, TITLE

GAMMA, SIDE = "loss.focal_gamma", "backbone.neighbourhood"
RECIPE = Recipe("t", baseline={GAMMA: 0.0})
BANK = {"bank.enabled": True, "bank.patches": 8000, "bank.pick": "random", "training.epochs": 1}
IDENTITY = {"state_digest": None, "scores_digest": None}


@pytest.fixture
def measured(add, make_images):
    """Store two variants with three seeds each, and return their ids."""
    return [
        add({GAMMA: gamma}, seed, images=make_images((1.0 + gamma, 0.5), seed, 80))
        for gamma in (0.0, 2.0)
        for seed in range(3)
    ]


@pytest.fixture
def bank(add):
    """Store a memory bank of some seeds on the footing of the variants, or on another."""

    def store(seeds=(0, 1), image=(0.99, 0.97), factors=None):
        named = {"version": "memory_bank", **(factors or {})}
        return [add(named, seed, image=image, settings=BANK) for seed in seeds]

    return store


def cells(report, title=TITLE):
    (table,) = [table for table in report.tables if table.title == title]
    return table, {name: [cell.text for cell in row] for name, row in table.rows}


def test_a_memory_bank_has_a_table_of_its_own_and_changes_no_other(measured, bank, stored):
    before = build_report(stored(), RECIPE)
    bank()
    report = build_report(stored(), RECIPE)
    others = tuple(table for table in report.tables if table.title != TITLE)
    assert others == before.tables
    assert report.header == before.header
    assert report.missing == ()
    assert report.records[: len(before.records)] == before.records
    table, rows = cells(report)
    assert table.header == ("Metric", "focal_gamma=0", "focal_gamma=2", LABEL)
    assert rows["leather Image AUROC"][-1].startswith("0.9900")
    assert "Seeds of the yardstick: 0, 1." in table.notes
    assert not any(cell.bold for _, row in table.rows for cell in row)
    records = list(csv.DictReader(io.StringIO(report.csv())))
    assert {r["variant"] for r in records if r["marks"] == "yardstick"} == {LABEL}
    assert {r["change"] for r in records if r["marks"] == "yardstick"} == {""}


def test_the_difference_is_over_the_seeds_that_both_have(add, bank, stored):
    for seed, image in enumerate((0.5, 0.6, 0.1)):
        add({GAMMA: 0.0}, seed, image=(image, image))
    bank(seeds=(0, 1), image=(0.9, 0.9))
    _, rows = cells(build_report(stored(), Recipe("t")))
    assert rows["Mean Image AUROC, minus the yardstick"] == ["-0.3500", ABSENT]


def test_each_column_is_measured_against_the_bank_on_its_footing(add, bank, stored):
    for side, image in ((1, 0.5), (3, 0.6)):
        add({SIDE: side}, image=(image, image))
        bank((0,), (0.9, 0.9) if side == 1 else (0.8, 0.8), {SIDE: side})
    add({SIDE: 5}, image=(0.7, 0.7))
    table, rows = cells(build_report(stored(), Recipe("t")))
    assert table.header[-2:] == (f"{LABEL}, neighbourhood=1", f"{LABEL}, neighbourhood=3")
    assert rows["Mean Image AUROC, minus the yardstick"] == ["-0.4000", "-0.2000", ABSENT, ABSENT, ABSENT]


def test_a_memory_bank_is_in_no_ledger_no_comparison_and_no_ranking(measured, bank, stored):
    alone = build_ledger([(stored(), None)])
    ids = bank()
    store = stored()
    assert build_ledger([(store, None)]) == alone
    page = gather_page_data(build_report(store, RECIPE), store, {})
    assert [variant.label for variant in page.variants] == ["focal_gamma=0", "focal_gamma=2"]
    assert {trial.trial_id for trial in page.trials} == set(measured)
    assert page.unfinished == ()
    assert set(page.lock.trials) == {*measured, *ids}
    compared = cross_sweep_report([ComparedSweep("s", store, None)], {GAMMA: 0.0}, "test")
    assert compared.tables[0].header[1:] == ("focal_gamma=0", "focal_gamma=2", "Change")
    assert compared.missing == ()


def test_a_memory_bank_of_other_code_is_marked_stale(measured, bank, stored):
    bank()
    table, _ = cells(build_report(stored(), Recipe("t", code="f" * 64)))
    assert table.header[-1] == f"{LABEL} (stale)"
    assert "`--rerun-stale` runs stale trials again." in table.notes


def test_a_changed_row_of_a_memory_bank_changes_the_lock(measured, bank, stored):
    before = build_report(stored(), RECIPE).lock
    bank()
    after = build_report(stored(), RECIPE).lock
    assert before is not None
    assert after is not None
    assert before.trials.items() < after.trials.items()
