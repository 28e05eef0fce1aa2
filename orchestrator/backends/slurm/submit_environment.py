"""The environment of sbatch: without the variables of the job that this command may run in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_IN_A_JOB, _CONFIGURATION = "SLURM_JOB_ID", "SLURM_CONF"


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Within the block, the environment has no variables of a surrounding SLURM job.

    sbatch passes its environment on to the new job, whose steps would inherit the outer job's
    resources, and whose worker would look for the outer job's files. Only `SLURM_CONF` stays: it
    says which cluster this is. Outside a job nothing changes, so the `SBATCH_*` variables of a
    user's shell count as for any sbatch.
    """
    if _IN_A_JOB not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    configuration = os.environ.get(_CONFIGURATION)
    with clean_env():
        if configuration is not None:
            os.environ[_CONFIGURATION] = configuration
        yield
