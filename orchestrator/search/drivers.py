"""The drivers of a study: their heartbeats, their shared lock, and recovery after a dead driver."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import TrialState

from moleflow.cache.claim import exclusive, is_stale, try_claim
from moleflow.errors import InvalidInput
from moleflow.files import write_atomically

DRIVER, FOLDER, REPLACES = "driver", "folder", "again"
"""User attributes: a configuration's driver, a study's results folder, and the failed configuration
that a queued one replaces."""


@contextmanager
def driver_heartbeat(sweep_folder: Path) -> Iterator[str]:
    """Hold a claim in the sweep's folder while the block runs; its heartbeat shows a living driver.

    Yields:
        The driver's unique name.

    Raises:
        OSError: the folder cannot be written.

    """
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    claim = try_claim(_folder(sweep_folder) / name)
    assert claim is not None, "the name is unique"
    with claim:
        yield name


@contextmanager
def study_lock(sweep_folder: Path) -> Iterator[None]:
    """Hold the lock that all drivers of a study share; a dead driver's lock is taken over."""
    with exclusive(_folder(sweep_folder) / ".asking", poll=0.05):
        yield


def check_study_owner(study: optuna.Study, sweep_folder: Path) -> None:
    """Check that a study's results lie in this folder, and mark a new study as the folder's own.

    Drivers in two folders would share no results and see no heartbeat of each other. The folder is
    known by a random id in it, so that it can be moved.

    Raises:
        InvalidInput: the study's results lie in another folder.

    """
    path = _folder(sweep_folder) / ".id"
    with study_lock(sweep_folder):
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex.encode())
        folder_id = path.read_text(encoding="ascii")
        if study.user_attrs.get(FOLDER, folder_id) != folder_id:
            raise InvalidInput(
                f"--storage: the study '{study.study_name}' there belongs to another results folder than "
                f"{sweep_folder}; give that folder with --out, or rename the sweep"
            )
        study.set_user_attr(FOLDER, folder_id)


def fail_trials_of_dead_drivers(study: optuna.Study, sweep_folder: Path, driver: str) -> int:
    """Fail the running configurations of dead drivers, and queue them again.

    The trials that a dead driver finished are stored, so that they do not run again. A running
    configuration without a driver's name is treated alike: its driver died before it could set it.
    The configurations of `driver`, which calls, stay.

    Returns:
        The number of configurations that were failed.

    """
    count = 0
    with study_lock(sweep_folder):
        queued = {trial.user_attrs.get(REPLACES) for trial in study.get_trials(deepcopy=False)}
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(DRIVER)
            if owner == driver or (owner is not None and is_driver_alive(sweep_folder, owner)):
                continue
            # Enqueue before failing. A driver that dies between the two leaves a configuration that
            # is both running and queued, which the next driver sees and does not queue again.
            parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if parameters and trial.number not in queued:
                study.enqueue_trial(parameters, user_attrs={REPLACES: trial.number})
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            count += 1
    return count


def is_driver_alive(sweep_folder: Path, driver: str) -> bool:
    """Return true if the driver's claim exists and is not stale."""
    path = _folder(sweep_folder) / driver
    return path.exists() and not is_stale(path)


def living_drivers(sweep_folder: Path) -> list[str]:
    """Return the names of the drivers whose heartbeat goes on."""
    folder = _folder(sweep_folder)
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return sorted(name for name in names if is_driver_alive(sweep_folder, name))


def _folder(sweep_folder: Path) -> Path:
    return sweep_folder / "drivers"
