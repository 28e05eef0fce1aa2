"""The columns of the attempts table that are known before an attempt begins."""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Any

from moleflow.code_digest import code_digest
from moleflow.environment import Environment, device_facts
from moleflow.settings.config import canonical_json, digest
from orchestrator.execution.backend import WorkerConfig
from orchestrator.sweep.trial import Identities, Trial


def first_row(setup: WorkerConfig, environment: Environment, trial: Trial) -> dict[str, Any]:
    """The attempts row of a trial without its attempt number and its end; plain JSON values.

    The attempt record carries this row, so that another process can store the row of a dead
    attempt.
    """
    return {
        "sweep": setup.sweep,
        "trial_id": trial.id,
        "version": trial.config.version,
        "seed": trial.config.seed,
        "factors": canonical_json(dict(trial.factors)),
        "dataset": setup.dataset,
        "seconds_reused": 0.0,
        "backend": setup.backend,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "worker": setup.worker,
        "device": environment.device_kind,
        **_device_facts(environment),
        "torch": environment.torch_version,
        "dtype": environment.dtype,
        "threads": environment.threads,
        "code_digest": code_digest(),
        "git_commit": setup.provenance["git_commit"],
        "git_dirty": setup.provenance["git_dirty"],
        "packages": canonical_json(dict(setup.provenance["packages"])),
        "config": Identities().json(trial.config, trial.inputs),
        "flags": "[]",
        "data_digest": digest(dict(trial.inputs.data)),
    }


@cache
def _device_facts(environment: Environment) -> dict[str, str | bool | None]:
    # Asking CUDA for the device's name costs more than the rest of a row.
    return device_facts(environment)
