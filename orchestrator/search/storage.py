"""Where a study is kept: a journal in the sweep's folder, or any storage that Optuna has a URL for."""

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
from orchestrator.host.provenance import without_passwords
from orchestrator.search import without_experimental_warnings
from orchestrator.search.samplers import make_pruner
from orchestrator.sweep.file_schema import SearchKeys

JOURNAL = "study.journal"
BEGINNINGS = 5


def open_study(name: str, search: SearchKeys, steps: int, sweep_folder: Path, url: str | None = None) -> optuna.Study:
    """The study of a sweep, begun where there is none.

    Args:
        name: the sweep's.
        search: its `search`.
        steps: tasks times seeds.
        sweep_folder: where the journal lies.
        url: of another storage, such as sqlite:///study.db or postgresql://...; the name tells studies in it apart.

    Raises:
        InvalidInput: the storage cannot be opened, or the study has other objectives.

    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = list(search.objectives.values())
    with usable(url, sweep_folder):
        storage = _database(url) if url else journal(sweep_folder)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            pruner=make_pruner(search.pruner, steps),
            load_if_exists=True,
        )
    if study.metric_names is None:
        with without_experimental_warnings():
            study.set_metric_names(list(search.objectives))
    known = dict(zip(study.metric_names or (), (d.name.lower() for d in study.directions), strict=False))
    if known != dict(search.objectives):
        raise InvalidInput(
            f"search.objectives: the study has {known}, the sweep file {dict(search.objectives)}; "
            "rename the sweep, or take a new folder"
        )
    return study


def _database(url: str) -> RDBStorage:
    """The database at a URL. Of drivers that begin one at the same moment, all but one are refused a table for a while."""
    for _ in range(BEGINNINGS - 1):
        try:
            return RDBStorage(url)
        except DBAPIError:
            time.sleep(0.2)
    return RDBStorage(url)


@contextmanager
def usable(url: str | None, sweep_folder: Path) -> Iterator[None]:
    """Turn whatever a database's driver raises into the user's mistake; passwords stay out of the message.

    Raises:
        InvalidInput: the storage cannot be opened.

    """
    try:
        yield
    except Exception as error:
        place = without_passwords(url) if url else str(sweep_folder / JOURNAL)
        reason = without_passwords(" ".join(str(error).split()))
        raise InvalidInput(
            f"--storage: {place} cannot be opened: {reason:.200}; allowed: a URL that Optuna takes, such as "
            "sqlite:///study.db or postgresql+psycopg://user@host/database"
        ) from None


def journal(sweep_folder: Path) -> BaseStorage:
    """The journal of a folder; its lock is a file made with O_EXCL, which network filesystems honour too.

    What a writer that died left of its last line is taken away first: Optuna would append to it and never read past it again.
    """
    path = sweep_folder / JOURNAL
    lock = JournalFileOpenLock(str(path))
    if _torn(path):
        lock.acquire()
        try:
            if torn := _torn(path):
                os.truncate(path, path.stat().st_size - torn)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _torn(path: Path) -> int:
    """How many bytes of a journal follow its last whole line."""
    if not path.exists():
        return 0
    return len(path.read_bytes().rpartition(b"\n")[2])
