"""search.md: costs, savings, tested and best configurations, and the importance of knobs."""

from __future__ import annotations

import optuna
import pytest

from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter
from orchestrator.search.report import ConfigurationValues, knob_importances, write_search_report
from orchestrator.search.tried_configurations import TRIALS

RANKS = {"lora_rank": {"choice": [2, 4]}}
SPLITS = ("validation", "test")


@pytest.fixture
def store_rows(make_trial):
    """Store rows for trials in a folder, with given seconds, metrics and status."""

    def store(folder, trials, seconds, image=(0.9, 0.7), **attempt):
        writer = PartWriter(ResultStore(folder))
        for trial in trials:
            rows = [make_trial({}, trial.config.seed, image=image, pixel=(0.5, 0.5), split=name) for name in SPLITS]
            own = {"trial_id": trial.id, "seconds_spent": seconds, **attempt}
            rows[0].attempt.update(own)
            rows[0].metrics.extend({**row, "image_auroc": row["image_auroc"] - 0.2} for row in rows[1].metrics)
            writer.add(rows[0])
        writer.flush()

    return store


def test_costs_savings_and_the_tested_configurations(driven, store_rows):
    """Seven seeds finish at 3,600 s each; the pruned configuration's only seed takes 1,800 s."""
    one = driven(
        {"seeds": 2}, trials=4, space={"learning_rate": {"loguniform": [1e-4, 1e-1]}}, pruner="median", finalists=1
    )
    finished = []
    for quality in (0.8, 0.6, 0.7):
        for _ in range(2):
            finished.append(one.ask())
            one.finish(finished[-1], quality)
    pruned = one.ask()
    one.end(pruned, "pruned")
    tests = one.space.test_trials(one.space.factors(one.trials[0].params))
    store_rows(one.folder, [*finished, *tests[:1]], 3600.0)
    store_rows(one.folder, [pruned], 1800.0, status="pruned")
    tested = [("best #0", tuple(tests[:1])), ("half", tuple(tests))]
    text, path = write_search_report(one.study, one.space, tested, one.folder)
    assert path.read_text() == text
    assert "configurations: 3 complete, 1 pruned, 0 failed, impossible or taken over, 0 running, of 4" in text
    assert "cost: 8 attempts at trials, 7 h 30 min of compute time" in text
    # Two seeds at the mean of 1 hour, of which half an hour was spent.
    assert "pruning saved about 1 h 30 min of compute time: 1 configurations" in text
    assert "objectives: maximize image_auroc, mean over classes and 2 seed(s)" in text
    assert "sampler random, seed 0; pruner median" in text
    # Validation is the mean of 0.9 and 0.7, test 0.2 lower; `half` has one seed without rows.
    assert "| best #0 | 0 | 0.8000 | 0.6000 | 0.5000 | 0.5000 |" in text
    assert "| half | 0, 1 | \u2013 | \u2013 | \u2013 | \u2013 |" in text
    assert "NOT THE SAME SEEDS in every row" in text
    assert "the search itself ran seeds 0, 1; its values are not means over the seeds of this table" in text
    assert "means over the classes and seeds 0, 1, which the search ran" in text
    best = [line.split(" | ")[:2] for line in text.splitlines() if line[:4] in ("| 0 ", "| 1 ", "| 2 ", "| 3 ")]
    assert best == [["| 0", "0.8000"], ["| 2", "0.7000"], ["| 1", "0.6000"]]
    assert (one.folder / "plots" / "history.png").read_bytes().startswith(b"\x89PNG")
    assert "![slice](plots/slice.png)" in text


def test_constraints_are_named_and_savings_need_a_finished_trial(driven, store_rows):
    one = driven({"seeds": 1}, trials=1, pruner="asha", constraints={"seconds": 60, "aupro": 0.5})
    store_rows(one.folder, [one.ask()], 1.0, status="failed", error="no", error_kind="E", traceback="t")
    text, _ = write_search_report(one.study, one.space, [], one.folder)
    assert "constraints: aupro at least 0.5, seconds at most 60" in text
    assert "pruning saved: unknown, as no trial has finished" in text
    assert not (one.folder / "plots").exists(), "nothing is complete"


def test_a_mean_needs_every_seed(driven):
    first, second = driven({"seeds": 2}).space.trials({"training.learning_rate": 0.01})
    tested = ConfigurationValues(
        "a", (first, second), {first.id: {"m": 0.25}, second.id: {"m": 0.75}}, {first.id: {"m": 0.25}}
    )
    assert tested.mean(tested.validation, "m") == "0.5000"
    assert tested.mean(tested.test, "m") == "\u2013"


def test_importances_need_five_complete_configurations(driven):
    def importances(trials, space):
        one = driven({"seeds": 1, "name": f"of{trials}{len(space)}"}, trials=trials, space=space)
        one.run(lambda trial: trial.config.training.learning_rate)
        return knob_importances(one.study)

    rate = {"learning_rate": {"loguniform": [1e-4, 1e-1]}}
    assert importances(4, rate) == {}
    assert importances(5, rate) == {"training.learning_rate": 1.0}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_importances_with_two_objectives_are_those_of_one(direction):
    """Optuna's own estimate over a study of one objective, whose direction it knows."""

    def study(values, directions):
        made = optuna.create_study(directions=directions)
        for k, value in enumerate(values):
            params = {"a": float(k), "b": float((7 * k) % 12)}
            spaces = {name: optuna.distributions.FloatDistribution(0, 12) for name in params}
            trial = optuna.trial.create_trial(params=params, distributions=spaces, values=value)
            trial.set_user_attr(TRIALS, [])
            made.add_trial(trial)
        return made

    values = [float((k - 3) ** 2) for k in range(12)]
    both = study([[0.0, value] for value in values], ["maximize", direction])
    alone = study([[value] for value in values], [direction])
    assert knob_importances(both, 1) == pytest.approx(optuna.importance.get_param_importances(alone))


def test_knobs_of_equal_importance_are_in_the_order_of_their_names():
    made = optuna.create_study()
    names = [f"knob{k}" for k in range(8)]
    spaces = {name: optuna.distributions.FloatDistribution(0, 12) for name in names}
    for k in range(12):
        params = dict.fromkeys(names, float(k))
        made.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=float(k)))
    shares = knob_importances(made)
    assert len(set(shares.values())) == 1
    assert list(shares) == names


def test_without_finalists_the_report_says_that_nothing_was_tested(driven, store_rows):
    one = driven({"seeds": 1}, trials=1, finalists=0)
    asked = one.ask()
    one.finish(asked, 0.8)
    store_rows(one.folder, [asked], 1.0)
    text, _ = write_search_report(one.study, one.space, [], one.folder)
    assert "nothing was tested, as `finalists` is 0" in text
    assert "## Tested" not in text
    assert "means over the classes and seed 0, which the search ran" in text
