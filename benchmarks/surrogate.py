"""A surrogate of a sweep: what configurations would be worth on validation images, learned from
those that were trained.

After Eggensperger et al., Efficient Benchmarking of Hyperparameter Optimizers via Surrogates, AAAI
2015: a regression over the settings of trained configurations stands in for training, so that
samplers can be compared in seconds. It is as good as its R2 on settings that it has not seen. There
are two, for each favours samplers that think like it: extremely randomised trees, piecewise
constant and never above the best value that was measured, and a Gaussian process with a length for
each column, smooth, whose highest values may be its own.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.base import RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knob_history import values_before_knob_existed
from orchestrator.results.store import ResultStore
from orchestrator.search.objective import stored_values
from orchestrator.search.space import Space
from orchestrator.sweep.axes import Distribution
from orchestrator.sweep.trial import spell

METRIC = "image_auroc"
Model = Literal["trees", "gp"]
TREES, FOLDS, LEAST = 100, 10, 5


@dataclass(frozen=True)
class Surrogate:
    """A fitted surrogate and how good it is.

    Attributes:
        model: trees or gp, and `regression` what was fitted.
        n: configurations that it was fitted to; their seeds are averaged.
        trials: the finished trials behind them.
        best: the highest value among them.
        spread: standard deviation of their values.
        r2: 1 - residual / total sum of squares over configurations, each predicted without its
            fold.
        rank: Spearman's correlation of those predictions with the values.

    """

    space: Space
    model: Model
    regression: RegressorMixin
    n: int
    trials: int
    best: float
    spread: float
    r2: float
    rank: float

    def value(self, config: TrialConfig) -> float:
        """The validation image AUROC that a configuration would have, mean over classes."""
        return min(float(self.regression.predict(row(self.space, flatten_config(config))[None])[0]), 1.0)

    def __str__(self) -> str:
        """Its measure, in one line."""
        return (
            f"surrogate ({self.model}): {self.n} configurations ({self.trials} finished trials), validation {METRIC} "
            f"best {self.best:.4f}, standard deviation {self.spread:.4f}; "
            f"cross-validated in {min(FOLDS, self.n)} folds: R2 {self.r2:.2f}, rank correlation {self.rank:.2f}"
        )


def fit(space: Space, folder: Path, model: Model, seed: int) -> Surrogate:
    """Fit to the finished trials of a results folder.

    Args:
        space: the space of the sweep's search; its knobs are the inputs.
        folder: the results.
        model: of which kind.
        seed: of the regression and of the folds.

    Raises:
        InvalidInput: no results there, or too few configurations with validation metrics.

    """
    if not (folder / "parts").is_dir():
        raise InvalidInput(f"{folder}: no results there; allowed: a folder that a sweep wrote")
    store = ResultStore(folder)
    configs = {r["trial_id"]: r["config"] for r in store.read("attempts", ["trial_id", "config"]).to_pylist()}
    by_settings: dict[bytes, tuple[npt.NDArray[np.float64], list[float]]] = {}
    for trial_id, values in stored_values(store, list(configs)).items():
        if METRIC in values:
            found = row(space, _settings(configs[trial_id]))
            by_settings.setdefault(found.tobytes(), (found, []))[1].append(values[METRIC])
    if len(by_settings) < LEAST:
        raise InvalidInput(
            f"{folder}: {len(by_settings)} configurations with validation {METRIC}; allowed: at least {LEAST}"
        )
    inputs = np.stack([found for found, _ in by_settings.values()])
    targets = np.array([np.mean(values) for _, values in by_settings.values()])
    regression = _trees(seed) if model == "trees" else _gp(inputs.shape[1], seed)
    folds = KFold(min(FOLDS, len(targets)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A length at its bound: a column that tells nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        unseen = cross_val_predict(regression, inputs, targets, cv=folds)
        regression.fit(inputs, targets)
    return Surrogate(
        space,
        model,
        regression,
        n=len(targets),
        trials=sum(len(values) for _, values in by_settings.values()),
        best=float(targets.max()),
        spread=float(targets.std(ddof=1)),
        r2=float(1 - ((targets - unseen) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()),
        rank=float(spearmanr(targets, unseen).statistic),
    )


def _trees(seed: int) -> RegressorMixin:
    return ExtraTreesRegressor(TREES, random_state=seed)


def _gp(columns: int, seed: int) -> RegressorMixin:
    lengths = Matern(np.full(columns, 3.0), (0.1, 1e3), nu=2.5)
    kernel = ConstantKernel() * lengths + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), process)


def _settings(config: str) -> dict[str, Any]:
    """A stored configuration, with the knobs that are no part of an id at their first value."""
    return values_before_knob_existed() | flatten_config(json.loads(config))


def row(space: Space, settings: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """The space's knobs of a whole configuration as numbers: one column a choice, logarithms where
    draws are log-uniform.

    A value outside the space is missing: NaN, or no choice.
    """
    inside = space.parameters({path: tuple(v) if isinstance(v, list) else v for path, v in settings.items()})
    return np.array([x for path, of in space.distributions.items() for x in _columns(of, inside.get(path))])


def _columns(distribution: Distribution, parameter: Any) -> list[float]:
    if distribution.kind == "choice":
        return [float(parameter == spell(value)) for value in distribution.bounds]
    if parameter is None:
        return [math.nan]
    return [math.log(parameter) if distribution.kind == "loguniform" else float(parameter)]
