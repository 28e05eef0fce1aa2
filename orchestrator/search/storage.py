"""The storage of a study: a journal in the sweep's folder, or a storage with an Optuna URL."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import DBAPIError

from moleflow.errors import InvalidInput
from orchestrator.host.storage_urls import is_ambiguous, replace_secrets, url_without_secrets
from orchestrator.search import without_experimental_warnings
from orchestrator.search.samplers import make_pruner
from orchestrator.sweep.resolver import Resolver
from orchestrator.sweep.sweep import Sweep

JOURNAL = "study.journal"
CONNECT_ATTEMPTS = 5


def open_study(sweep: Sweep, sweep_folder: Path, url: str | None) -> optuna.Study:
    """Open the study of a sweep that has a search, or create it.

    Args:
        sweep: the sweep; studies in one storage differ by its name.
        sweep_folder: the results folder, which holds the journal.
        url: the URL of another storage, such as sqlite:///study.db or postgresql://...

    Raises:
        InvalidInput: the storage cannot be opened, or the study has other objectives.

    """
    search = sweep.search
    assert search is not None
    steps = len(Resolver(sweep).base_values({})["data.tasks"]) * len(sweep.seeds)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with explain_storage_errors(url, sweep_folder):
        study = optuna.create_study(
            storage=_open_database(url) if url else open_journal(sweep_folder),
            study_name=sweep.name,
            directions=list(search.objectives.values()),
            pruner=make_pruner(search.pruner, steps),
            load_if_exists=True,
        )
    if study.metric_names is None:
        with without_experimental_warnings():
            study.set_metric_names(list(search.objectives))
    objectives = dict(zip(study.metric_names or (), (d.name.lower() for d in study.directions), strict=False))
    if objectives != dict(search.objectives):
        raise InvalidInput(
            f"search.objectives: the study has {objectives}, the sweep file {dict(search.objectives)}; "
            "rename the sweep, or give another folder with --out"
        )
    return study


def _open_database(url: str) -> RDBStorage:
    """Open the database at a URL.

    Drivers that create the tables at the same moment get errors, all but one. They try again.
    """
    for _ in range(CONNECT_ATTEMPTS - 1):
        try:
            return RDBStorage(url)
        except DBAPIError:
            time.sleep(0.2)
    return RDBStorage(url)


@contextmanager
def explain_storage_errors(url: str | None, sweep_folder: Path) -> Iterator[None]:
    """Turn any error of the storage in the block into one line without passwords.

    Raises:
        InvalidInput: the storage cannot be opened.

    """
    if url and is_ambiguous(url):
        # Not even the error of the database may be shown: it names the host, which may be a half of
        # the password.
        raise InvalidInput(
            f"--storage: {url_without_secrets(url)} cannot be taken apart; allowed: a URL "
            "with each @ : / ? of its user and password written as %40 %3A %2F %3F"
        )
    try:
        yield
    except Exception as error:  # Each database driver has its own exceptions.
        place = url_without_secrets(url) if url else str(sweep_folder / JOURNAL)
        reason = " ".join(replace_secrets(str(error), [url] if url else []).split())
        raise InvalidInput(
            f"--storage: {place} cannot be opened: {reason:.200}; allowed: a URL that Optuna takes, such as "
            "sqlite:///study.db or postgresql+psycopg://user@host/database"
        ) from None


def open_journal(sweep_folder: Path) -> BaseStorage:
    """Open the journal of a results folder.

    Its lock is a file made with O_EXCL, which network filesystems honour too.
    """
    path = sweep_folder / JOURNAL
    lock = JournalFileOpenLock(str(path))
    # A writer that died may have left half a line. Optuna would append to it and never read past
    # it, so it is cut off. The journal is read again under the lock, as a living writer may have
    # been in the middle of its line the first time.
    if _torn_bytes(path):
        lock.acquire()
        try:
            if torn := _torn_bytes(path):
                os.truncate(path, path.stat().st_size - torn)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _torn_bytes(path: Path) -> int:
    """Return the number of bytes after the journal's last complete line."""
    return len(path.read_bytes().rpartition(b"\n")[2]) if path.exists() else 0
