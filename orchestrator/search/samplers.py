"""Optuna's samplers and pruners by the names of the sweep file."""

from __future__ import annotations

import hashlib

from optuna import pruners, samplers
from optuna.trial import FrozenTrial

from orchestrator.search import without_experimental_warnings
from orchestrator.sweep.file_schema import Pruner, Sampler


def make_sampler(name: Sampler, seed: int, suggestions: int) -> samplers.BaseSampler:
    """Make the sampler of one suggestion.

    Its draws follow from the search's seed, the study and the number of earlier suggestions. They
    do not depend on how often a driver was restarted.

    Args:
        name: the name in the sweep file.
        seed: the seed of the search.
        suggestions: how many suggestions the study has made.

    """
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {suggestions}".encode()).digest()[:4], "big")
    with without_experimental_warnings():
        if name == "random":
            return samplers.RandomSampler(seed=drawn)
        if name == "tpe":
            return samplers.TPESampler(seed=drawn, multivariate=True, group=True)
        if name == "gp":
            return samplers.GPSampler(seed=drawn, warn_independent_sampling=False)
        if name == "cmaes":
            return samplers.CmaEsSampler(seed=drawn, warn_independent_sampling=False)
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=drawn)
        # All suggestions are points of one quasi-random sequence, and so take one seed.
        return samplers.QMCSampler(
            seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
        )


def make_pruner(name: Pruner, steps: int) -> pruners.BasePruner:
    """Make the pruner of a study.

    Args:
        name: the name in the sweep file.
        steps: how many values each configuration reports: tasks times seeds.

    """
    with without_experimental_warnings():
        if name == "median":
            return pruners.MedianPruner(n_startup_trials=5)
        if name == "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        if name == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=steps, reduction_factor=2)
        if name == "wilcoxon":
            return pruners.WilcoxonPruner()
        return pruners.NopPruner()


def with_last_step_only(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial as if it had reported its last step alone.

    The median pruner compares a trial's best step so far with the present step of the other trials.
    Steps are tasks here, and an easy first task would hide a bad second one.
    """
    if trial.last_step is None:
        return trial
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        datetime_start=trial.datetime_start,
        datetime_complete=None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values={trial.last_step: trial.intermediate_values[trial.last_step]},
        trial_id=trial._trial_id,
    )
