"""The search by Optuna: space, samplers, storage, initial trials, ask and tell, and its report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Silence the warnings that Optuna gives about its experimental features."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
