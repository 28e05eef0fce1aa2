"""Metrics after the final task: means over classes, ACC, FM and BWT, and undefined values."""

from __future__ import annotations

import pytest

from orchestrator.reports.final_metrics import final_metrics, partial_metrics, stack_metrics, undefined
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter

GAMMA = "loss.focal_gamma"
CLASSES = ("leather", "grid", "wood")


@pytest.fixture
def store_rows(tmp_path):
    """Store trials."""

    def store(*trials):
        writer = PartWriter(ResultStore(tmp_path / "sweep"))
        for rows in trials:
            writer.add(rows)
        writer.flush()
        return ResultStore(tmp_path / "sweep")

    return store


@pytest.fixture
def store_r(tmp_path, make_trial):
    """Store one trial whose image AUROC is the lower triangle R, one list for each task."""

    def store(r, factors=None, classes=CLASSES, **attempt):
        rows = make_trial(
            factors or {GAMMA: 0.0}, classes=classes, image=[0.5] * 3, pixel=[0.5] * 3, routing=[1] * 3, **attempt
        )
        for row in rows.metrics:
            row["image_auroc"] = r[row["after_task"]][row["task"]]
        writer = PartWriter(ResultStore(tmp_path / "sweep"))
        writer.add(rows)
        writer.flush()
        return ResultStore(tmp_path / "sweep"), rows.attempt["trial_id"]

    return store


def test_the_continual_measures_are_those_worked_out_by_hand(store_r):
    store, trial = store_r([[0.9], [0.95, 0.8], [0.7, 0.6, 0.5]])
    values = final_metrics(store, "test")[trial, 1]
    assert values["leather", "image_auroc"] == 0.7
    assert values["Mean", "image_auroc"] == pytest.approx(0.6)  # (0.7 + 0.6 + 0.5) / 3
    assert values["Mean", "acc_image_auroc"] == pytest.approx(0.6)
    assert values["Mean", "fm_image_auroc"] == pytest.approx(0.225)  # (0.95 - 0.7 + 0.8 - 0.6) / 2
    assert values["Mean", "bwt_image_auroc"] == pytest.approx(-0.2)  # (0.7 - 0.9 + 0.6 - 0.8) / 2
    assert values["leather", "acc_image_auroc"] is None
    assert values.classes == CLASSES
    assert values.images == ((80, 40),) * 3


def test_a_class_without_the_metric_is_left_out_of_the_mean_but_not_of_the_continual_measures(store_r):
    store, trial = store_r([[0.9], [0.9, 0.8], [0.7, 0.6, None]])
    values = final_metrics(store, "test")[trial, 1]
    assert values["wood", "image_auroc"] is None
    assert values["Mean", "image_auroc"] == pytest.approx(0.65)
    assert [values["Mean", f"{measure}_image_auroc"] for measure in ("acc", "fm", "bwt")] == [None] * 3
    assert values.without_means(["image_auroc"])["Mean", "image_auroc"] is None
    assert values["Mean", "image_auroc"] is not None


def test_trials_of_different_lengths_and_attempts_keep_their_own_values(store_r):
    store_r([[0.9], [0.8, 0.7]], classes=("leather", "grid"))
    store_r([[0.4], [0.3, 0.2]], {GAMMA: 1.0}, classes=("grid", "leather"), attempt=2)
    store, long = store_r([[0.9], [0.95, 0.8], [0.7, 0.6, 0.5]], {GAMMA: 2.0})
    metrics = final_metrics(store, "test")
    assert len(metrics) == 3
    first, second = (values for (trial, _), values in sorted(metrics.items(), key=lambda of: of[0][1]) if trial != long)
    assert [first[name, "image_auroc"] for name in ("leather", "grid", "Mean")] == pytest.approx([0.8, 0.7, 0.75])
    assert [second[name, "image_auroc"] for name in ("grid", "leather", "Mean")] == pytest.approx([0.3, 0.2, 0.25])
    assert first["Mean", "bwt_image_auroc"] == pytest.approx(-0.1)
    assert metrics[long, 1]["Mean", "fm_image_auroc"] == pytest.approx(0.225)
    stack = stack_metrics([first, second, metrics[long, 1]])
    assert stack.values("grid", "image_auroc") == pytest.approx([0.7, 0.3, 0.6])
    assert stack.values("wood", "image_auroc") == pytest.approx([0.5])
    assert stack.values("Mean", "image_auroc") == pytest.approx([0.75, 0.25, 0.6])
    assert stack.values("cable", "image_auroc").size == 0


def test_only_rows_of_the_split_count(store_r):
    store, trial = store_r([[0.9], [0.8, 0.7], [0.6, 0.5, 0.4]], split="validation")
    assert final_metrics(store, "test") == {}
    assert final_metrics(store, "validation")[trial, 1]["Mean", "image_auroc"] == pytest.approx(0.5)


def test_undefined_metrics_are_counted_by_class_and_partial_ones_named(store_r):
    store_r([[0.9], [0.9, 0.8], [0.7, 0.6, None]])
    store_r([[0.9], [0.9, 0.8], [0.7, None, None]], {GAMMA: 1.0})
    store, _ = store_r([[0.9], [0.9, 0.8], [0.7, 0.6, None]], {GAMMA: 2.0})
    values = list(final_metrics(store, "test").values())
    of_image = {name: n for (name, metric), n in undefined(values).items() if metric == "image_auroc"}
    assert of_image == {"grid": 1, "wood": 3}
    assert partial_metrics(values) == {"image_auroc": {"grid"}}  # No trial has that of wood.


def joint(rows):
    """The rows of a trial that learned its first two classes as one task."""
    kept = [row for row in rows.metrics if row["after_task"] > 0]
    for row in kept:
        row["after_task"] -= 1
        row["task"] = max(0, row["task"] - 1)
    rows.metrics[:] = kept
    return rows


def test_a_task_of_several_classes_counts_by_class_and_by_task(store_rows, make_trial):
    rows = make_trial({GAMMA: 0.0}, classes=CLASSES, image=[0.5] * 3, pixel=[0.5] * 3, routing=[1] * 3)
    found = iter([0.9, 0.7, 0.7, 0.6, 0.5])  # leather and grid, then all three.
    for row in joint(rows).metrics:
        row["image_auroc"] = next(found)
    values = final_metrics(store_rows(rows), "test")[rows.attempt["trial_id"], 1]
    assert values.classes == CLASSES
    assert values.tasks == (0, 0, 1)
    assert values.has_joint_task
    assert [values[name, "image_auroc"] for name in CLASSES] == [0.7, 0.6, 0.5]
    of_mean = {name: values["Mean", name] for _, name in values if name.endswith("_image_auroc")}
    assert of_mean["acc_image_auroc"] == pytest.approx(0.6)
    assert of_mean["fm_image_auroc"] == pytest.approx((0.9 - 0.7 + 0.7 - 0.6) / 2)
    assert of_mean["bwt_image_auroc"] == pytest.approx(-0.15)
    assert of_mean["task_acc_image_auroc"] == pytest.approx((0.65 + 0.5) / 2)
    assert of_mean["task_fm_image_auroc"] == pytest.approx(0.8 - 0.65)
    assert of_mean["task_bwt_image_auroc"] == pytest.approx(0.65 - 0.8)
    assert len(dict(values)) == len(values)


def test_joint_and_single_sequences_lie_side_by_side(store_rows, make_trial):
    trials = [
        make_trial({GAMMA: gamma}, classes=CLASSES, image=[0.5] * 3, pixel=[0.5] * 3, routing=[1] * 3)
        for gamma in (0.0, 1.0)
    ]
    single, several = trials[0], joint(trials[1])
    for row in single.metrics:
        row["image_auroc"] = [[0.9], [0.95, 0.8], [0.7, 0.6, 0.5]][row["after_task"]][row["task"]]
    metrics = final_metrics(store_rows(single, several), "test")
    alone = metrics[single.attempt["trial_id"], 1]
    assert not alone.has_joint_task
    assert alone.tasks == (0, 1, 2)
    assert alone["Mean", "fm_image_auroc"] == alone["Mean", "task_fm_image_auroc"] == pytest.approx(0.225)
    assert not any(name.startswith("task_") for _, name in alone), "no column that repeats another one"
    assert len(dict(alone)) == len(alone)
    assert metrics[several.attempt["trial_id"], 1].tasks == (0, 0, 1)
