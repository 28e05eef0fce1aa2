"""Errors in a search: one line, exit code 2, and nothing written."""

from __future__ import annotations

import pytest

SPACE = {"learning_rate": {"loguniform": [1e-4, 1e-1]}}
SEARCH = {"space": SPACE, "trials": 2}
BOTH = {"image_auroc": "maximize", "aupro": "maximize"}


def asked(**search):
    return {"search": SEARCH | search}


@pytest.mark.parametrize(
    ("changes", "words", "reason"),
    [
        (asked(objectives={"image_aurok": "maximize"}), (), "unknown metric 'image_aurok'"),
        (asked(objectives={"image_aurok": "maximize"}), (), "Did you mean 'image_auroc'?"),
        (
            asked(objectives={"image_auroc": "up"}),
            (),
            "search.objectives.image_auroc: given 'up', allowed: maximize | minimize",
        ),
        (asked(constraints={"second": 5}), (), "search.constraints: unknown metric 'second'"),
        (asked(sampler="tpo"), (), "search.sampler: given 'tpo', allowed: random | tpe | gp | cmaes | nsga2 | qmc"),
        (asked(sampler="cmaes", objectives=BOTH), (), "search.sampler: given cmaes, which takes one objective"),
        (asked(pruner="median", objectives=BOTH), (), "search.pruner: 'median' needs one objective"),
        (asked(pruner="median", objectives={"seconds": "minimize"}), (), "search.pruner: 'median' needs one objective"),
        (asked(trial=3), (), "unknown key 'search.trial'"),
        (asked(trials=0), (), "search.trials: given 0"),
        (asked(space={"learning_rat": SPACE["learning_rate"]}), (), "learning_rat"),
        (asked(space={"learning_rate": {"loguniform": [0, 1]}}), (), "allowed: [a, b] with 0 < a < b"),
        (asked(start_from=["nowhere"]), ("--backend", "inline"), "no results there"),
        ({"grid": {"focal_gamma": [0, 2]}, **asked()}, (), "search: takes the place of axes, but there is grid"),
        ({"early_stopping": {"rule": "asha"}, **asked()}, (), "a search stops trials by search.pruner"),
        ({"version": None, **asked()}, (), "version: is missing"),
        (
            {"version": None, **asked(space={"version": {"choice": ["v3"]}})},
            (),
            "version: is missing; a search starts from one",
        ),
        ({"base": {"extends": "base.yaml", "validation_anomalies": "none"}, **asked()}, (), "validation_anomalies"),
        (asked(), ("--detach", "--backend", "slurm"), "--detach: a search needs its driver"),
        (asked(), ("--storage", "nosuchdatabase://here"), "--storage: nosuchdatabase://here cannot be opened"),
        (
            {"grid": {"focal_gamma": [0, 2]}},
            ("--rebuild-study",),
            "--rebuild-study: is for a run of a sweep with `search:`",
        ),
        (asked(), ("--rebuild-study", "--dry-run"), "--rebuild-study: is for a run of a sweep with `search:`"),
        (
            asked(),
            ("--rebuild-study", "--print-sbatch", "--backend", "slurm"),
            "--rebuild-study: is for a run of a sweep with `search:`",
        ),
        (asked(start_from=["$NO_SUCH_VARIABLE/a"]), (), "search.start_from: $NO_SUCH_VARIABLE/a: the environment"),
        ({"grid": {"focal_gamma": [0, 2]}}, ("--storage", "sqlite:///s.db"), "--storage: is for searches"),
    ],
)
def test_a_mistake_is_one_line(edit, command, place, changes, words, reason):
    edit(**{"grid": None, "report": None} | changes)
    ended = command("sweep.yaml", *words)
    assert ended.code == 2, ended.out + ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert reason in ended.err
    assert not list(place.glob("results/*/attempts/*"))
