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

from moleflow.cache.claim import exclusive, is_stale, try_claim
from moleflow.errors import InvalidInput

DRIVER, FOLDER, AGAIN = "driver", "folder", "again"


@contextmanager
def driver_heartbeat(sweep_folder: Path) -> Iterator[str]:
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


@contextmanager
def study_lock(sweep_folder: Path) -> Iterator[None]:
    """Change what all drivers share while no other one does."""
    with exclusive(_folder(sweep_folder) / ".asking", poll=0.05):
        yield


def check_study_owner(study: optuna.Study, sweep_folder: Path) -> None:
    """See that a study has its trials' results in this folder: drivers elsewhere could neither be seen nor share any.

    Raises:
        InvalidInput: its results lie elsewhere.

    """
    path = _folder(sweep_folder) / ".id"
    with study_lock(sweep_folder):
        if not path.exists():
            path.write_text(uuid.uuid4().hex, encoding="ascii")
        own = path.read_text(encoding="ascii")
        if study.user_attrs.setdefault(FOLDER, own) != own:
            raise InvalidInput(
                f"--storage: the study '{study.study_name}' there belongs to another results folder than {sweep_folder}; "
                "give that one with --out, or rename the sweep"
            )
        study.set_user_attr(FOLDER, own)


def fail_trials_of_dead_drivers(study: optuna.Study, sweep_folder: Path, own: str) -> int:
    """Fail the configurations that no living driver is at, and put them in the queue again; how many.

    What their trials finished is stored and not run again. The order makes a death in between harmless: what was put in the queue
    already is not put there twice. What nobody signed yet belongs to a driver that died before it could.
    """
    count = 0
    with study_lock(sweep_folder):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            driver = trial.user_attrs.get(DRIVER)
            if driver == own or (driver is not None and alive_drivers(sweep_folder, driver)):
                continue
            parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if parameters and not _queued(study, trial.number):
                study.enqueue_trial(parameters, user_attrs={AGAIN: trial.number})
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            count += 1
    return count


def alive_drivers(sweep_folder: Path, driver: str) -> bool:
    """Whether a driver's process runs, as far as can be seen from here."""
    path = _folder(sweep_folder) / driver
    return path.exists() and not is_stale(path)


def _queued(study: optuna.Study, number: int) -> bool:
    return any(trial.user_attrs.get(AGAIN) == number for trial in study.get_trials(deepcopy=False))


def _folder(sweep_folder: Path) -> Path:
    return sweep_folder / "drivers"
