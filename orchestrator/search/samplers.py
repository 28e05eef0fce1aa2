"""Optuna's samplers and pruners by the names of the sweep file."""

from __future__ import annotations

import copy
import hashlib

from optuna import pruners, samplers
from optuna.trial import FrozenTrial

from orchestrator.search import without_experimental_warnings
from orchestrator.sweep.file_schema import Pruner, Sampler


def make_sampler(name: Sampler, seed: int, suggestions: int) -> samplers.BaseSampler:
    """Make the sampler of one suggestion.

    Its draws follow from the search's seed, the study and the number of earlier suggestions. They
    do not depend on how often a driver was restarted.
    """
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {suggestions}".encode()).digest()[:4], "big")
    with without_experimental_warnings():
        match name:
            case "random":
                return samplers.RandomSampler(seed=drawn)
            case "tpe":
                return samplers.TPESampler(seed=drawn, multivariate=True, group=True)
            case "gp":
                return samplers.GPSampler(seed=drawn, warn_independent_sampling=False)
            case "cmaes":
                return samplers.CmaEsSampler(seed=drawn, warn_independent_sampling=False)
            case "nsga2":
                return samplers.NSGAIISampler(seed=drawn)
            case "qmc":  # All suggestions are points of one quasi-random sequence, and so take one seed.
                return samplers.QMCSampler(
                    seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
                )


def make_pruner(name: Pruner, steps: int) -> pruners.BasePruner:
    """Make the pruner of a study; each configuration reports `steps` values: tasks times seeds."""
    with without_experimental_warnings():
        match name:
            case "median":
                return pruners.MedianPruner(n_startup_trials=5)
            case "asha":
                return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
            case "hyperband":
                return pruners.HyperbandPruner(min_resource=1, max_resource=steps, reduction_factor=2)
            case "wilcoxon":
                return pruners.WilcoxonPruner()
            case "none":
                return pruners.NopPruner()


def with_last_step_only(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial as if it had reported its last step alone.

    The median pruner compares a trial's best step so far with the present step of the other trials.
    Steps are tasks here, and an easy first task would hide a bad second one.
    """
    if trial.last_step is None:
        return trial
    seen = copy.copy(trial)
    seen.intermediate_values = {trial.last_step: trial.intermediate_values[trial.last_step]}
    return seen
