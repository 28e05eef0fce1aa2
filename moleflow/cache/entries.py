"""What a cache holds on disk: what comes and goes as one, its bytes, and when it was last used.

    features/<key>/<pack>.json, .npy             see `moleflow.features`
    stages/<2>/<key>/                            see `moleflow.cache.stages`; the maps in it (`moleflow.cache.patch_scores`) count and go with it
    stages/<2>/<key>.checkpoint.safetensors      see `moleflow.cache.checkpoints`
    synthetic/<name>.png, <name>.mask.png        see `moleflow.data.synthetic`

The last use is the modification time of one file of the entry, as `touch` sets it. Names are compared in full and no link is followed:
what is not listed here is neither counted nor removed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TOUCH_EVERY_S = 60.0

FEATURES, STAGES, DEFECTS = "features", "stages", "synthetic"
Kind = Literal["features", "stages", "checkpoints", "defects", "leftovers"]

_LOG = logging.getLogger(__name__)
_HEX = re.compile(r"[0-9a-f]+")
_PACK = re.compile(r"([0-9a-f]-[0-9a-f]{32})\.(?:json|npy)")
_CHECKPOINT = re.compile(r"([0-9a-f]+)\.checkpoint\.safetensors")
_DEFECT = re.compile(r"([0-9a-f]{64})(?:\.mask)?\.png")
# What is written beside its place begins with a dot and the name of that.
_LEFT, _LEFT_PACK = re.compile(r"\.([0-9a-f]+)\..+"), re.compile(r"\.[0-9a-f]-[0-9a-f]{32}\..+")


@dataclass(frozen=True)
class CacheEntry:
    """What comes and goes as one.

    Attributes:
        kind: what it is; "leftovers" are half-written, of a writer that died or of one that is at it.
        group: the folder of a feature key, a stage's key, or the folder of generated defects: what a running sweep pins as a whole.
        paths: its files, or its one folder, in the order in which they are taken away.
        used: the file whose modification time is the last use.
        last_use: that time when it was looked at, in seconds since 1970.
        claims: claims that stood beside it then, under which more of the group is made.
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
        """The folder of the cache that it lies in."""
        return self.group.partition("/")[0]


def mark_used(path: Path) -> None:
    """Note that the entry with the file `path` is used now, unless that was noted within the last minute."""
    with suppress(OSError):  # It is gone, or another user's: the note is worth no error.
        if abs(time.time() - path.stat().st_mtime) > TOUCH_EVERY_S:
            os.utime(path)


def cache_entries(cache: Path) -> list[CacheEntry]:
    """Everything in a cache that can be made again; files that vanish meanwhile are left out."""
    parts = ((FEATURES, feature_entries), (STAGES, stage_entries), (DEFECTS, _defect_entries))
    return [entry for name, of in parts if not (cache / name).is_symlink() for entry in of(cache / name)]


def feature_entries(folder: Path) -> Iterator[CacheEntry]:
    """The packs in all the feature keys' folders under `folder`."""
    for key in _folders(folder):
        files = _files(Path(key.path))
        group, claims = f"{FEATURES}/{key.name}", tuple(path for path in files if path.suffix == ".claim")
        packs: dict[str, list[Path]] = {}
        for path in sorted(files):  # The JSON goes first: an array without it is no entry.
            if named := _PACK.fullmatch(path.name):
                packs.setdefault(named[1], []).append(path)
            elif _LEFT_PACK.fullmatch(path.name):
                yield _entry("leftovers", group, [path], files, claims)
        for paths in packs.values():
            yield _entry("features" if len(paths) == 2 else "leftovers", group, paths, files, claims)


def stage_entries(folder: Path) -> Iterator[CacheEntry]:
    """The stages and checkpoints under `folder`."""
    claimed = {path.name: path for path in _files(folder / "claims")}
    for start in _folders(folder):
        for place in _folders(Path(start.path), any_name=True):
            path, left = Path(place.path), _LEFT.fullmatch(place.name)
            key = left[1] if left else place.name
            files = _files(path)
            used = path if left else path / "stage.json"
            if (used in files and _HEX.fullmatch(key)) or left:
                with suppress(FileNotFoundError):
                    last = files[used].st_mtime if used in files else path.stat().st_mtime
                    size = sum(state.st_size for state in files.values())
                    kind: Kind = "leftovers" if left else "stages"
                    yield CacheEntry(kind, f"{STAGES}/{key}", (path,), used, size, last, _of(claimed, key))
        files = _files(Path(start.path))
        for path in files:
            if named := _CHECKPOINT.fullmatch(path.name):
                yield _entry("checkpoints", f"{STAGES}/{named[1]}", [path], files, _of(claimed, named[1]))
            elif named := _LEFT.fullmatch(path.name):
                yield _entry("leftovers", f"{STAGES}/{named[1]}", [path], files, _of(claimed, named[1]))


def remove_entry(entry: CacheEntry) -> bool:
    """Take an entry away, unless it was used after it was listed; whether it is gone.

    A folder is renamed first, so that readers find all of it or nothing. What somebody else takes away at the same time is gone too.
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
    if not path.name.startswith("."):
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
        elif _LEFT.fullmatch(path.name):
            yield _entry("leftovers", DEFECTS, [path], files)
    for paths in pairs.values():
        yield _entry("defects", DEFECTS, paths, files)


def _entry(
    kind: Kind, group: str, paths: list[Path], files: dict[Path, os.stat_result], claims: Iterable[Path] = ()
) -> CacheEntry:
    size = sum(files[path].st_size for path in paths)
    return CacheEntry(kind, group, tuple(paths), paths[0], size, files[paths[0]].st_mtime, tuple(claims))


def _of(claimed: dict[str, Path], key: str) -> tuple[Path, ...]:
    return (claimed[key],) if key in claimed else ()


def _folders(folder: Path, any_name: bool = False) -> list[os.DirEntry[str]]:
    """The folders in a folder whose names are hexadecimal, or all; links are none."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        return [one for one in found if one.is_dir(follow_symlinks=False) and (any_name or _HEX.fullmatch(one.name))]
    return []


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """The plain files in a folder; links are none."""
    states: dict[Path, os.stat_result] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for one in found:
            with suppress(FileNotFoundError):
                if one.is_file(follow_symlinks=False):
                    states[Path(one.path)] = one.stat(follow_symlinks=False)
    return states
