"""The drivers of a study: who is alive, and what becomes of the configurations that a dead one was at."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import TrialState

from moleflow.claim import hold, is_stale, try_claim

DRIVER = "driver"


@contextmanager
def signed_in(sweep_folder: Path) -> Iterator[str]:
    """Be a driver while the block lasts: a claim in the sweep's folder, whose heartbeat tells the others.

    Yields:
        Its name.

    Raises:
        OSError: the folder cannot be written.

    """
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    claim = try_claim(_folder(sweep_folder) / name)
    assert claim is not None, "nobody else has this name"
    with claim:
        yield name


def give_up_for_the_dead(study: optuna.Study, sweep_folder: Path, own: str) -> int:
    """Fail the configurations that no living driver is at, and put them in the queue again; how many.

    What their trials finished is stored and not run again. The order makes a death in between harmless: what is in the queue already
    is not put there twice.
    """
    count = 0
    with hold(_folder(sweep_folder) / ".failing"):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            driver = trial.user_attrs.get(DRIVER)
            if driver == own or (driver is not None and alive(sweep_folder, driver)):
                continue
            if not _queued(study, trial):
                study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)
            count += 1
    return count


def alive(sweep_folder: Path, driver: str) -> bool:
    """Whether a driver's process runs, as far as can be seen from here."""
    path = _folder(sweep_folder) / driver
    return path.exists() and not is_stale(path)


def _queued(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return any(queued.system_attrs.get("fixed_params") == trial.params for queued in waiting)


def _folder(sweep_folder: Path) -> Path:
    return sweep_folder / "drivers"
