"""Optuna's part: what it is asked, what it is told, where it keeps that, and how a search runs and ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Leave out what Optuna says of the parts of itself that it calls experimental."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
