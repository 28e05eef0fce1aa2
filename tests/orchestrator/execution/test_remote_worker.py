"""A worker on a node that sees neither results nor cache: digits, records and stages as ever."""

from __future__ import annotations

import ast
import contextlib
import errno
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moleflow import files
from moleflow.detection.detector_file import read_detector
from moleflow.file_service import FileAnswer, FileRequest, FileService, RemoteFiles
from moleflow.passing_errors import RETRY_VARIABLE
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.worker import Worker
from orchestrator.records.attempts import FINISHED, AttemptFolder
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.results.detector_files import stored_detectors
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def without_disk(place: Path, near: Path, lost_share: float) -> Iterator[None]:
    """Let `near`, which does not exist, stand for the folder of a driver; some answers get lost."""
    service, draws = FileService([place]), random.Random(0)

    def send(request: FileRequest) -> FileAnswer:
        text = pickle.dumps(request)
        answer = service.perform(_moved(pickle.loads(text), near, place))
        if draws.random() < lost_share:
            raise OSError(errno.ECONNRESET, "lost")
        return answer

    with files.routed(near, RemoteFiles(send)):
        yield


def _moved(request: FileRequest, near: Path, place: Path) -> FileRequest:
    def moved(value: object) -> object:
        return place / value.relative_to(near) if isinstance(value, Path) else value

    kwargs = {name: moved(value) for name, value in request.kwargs.items()}
    return replace(request, path=moved(request.path), args=tuple(map(moved, request.args)), kwargs=kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("features_first", [True, False])
def test_a_worker_without_the_drivers_disk_gives_the_same_digits(
    place, edit, features, command, digits, tmp_path, monkeypatch, features_first
):
    monkeypatch.setenv(RETRY_VARIABLE, "30")
    edit(seeds=1, report=None)
    if not features_first:
        files.remove_folder(place / "cache")
    sweep = load_sweep(place / "sweep.yaml")
    prepared = prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))
    near, node = Path("/nowhere/at/all"), tmp_path / "node"
    setup = replace(
        worker_config(prepared, Options()),
        folder=near / "results/small",
        cache=near / "cache",
        scratch=node,
        node_cache=str(node / "features"),
        worker="far-1",
        keep=True,
    )
    node.mkdir()
    told: list[str] = []
    with without_disk(place, near, lost_share=0.05):
        worker = Worker(setup, lambda event: told.append(event.kind))
        for trial in prepared.trials:
            worker.run(trial)
        worker.flush()
    assert told.count("finished") == 2
    assert not near.exists()
    folder = place / "results/small"
    assert {record.state for record in AttemptFolder(folder / "attempts").all()} == {FINISHED}
    assert {entry.event.kind for entry in LogFollower(event_logs(folder)).read_new()} >= {"epoch", "task", "finished"}
    assert any((folder / "pictures").iterdir())
    assert {read_detector(path).header.names["sweep"] for path in stored_detectors(folder).values()} == {"small"}
    assert len(stored_detectors(folder)) == 2
    assert {path.name for path in (place / "cache").iterdir()} >= {"features", "stages"}
    assert {path.name for path in node.iterdir()} == {"digests.json", "features"}
    far, rows = digits(folder), ResultStore(folder).read("attempts").num_rows
    assert rows == 2
    # Another run, inline, in a folder and a cache of its own.
    assert command("sweep.yaml", "--backend", "inline", "--out", "other", "--cache", "other_cache").code == 0
    assert digits(place / "other") == far
    assert _keys(place / "cache/stages") == _keys(place / "other_cache/stages")
    assert _keys(place / "cache/features") == _keys(place / "other_cache/features")


def _keys(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_dir() and len(path.name) == 64)


# --- The way of a worker to its files ------------------------------------------------------------

WORKERS = (
    *("moleflow/cache/claim.py", "moleflow/cache/stages.py", "moleflow/cache/checkpoints.py"),
    *("moleflow/cache/array_packs.py", "moleflow/cache/patch_scores.py", "moleflow/features/feature_cache.py"),
    *("orchestrator/records/attempts.py", "orchestrator/records/event_log.py", "orchestrator/records/stalls.py"),
    *("orchestrator/records/dead_attempts.py", "orchestrator/records/stop_requests.py"),
    *("orchestrator/results/parts.py", "orchestrator/results/writer.py", "orchestrator/results/store.py"),
    *("orchestrator/results/thumbnails.py", "orchestrator/execution/worker.py", "orchestrator/execution/watchdog.py"),
    "orchestrator/backends/ray/trial_actor.py",
)
"""Modules whose files may be another machine's."""
ELSEWHERE = {
    ("array_packs.py", "NodeCopies"): "the node's own disk",
    ("feature_cache.py", "count"): "called by the driver alone",
    ("stop_requests.py", "add"): "the driver and the commands",
    ("stop_requests.py", "clear"): "the driver and the commands",
    ("thumbnails.py", "_is_own_file"): "the report",
    ("watchdog.py", "ProgressWatch"): "the node's own disk, or the results folder where the node sees it",
}
"""Classes and functions that use files without the seam, and why they may."""
_METHODS = {
    *("exists", "is_file", "is_dir", "is_symlink", "stat", "lstat", "glob", "rglob", "iterdir", "unlink", "mkdir"),
    *("touch", "read_bytes", "read_text", "write_bytes", "write_text", "open", "rmdir", "resolve", "samefile"),
}
_OS = {"stat", "open", "unlink", "replace", "rename", "listdir", "scandir", "utime", "mkdir", "makedirs", "link"}


def direct_uses(tree: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The classes and functions around each use of files without the seam, and its text."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from direct_uses(node, (*inside, node.name))
            continue
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            of_module = {"os": _OS, "shutil": {node.attr}}.get(owner)
            if node.attr in (_METHODS if of_module is None else of_module) and owner != "files":
                yield inside, ast.unparse(node)
        yield from direct_uses(node, inside)


@pytest.mark.parametrize("name", WORKERS)
def test_what_workers_run_reaches_files_through_the_seam_alone(name):
    path = ROOT / name
    used = {
        (inside, text)
        for inside, text in direct_uses(ast.parse(path.read_text()))
        if not any((path.name, one) in ELSEWHERE for one in inside)
    }
    assert not used
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    read = {alias.name for node in imported if node.module == "moleflow.passing_errors" for alias in node.names}
    assert read <= {"retried"}
