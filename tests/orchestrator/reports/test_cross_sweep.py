"""Several sweeps side by side: names of columns, separate tables, and warnings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.reports.cross_sweep import ComparedSweep, any_column_fits, cross_sweep_report
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter

GAMMA = "loss.focal_gamma"
CODE = "c0de" * 16


@pytest.fixture
def sweep(tmp_path, make_trial):
    """Store generated trials, each (factors, seed, what is named), as a sweep of that name."""

    def store(name, *trials, selection=None):
        writer = PartWriter(ResultStore(tmp_path / name))
        for factors, seed, named in trials:
            writer.add(make_trial(factors, seed, **named))
        writer.flush()
        return ComparedSweep(name, ResultStore(tmp_path / name), selection)

    return store


def gammas(values=(0.0, 2.0), seeds=(0, 1), **named):
    return [
        ({GAMMA: gamma}, seed, {"image": (0.9, 0.5 + gamma / 10 + seed / 50)} | named)
        for gamma in values
        for seed in seeds
    ]


def columns(report):
    return report.tables[0].header[1:]


def cells(report, row, table=0):
    return dict(zip(report.tables[table].header[1:], dict(report.tables[table].rows)[row], strict=True))


def test_columns_name_their_sweep(sweep):
    one = sweep("one", *gammas())
    two = sweep("two", *gammas((2.0, 4.0), settings={"training.epochs": 9}))
    report = cross_sweep_report([one, two], None, "test")
    assert columns(report) == (
        "focal_gamma=0 (one)",
        "focal_gamma=2 (one)",
        "focal_gamma=2 (two) †",
        "focal_gamma=4 (two) †",
    )
    assert report.title == "one and two side by side"
    assert report.header[0] == "sweeps: one (4 trials), two (4 trials)"
    notes = " ".join(report.tables[0].notes)
    assert "Compared: `loss.focal_gamma` (0, 2, 4); `sweep` (one, two)" in notes
    assert "Confounded by `training.epochs`: 5 in `focal_gamma=0 (one)`, `focal_gamma=2 (one)`; 9 in" in notes
    assert report.lock is None


def test_each_column_is_measured_against_its_own_sweep_or_the_one_that_is_named(sweep):
    sources = [sweep("one", *gammas()), sweep("two", *gammas(settings={"training.epochs": 9}, image=(0.9, 0.9)))]
    own = cross_sweep_report(sources, {GAMMA: 0}, "test")
    assert cells(own, "Mean Image AUROC", 1)["focal_gamma=2 (one)"].text == "+14.2%"
    assert cells(own, "Mean Image AUROC", 1)["focal_gamma=2 (two)"].text == "0.0%"
    named = cross_sweep_report(sources, {GAMMA: 0, "sweep": "one"}, "test")
    assert cells(named, "Mean Image AUROC", 1)["focal_gamma=2 (two) †"].text == "+27.7%"
    assert "Against focal_gamma=0 (one): Mean Image AUROC" in [table.title for table in named.tables]
    assert any_column_fits({GAMMA: 0}, sources, "test")
    assert not any_column_fits({GAMMA: 7}, sources, "test")


def test_the_statistics_are_those_of_each_sweeps_own_scores(sweep, make_images):
    def drawn(strength, **named):
        return [
            ({GAMMA: gamma}, seed, {"images": make_images((strength + gamma, 1.0), seed=seed), **named})
            for gamma in (0.0, 2.0)
            for seed in (0, 1)
        ]

    # The very same configurations, and so the same trial ids, run by other code to other scores.
    other = [
        (factors, seed, named | {"scores_digest": f"x{seed}{factors}", "state_digest": f"y{seed}{factors}"})
        for factors, seed, named in drawn(0.0, code_digest="beef" * 16)
    ]
    report = cross_sweep_report([sweep("one", *drawn(2.0)), sweep("two", *other)], {GAMMA: 0}, "test")
    rows = {}
    for title in ("Against", "Intervals and tests against"):
        table = next(of for of in report.tables if of.title.startswith(title) and "Image" in of.title)
        for name, of in table.rows:
            rows.setdefault(name.split(" †")[0], {}).update(zip(table.header[1:], [c.text for c in of], strict=True))
    means = cells(report, "Mean Image AUROC")
    for name in ("one", "two"):
        before, after = (
            float(next(c.text for k, c in means.items() if k.startswith(f"focal_gamma={gamma} ({name})")).split()[0])
            for gamma in (0, 2)
        )
        difference = float(rows[f"focal_gamma=2 ({name})"]["Difference"])
        low, high = map(float, rows[f"focal_gamma=2 ({name})"]["Plain 95 % interval"].split(" to "))
        assert difference == pytest.approx(after - before, abs=2e-4)
        assert low < difference < high
    assert rows["focal_gamma=2 (one)"]["Difference"] != rows["focal_gamma=2 (two)"]["Difference"]


def test_other_images_have_tables_of_their_own(sweep):
    one = sweep("one", *gammas())
    two = sweep("two", *gammas((4.0,), dataset="mvtec", image=(0.99, 0.99), data_digest="d2" * 32))
    report = cross_sweep_report([one, two], {GAMMA: 0}, "test")
    loud = next(line for line in report.header if line.startswith("DIFFERENT IMAGES: "))
    assert "embedded (leather, grid), digest d1d1d1d1d1d1: one" in loud
    assert "mvtec (leather, grid), digest d2d2d2d2d2d2: two" in loud
    tables = [(table.title, table.header[1:]) for table in report.tables]
    mains = [table for table in tables if table[0].startswith("Per class")]
    on_one = "on embedded (leather, grid), digest d1d1d1d1d1d1"
    on_two = "on mvtec (leather, grid), digest d2d2d2d2d2d2"
    assert mains == [
        (f"Per class, after the final task, {on_one}", ("focal_gamma=0 (one)", "focal_gamma=2 (one)", "Change")),
        (f"Per class, after the final task, {on_two}", ("focal_gamma=4 (two)",)),
    ]
    assert {record[0] for record in report.records} == {"embedded", "mvtec"}
    assert all(record[7] is None for record in report.records if record[0] == "mvtec")


def test_the_setting_that_makes_the_images_differ_is_named(sweep):
    one = sweep("one", *gammas((0.0,), settings={"data.test_images": 8}))
    two = sweep("two", *gammas((0.0,), settings={"data.test_images": 16}, dataset="mvtec"))
    (loud,) = (of for of in cross_sweep_report([one, two], None, "test").header if of.startswith("DIFFERENT IMAGES"))
    assert loud.endswith("They differ in `test_images: 8` and `16`.")


def test_other_classes_are_other_images(sweep):
    one = sweep("one", *gammas())
    two = sweep("two", *gammas(classes=("leather", "cable")))
    assert len([t for t in cross_sweep_report([one, two], None, "test").tables if t.title.startswith("Per class")]) == 2


def test_other_code_and_another_environment_are_named_first(sweep):
    one = sweep("one", *gammas(code_digest=CODE))
    two = sweep("two", *gammas((4.0,), code_digest="beef" * 16, torch="2.14.0", packages='{"timm":"1.1"}'))
    header = cross_sweep_report([one, two], None, "test", current_code=CODE).header
    said = [line for line in header if line.startswith("DIFFERENT")]
    assert [line.split(". ")[0] for line in said] == [
        "DIFFERENT CODE: code_digest: beefbeefbeef in two; c0dec0dec0de in one",
        "DIFFERENT ENVIRONMENT: torch: 2.13.0 in one; 2.14.0 in two",
        "DIFFERENT ENVIRONMENT: package timm: 1.0.31 in one; 1.1 in two",
    ]
    assert (
        columns(cross_sweep_report([one, two], None, "test", current_code=CODE))[-1] == "focal_gamma=4 (two) † (stale)"
    )


def test_identical_trials_of_two_sweeps_share_a_column(sweep):
    one, two = sweep("one", *gammas()), sweep("two", *gammas((0.0, 4.0)))
    report = cross_sweep_report([one, two], {GAMMA: 0}, "test")
    assert columns(report) == ("focal_gamma=0 (one, two)", "focal_gamma=2 (one)", "focal_gamma=4 (two)")
    assert "identical trials, equal in every digit, are in two too: they share a column" in report.header
    assert report.header[0] == "sweeps: one (4 trials), two (4 trials)"
    assert cells(report, "Mean Image AUROC", 1)["focal_gamma=4 (two)"].text == "+28.4%"
    assert report.missing == ()


def test_trials_by_other_code_have_columns_of_their_own(sweep):
    one = sweep("one", *gammas((0.0,)))
    two = sweep("two", *gammas((0.0,), code_digest="beef" * 16))
    assert columns(cross_sweep_report([one, two], None, "test")) == ("focal_gamma=0 (one)", "focal_gamma=0 (two) †")


def test_missing_trials_are_named_with_their_sweep(sweep):
    one = sweep("one", *gammas(), selection=frozenset({"f" * 12}))
    two = sweep("two", *gammas((4.0,)))
    report = cross_sweep_report([one, two], None, "test")
    assert report.missing == (
        "one: 1 of 1 trial not in the tables: 1 not run.",
        f"one: `{'f' * 12}` not run",
    )
    assert columns(report) == ("focal_gamma=4",)


def test_a_comparison_without_finished_trials_says_so(sweep):
    report = cross_sweep_report([sweep("one"), sweep("two")], None, "test")
    assert (report.header, report.tables) == (("sweeps: one (0 trials), two (0 trials)",), ())


def test_long_names_give_way_to_those_of_the_own_sweep_and_to_those_of_a_search(sweep):
    versions = [({"version": version}, seed, {"version": version}) for version in ("v3", "v7") for seed in (0, 1)]
    others = {"training.learning_rate": 0.003388, "lora.rank": 8, "loss.center_weight": 0.05}
    found = [({GAMMA: gamma} | others, seed, {}) for gamma in (0.0, 2.0) for seed in (0, 1)]
    one, two = sweep("one", *versions), sweep("two", *found)
    ids = {}
    for row in two.store.read("attempts", ["trial_id", "factors"]).to_pylist():
        ids[row["trial_id"]] = "base" if json.loads(row["factors"])[GAMMA] == 0 else "best #17"
    report = cross_sweep_report([one, replace(two, names=ids)], None, "test")
    names = {name.removesuffix(" †") for name in columns(report)}
    assert names == {"v3 (one)", "v7 (one)", "base (two)", "best #17 (two)"}
    legend = next(line for line in report.header if line.startswith("names: "))
    assert "`best #17 (two)` is version=v7, rank=8, center_weight=0.05, focal_gamma=2, learning_rate=0.003388" in legend
