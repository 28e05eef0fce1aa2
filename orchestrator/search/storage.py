"""The storage of a study: a journal in the sweep's folder, or a storage with an Optuna URL."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial
from sqlalchemy.exc import DBAPIError

from moleflow.errors import InvalidInput
from orchestrator.host.storage_urls import is_ambiguous, replace_secrets, url_without_secrets
from orchestrator.search import without_experimental_warnings
from orchestrator.search.samplers import make_pruner
from orchestrator.sweep.resolver import Resolver
from orchestrator.sweep.sweep import Sweep

JOURNAL = "study.journal"
COMPLETE = "trials_added"
"""User attribute of a study that was begun with the trials of an earlier one: it has them all."""
_NUMBER = "#"
"""Stands between a sweep's name and the number of its second and later studies; no name has it."""
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
    assert sweep.search is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with explain_storage_errors(url, sweep_folder):
        storage = _open_database(url) if url else open_journal(sweep_folder)
        study = _create_study(sweep, storage, latest_study_name(storage, sweep.name))
    objectives = dict(zip(study.metric_names or (), (d.name.lower() for d in study.directions), strict=False))
    if objectives != dict(sweep.search.objectives):
        raise InvalidInput(
            f"search.objectives: the study has {objectives}, the sweep file {dict(sweep.search.objectives)}; "
            "rename the sweep and name this folder in its search.start_from, or give another folder with --out"
        )
    return study


def begin_next_study(sweep: Sweep, study: optuna.Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Begin another study of a sweep in the storage of its study, with some trials in it.

    From then on `open_study` opens it. Optuna fixes the choices of a knob for the life of a study,
    and its samplers keep to the first range, so that a changed space needs a new one.
    """
    storage = study._storage
    numbers = [number for number, _ in _studies_of(storage, sweep.name)]
    begun = _create_study(sweep, storage, f"{sweep.name}{_NUMBER}{max(numbers, default=1) + 1}")
    begun.add_trials(trials)
    begun.set_user_attr(COMPLETE, True)  # A driver may die before this; its study then counts as none.
    return begun


def latest_study_name(storage: BaseStorage, sweep_name: str) -> str:
    """Return the name of the study of a sweep that was begun last; it may not exist yet."""
    for number, study in sorted(_studies_of(storage, sweep_name), reverse=True):
        if number == 1 or storage.get_study_user_attrs(study).get(COMPLETE):
            return storage.get_study_name_from_id(study)
    return sweep_name


def _studies_of(storage: BaseStorage, sweep_name: str) -> list[tuple[int, int]]:
    """Return (number, Optuna's id) of each study of a sweep, the first with number 1."""
    name = re.compile(rf"{re.escape(sweep_name)}(?:{re.escape(_NUMBER)}(\d+))?")
    found = [(name.fullmatch(study.study_name), study._study_id) for study in storage.get_all_studies()]
    return [(int(match[1] or 1), study) for match, study in found if match]


def _create_study(sweep: Sweep, storage: BaseStorage, name: str) -> optuna.Study:
    """Create the study of that name, or load it."""
    search = sweep.search
    assert search is not None
    steps = len(Resolver(sweep).base_values({})["data.tasks"]) * len(sweep.seeds)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=list(search.objectives.values()),
        pruner=make_pruner(search.pruner, steps),
        load_if_exists=True,
    )
    if study.metric_names is None:
        with without_experimental_warnings():
            study.set_metric_names(list(search.objectives))
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
    journal = sweep_folder / JOURNAL
    if not url and journal.is_dir():
        raise InvalidInput(f"{journal}: is a folder in the place of the search's journal; move it elsewhere")
    try:
        yield
    except Exception as error:  # Each database driver has its own exceptions.
        if url is None and not isinstance(error, OSError):  # Garbled text breaks Optuna in many ways.
            raise InvalidInput(_damaged(journal)) from None
        place = url_without_secrets(url) if url else str(journal)
        reason = " ".join(replace_secrets(str(error), [url] if url else []).split())
        raise InvalidInput(
            f"--storage: {place} cannot be opened: {reason:.200}; allowed: a URL that Optuna takes, such as "
            "sqlite:///study.db or postgresql+psycopg://user@host/database"
        ) from None


def open_journal(sweep_folder: Path) -> BaseStorage:
    """Open the journal of a results folder.

    Its lock is a file made with O_EXCL, which network filesystems honour too.

    Raises:
        ValueError: its last line is garbled, which Optuna itself would only find later.
        OSError: it cannot be read.

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
    if path.exists() and (lines := path.read_bytes().splitlines()):
        json.loads(lines[-1])
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def set_aside_damaged_journal(sweep_folder: Path) -> Path | None:
    """Rename a journal that cannot be read, so that a new one can begin; return its new path.

    Returns:
        None if the journal can be read, or if there is none.

    Raises:
        InvalidInput: it cannot be opened for another reason than its content.

    """
    path = sweep_folder / JOURNAL
    if not path.exists() or path.is_dir():  # Opening it tells of a folder.
        return None
    try:
        open_journal(sweep_folder)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be opened: {error.strerror or error}; check its permissions") from None
    except Exception:  # Garbled text breaks Optuna in many ways.
        aside = next(p for n in itertools.count(1) if not (p := path.with_name(f"{JOURNAL}.damaged-{n}")).exists())
        path.rename(aside)
        return aside
    return None


def _damaged(path: Path) -> str:
    """Return the message for a journal whose text Optuna cannot follow."""
    place = ""
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            json.loads(line)
        except ValueError:
            place = f" at line {number}"
            break
    return (
        f"{path}: the journal of the search is damaged{place}; the results beside it are whole. "
        "Run the sweep again with --rebuild-study to make the study from them"
    )


def _torn_bytes(path: Path) -> int:
    """Return the number of bytes after the journal's last complete line."""
    return len(path.read_bytes().rpartition(b"\n")[2]) if path.exists() else 0
