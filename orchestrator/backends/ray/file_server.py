"""The actor beside the driver through which nodes that do not see its folders reach its files.

Requests to the seam (`moleflow.file_service`) cover results and cache. Images and weights are read
only. Large content goes into Ray's object store once, so that nodes fetch it from one another.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray

from moleflow.data.folders import files_below
from moleflow.data.layouts.table import Reading, find_classes
from moleflow.file_service import FileAnswer, FileRequest, FileService
from moleflow.passing_errors import read
from orchestrator.host.hub import cached_weights

THREADS = 16
PACK_BYTES = 32_000_000
LARGE_BYTES = 1_000_000
"""Content above this size goes through the object store."""
KEPT_BYTES = 64_000_000
"""Size of the objects that the server keeps for the next node."""

Stamp = tuple[int, int, int]
Traffic = Mapping[str, int]
"""{kind: bytes that were sent to nodes or, as `written`, received from them}, and `requests`."""


@dataclass(frozen=True)
class ImagePack:
    """Image files that travel together.

    Attributes:
        folder: a folder in the data root; empty for files outside of class folders.
        number: the number of the pack among those of this folder.
        files: (path in the data root, size in bytes) of each file.
    """

    folder: str
    number: int
    files: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class HubFile:
    """A file in the driver's cache of the Hugging Face hub.

    Attributes:
        path: the file.
        place: its path in the cache, `<repository>/snapshots/<commit>/<name>`.
        sha256: the digest of its content.
    """

    path: Path
    place: Path
    sha256: str


@dataclass(frozen=True)
class Stored:
    """Content in the object store: a reference in a list, which Ray does not resolve by itself."""

    reference: list[Any]


@dataclass(frozen=True)
class Unchanged:
    """The file is the one that the client has."""


class FileServer:
    """Serves the driver's files. It is made as an actor with several threads.

    Args:
        folders: results and cache, which nodes may read and write.
        data_root: the folder of the images, which nodes may read.
        hub_cache: the driver's cache of the Hugging Face hub, whose weights nodes may read.
    """

    def __init__(self, folders: Sequence[Path], data_root: Path, hub_cache: Path) -> None:
        self._service = FileService(folders)
        self._results, self._root, self._hub_cache = folders[0], data_root, hub_cache
        self._lock, self._keep_lock = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], tuple[Any, int]] = OrderedDict()
        self._traffic: Counter[str] = Counter()

    def sees(self, probes: Sequence[Path]) -> bool:
        """True if every one of these files is there."""
        return all(path.exists() for path in probes)

    def perform(self, request: FileRequest, known: Stamp | None = None) -> tuple[FileAnswer, Stamp | None]:
        """Perform a request to the seam.

        Args:
            request: the request.
            known: of a read of a file that never changes: the stamp of the copy that the client
                has; (0, 0, 0) for none.

        Returns:
            The answer, and the stamp of such a file.
        """
        stamp = None if known is None else _stamp(request.path)
        if stamp is not None and stamp == known:
            self._count("requests", 1)
            return FileAnswer(Unchanged()), stamp
        answer = self._service.perform(request)
        sent = len(answer.result) if isinstance(answer.result, bytes) else 0
        received = sum(len(each) for each in request.args if isinstance(each, bytes))
        self._count("requests", 1)
        self._count(self._kind(request.path), sent)
        self._count("written", received)
        if sent > LARGE_BYTES:
            answer = replace(answer, result=Stored(self._keep((request.path, stamp), lambda: answer.result, sent)))
        return answer, stamp

    def image_packs(self, classes: Sequence[str], reading: Reading) -> list[ImagePack]:
        """The image files of some classes, and all files outside of class folders.

        Raises:
            InvalidInput: the data root cannot be read any more.
        """
        found = find_classes(self._root, reading)
        places = {name: layout.classes(self._root, reading.normal_names)[name] for name, layout in found.items()}
        # A class may also be a table, or the data root itself.
        folders = {name: path for name, path in places.items() if path.is_dir() and path != self._root}
        wanted = [(name, folders[name]) for name in classes if name in folders]
        packs = [pack for name, folder in wanted for pack in self._packs(name, files_below(folder))]
        return [*packs, *self._packs("", files_below(self._root, [*folders.values()]))]

    def _packs(self, folder: str, paths: Iterator[Path]) -> Iterator[ImagePack]:
        number, size = 0, 0
        collected: list[tuple[str, int]] = []
        for path in sorted(paths):
            of_file = path.stat().st_size
            if collected and size + of_file > PACK_BYTES:
                yield ImagePack(folder, number, tuple(collected))
                number, size, collected = number + 1, 0, []
            collected.append((path.relative_to(self._root).as_posix(), of_file))
            size += of_file
        if collected:
            yield ImagePack(folder, number, tuple(collected))

    def images(self, pack: ImagePack) -> list[Any]:
        """A reference to the contents of the files of a pack, in their order.

        Raises:
            PermissionError: a path leads out of the data root.
            OSError: a file cannot be read.
        """

        def contents() -> list[bytes]:
            paths = [self._root / name for name, _ in pack.files]
            if any(".." in path.parts for path in paths):
                raise PermissionError(f"{pack.folder}: a path leads out of {self._root}")
            return [read(path) for path in paths]

        size = sum(size for _, size in pack.files)
        self._count("images", size)
        return self._keep((pack.folder, pack.number, pack.files), contents, size)

    def weights(self, path: Path, sha256: str) -> list[Any]:
        """A reference to the content of a file that the caller knows by its digest.

        Raises:
            PermissionError: the file has another digest.
            OSError: it cannot be read.
        """
        content = read(path)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise PermissionError(f"{path}: is not the file with the SHA-256 {sha256}")
        self._count("weights", len(content))
        return self._keep((path, sha256), lambda: content, len(content))

    def hub_weights(self, repository: str) -> HubFile | None:
        """The weights of a repository in the driver's cache of the hub; None if they are not there.

        Raises:
            OSError: the file cannot be read.
        """
        path = cached_weights(repository, self._hub_cache)
        if path is None:
            return None
        return HubFile(path, path.relative_to(self._hub_cache), hashlib.sha256(read(path)).hexdigest())

    def traffic(self) -> Traffic:
        """The bytes that were sent and received so far."""
        with self._lock:
            return dict(self._traffic)

    def _keep(self, name: tuple[object, ...], make: Callable[[], object], size: int) -> list[Any]:
        """A reference to an object in the store, made unless a node asked for it before."""
        with self._keep_lock:
            if name not in self._kept:
                self._kept[name] = cast(Any, ray).put(make()), size
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return [self._kept[name][0]]

    def _kind(self, path: Path) -> str:
        if path.is_relative_to(self._results):
            return "results"
        return next((part for part in ("features", "stages") if part in path.parts), "cache")

    def _count(self, kind: str, amount: int) -> None:
        with self._lock:
            self._traffic[kind] += amount


def _stamp(path: Path) -> Stamp | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_ino
