"""The entries of a cache on disk: their files, their bytes and their last use.

    features/<key>/<pack>.json, .npy          see moleflow.cache.array_packs
    stages/<2>/<key>/                         see moleflow.cache.stages and .patch_scores
    stages/<2>/<key>.checkpoint.safetensors   see moleflow.cache.checkpoints
    synthetic/<name>.png, <name>.mask.png     see moleflow.data.synthetic

The last use is the modification time of one file of the entry; `mark_used` sets it. Names are
compared in full and no link is followed: files that are not listed here are neither counted nor
removed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moleflow.files import touch

TOUCH_EVERY_S = 60.0

FEATURES, STAGES, DEFECTS = "features", "stages", "synthetic"
Kind = Literal["features", "stages", "checkpoints", "defects", "leftovers"]

_LOG = logging.getLogger(__name__)
_HEX = re.compile(r"[0-9a-f]+")
_PACK = re.compile(r"([0-9a-f]-[0-9a-f]{32})\.(?:json|npy)")
_CHECKPOINT = re.compile(r"([0-9a-f]+)\.checkpoint\.safetensors")
_DEFECT = re.compile(r"([0-9a-f]{64})(?:\.mask)?\.png")
# A temporary file or folder begins with a dot and the name of its target.
_LEFTOVER, _LEFTOVER_PACK = re.compile(r"\.([0-9a-f]+)\..+"), re.compile(r"\.[0-9a-f]-[0-9a-f]{32}\..+")


@dataclass(frozen=True)
class CacheEntry:
    """Files that are made and removed together.

    Attributes:
        kind: "leftovers" are half-written, by a writer that died or by one that is writing.
        group: the unit that a running sweep pins: the folder of a feature key, the key of a stage,
            or the folder of generated defects.
        paths: its files, or its one folder, in the order in which they are removed.
        used: the file whose modification time is the last use.
        bytes: the size of all its files.
        last_use: that time when the entry was listed, in seconds since 1970.
        claims: the claims of that moment under which more of the group is made.
    """

    kind: Kind
    group: str
    paths: tuple[Path, ...]
    used: Path
    bytes: int
    last_use: float
    claims: tuple[Path, ...] = ()

    @property
    def part(self) -> str:
        """The folder of the cache that holds it."""
        return self.group.partition("/")[0]


def mark_used(path: Path) -> None:
    """Note that the entry with the file `path` is used now; at most once a minute.

    The pause keeps thousands of reads from becoming thousands of writes on a shared filesystem.
    """
    with suppress(OSError):  # Gone, or another user's. The note is worth no error.
        touch(path, older_than_s=TOUCH_EVERY_S)


def cache_entries(cache: Path) -> list[CacheEntry]:
    """All entries of a cache, without files that vanish meanwhile."""
    parts = ((FEATURES, feature_entries), (STAGES, stage_entries), (DEFECTS, _defect_entries))
    return [entry for name, listed in parts if not (cache / name).is_symlink() for entry in listed(cache / name)]


def feature_entries(folder: Path) -> Iterator[CacheEntry]:
    """The packs of all feature keys under `folder`."""
    for key in _folders(folder):
        files = _files(Path(key.path))
        group, claims = f"{FEATURES}/{key.name}", tuple(path for path in files if path.suffix == ".claim")
        packs: dict[str, list[Path]] = {}
        for path in sorted(files):  # The JSON is removed first: an array without it is no entry.
            if named := _PACK.fullmatch(path.name):
                packs.setdefault(named[1], []).append(path)
            elif _LEFTOVER_PACK.fullmatch(path.name):
                yield _entry("leftovers", group, [path], files, claims)
        for paths in packs.values():
            yield _entry("features" if len(paths) == 2 else "leftovers", group, paths, files, claims)


def stage_entries(folder: Path) -> Iterator[CacheEntry]:
    """The stages and checkpoints under `folder`."""
    claimed = {path.name: path for path in _files(folder / "claims")}
    for start in _folders(folder):
        for place in _folders(Path(start.path), any_name=True):
            path, leftover = Path(place.path), _LEFTOVER.fullmatch(place.name)
            key = leftover[1] if leftover else place.name
            files = _files(path)
            used = path if leftover else path / "stage.json"
            if (used in files and _HEX.fullmatch(key)) or leftover:
                with suppress(FileNotFoundError):
                    last = files[used].st_mtime if used in files else path.stat().st_mtime
                    size = sum(state.st_size for state in files.values())
                    kind: Kind = "leftovers" if leftover else "stages"
                    yield CacheEntry(kind, f"{STAGES}/{key}", (path,), used, size, last, _claims(claimed, key))
        files = _files(Path(start.path))
        for path in files:
            if named := _CHECKPOINT.fullmatch(path.name):
                yield _entry("checkpoints", f"{STAGES}/{named[1]}", [path], files, _claims(claimed, named[1]))
            elif named := _LEFTOVER.fullmatch(path.name):
                yield _entry("leftovers", f"{STAGES}/{named[1]}", [path], files, _claims(claimed, named[1]))


def remove_entry(entry: CacheEntry) -> bool:
    """Remove an entry, unless it was used after it was listed.

    A folder is renamed first, so that readers find all of it or nothing.

    Returns:
        True if the entry is gone, also if another process removed it.
    """
    with suppress(FileNotFoundError):
        if entry.used.lstat().st_mtime > entry.last_use:
            return False
    try:
        for path in entry.paths:
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("%s: cannot be removed (%s)", error.filename or entry.paths[0], error.strerror or error)
        return False
    return True


def _remove_folder(path: Path) -> None:
    grave = path
    if not path.name.startswith("."):  # Otherwise a leftover, which no reader opens.
        grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.rename(grave)
        except FileNotFoundError:
            return
    shutil.rmtree(grave, ignore_errors=True)


def _defect_entries(folder: Path) -> Iterator[CacheEntry]:
    files = _files(folder)
    pairs: dict[str, list[Path]] = {}
    for path in sorted(files):
        if named := _DEFECT.fullmatch(path.name):
            pairs.setdefault(named[1], []).append(path)
        elif _LEFTOVER.fullmatch(path.name):
            yield _entry("leftovers", DEFECTS, [path], files)
    for paths in pairs.values():
        yield _entry("defects", DEFECTS, paths, files)


def _entry(
    kind: Kind, group: str, paths: list[Path], files: dict[Path, os.stat_result], claims: Iterable[Path] = ()
) -> CacheEntry:
    size = sum(files[path].st_size for path in paths)
    return CacheEntry(kind, group, tuple(paths), paths[0], size, files[paths[0]].st_mtime, tuple(claims))


def _claims(claimed: dict[str, Path], key: str) -> tuple[Path, ...]:
    return (claimed[key],) if key in claimed else ()


def _folders(folder: Path, any_name: bool = False) -> list[os.DirEntry[str]]:
    """The folders in a folder with hexadecimal names, or all; without links."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        return [one for one in found if one.is_dir(follow_symlinks=False) and (any_name or _HEX.fullmatch(one.name))]
    return []


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """The plain files in a folder, with their stat; without links."""
    states: dict[Path, os.stat_result] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for one in found:
            with suppress(FileNotFoundError):
                if one.is_file(follow_symlinks=False):
                    states[Path(one.path)] = one.stat(follow_symlinks=False)
    return states
