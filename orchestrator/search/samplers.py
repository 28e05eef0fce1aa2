"""Optuna's samplers and pruners by the names of the sweep file."""

from __future__ import annotations

import hashlib

from optuna import pruners, samplers
from optuna.trial import FrozenTrial

from orchestrator.search import without_experimental_warnings
from orchestrator.sweep.file_schema import Pruner, Sampler


def make_sampler(name: Sampler, seed: int, asked: int) -> samplers.BaseSampler:
    """The sampler for one suggestion.

    What it draws follows from the seed, what the study holds and how many were asked for before, not from how often a driver was
    started in between. A quasi-random sequence is one sequence, so its seed is the same for all.

    Args:
        name: as in the sweep file.
        seed: the search's.
        asked: how many suggestions the study has made.

    """
    own = int.from_bytes(hashlib.sha256(f"{seed} {asked}".encode()).digest()[:4], "big")
    with without_experimental_warnings():
        return _sampler(name, seed, own)


def _sampler(name: Sampler, seed: int, own: int) -> samplers.BaseSampler:
    if name == "random":
        return samplers.RandomSampler(seed=own)
    if name == "tpe":
        return samplers.TPESampler(seed=own, multivariate=True, group=True)
    if name == "gp":
        return samplers.GPSampler(seed=own, warn_independent_sampling=False)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=own, warn_independent_sampling=False)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=own)
    return samplers.QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    )


def make_pruner(name: Pruner, steps: int) -> pruners.BasePruner:
    """The pruner of a study whose configurations have so many steps: tasks times seeds."""
    with without_experimental_warnings():
        return _pruner(name, steps)


def _pruner(name: Pruner, steps: int) -> pruners.BasePruner:
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=5)
    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=steps, reduction_factor=2)
    if name == "wilcoxon":
        return pruners.WilcoxonPruner()
    return pruners.NopPruner()


def wilcoxon_steps(name: Pruner, trial: FrozenTrial) -> FrozenTrial:
    """A trial as its pruner may see it, so that like is compared with like: the same task with the same seed.

    The median rule would set a trial's best task so far, which may be an easy one, against the others' present one; it sees the present
    one alone. The others compare step by step by themselves.
    """
    if name != "median" or trial.last_step is None:
        return trial
    seen = FrozenTrial(
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
    return seen
