"""Environment variables of the processes that run trials."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def thread_variables(threads: int) -> dict[str, str]:
    """The variables, with values, that limit a process's numeric libraries to this many threads."""
    return dict.fromkeys(_THREADS, str(threads))


@contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that are started inside the block; restore them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
