"""Where a study is kept: a journal in the sweep's folder, or any storage that Optuna has a URL for."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from moleflow.errors import InvalidInput
from orchestrator.study import unwarned
from orchestrator.study.samplers import make_pruner
from orchestrator.sweep_file import Search

JOURNAL = "study.journal"


def open_study(name: str, search: Search, steps: int, sweep_folder: Path, url: str | None = None) -> optuna.Study:
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
    try:
        storage = RDBStorage(url) if url else journal(sweep_folder)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            pruner=make_pruner(search.pruner, steps),
            load_if_exists=True,
        )
    except Exception as error:  # Whatever the database's driver raises.
        raise InvalidInput(
            f"--storage: {url or sweep_folder / JOURNAL} cannot be opened: {' '.join(str(error).split()):.200}"
        ) from None
    if study.metric_names is None:
        with unwarned():
            study.set_metric_names(list(search.objectives))
    known = dict(zip(study.metric_names or (), (d.name.lower() for d in study.directions), strict=False))
    if known != dict(search.objectives):
        raise InvalidInput(
            f"search.objectives: the study has {known}, the sweep file {dict(search.objectives)}; "
            "rename the sweep, or take a new folder"
        )
    return study


def journal(sweep_folder: Path) -> BaseStorage:
    """The journal of a folder; its lock is a file made with O_EXCL, which network filesystems honour too."""
    path = str(sweep_folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
