"""The files of results and cache, on filesystems as they are: local ones, NFS, Lustre, FUSE.

Results and cache reach their files through this module alone. It knows what shared filesystems
answer:

- A reply that was lost: the server has renamed, and answers a second request that there is no such
  file. What is there now is compared with what was meant.
- Errors that pass, and ESTALE. `moleflow.passing_errors` handles them, and holds the functions
  that read a file.
- Attributes and listings that are a minute old. Those that decide something are asked for anew.
- Clocks that differ. Ages come from the clock that stamps the files.

A file is whole or not there, whenever a process dies or the power fails.

On a node that does not see a folder, a process that sees it can do the work: see `routed`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from io import BufferedReader
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from moleflow import passing_errors
from moleflow.owner import CODE, code_is_gone, owner_code
from moleflow.passing_errors import PASSING, of_present_file, retried
from moleflow.passing_errors import NotAFile as NotAFile  # Part of this module for its callers.

Content = bytes | memoryview
Written = TypeVar("Written")
Result = TypeVar("Result")
Rest = ParamSpec("Rest")
Call = Callable[..., Any]
"""Runs a function of this module elsewhere: `call(name, path, *args, **kwargs)`. It returns what
the function returns there and raises its OSError."""

LEFT_BEHIND_S = 3600.0
"""Age of a temporary file of another host from which nobody writes it any more."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_TEMPORARY = re.compile(r"^\..+\.tmp$")
_OWNED = re.compile(rf"\.({CODE})-[0-9a-f]{{12}}\.tmp$")
_ROUTES: dict[Path, Call] = {}


# --- Folders of another process ------------------------------------------------------------------


@contextlib.contextmanager
def routed(folder: Path, call: Call) -> Iterator[None]:
    """Let another process work on the files below a folder, for all threads, within the block.

    Args:
        folder: the folder, as callers spell its path.
        call: runs a function of this module there.
    """
    _ROUTES[folder] = call
    try:
        yield
    finally:
        del _ROUTES[folder]


def is_routed(path: Path) -> bool:
    """True if another process works on this path."""
    return _route(path) is not None


def _route(path: Path) -> Call | None:
    for folder, call in _ROUTES.items():
        if path.is_relative_to(folder):
            return call
    return None


def _routable(
    function: Callable[Concatenate[Path, Rest], Result],
) -> Callable[Concatenate[Path, Rest], Result]:
    """A function that runs where its path is."""

    @wraps(function)
    def run(path: Path, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        call = _route(path) if _ROUTES else None
        if call is None:
            return function(path, *args, **kwargs)
        result: Result = call(function.__name__, path, *args, **kwargs)
        return result

    return run


# --- Looking -------------------------------------------------------------------------------------


@_routable
def exists(path: Path) -> bool:
    """True if there is a file or folder of this name."""
    return stat_of(path) is not None


@_routable
def stat_of(path: Path) -> os.stat_result | None:
    """Size and times of a file or folder, perhaps as they were a minute ago; None if it is gone."""
    try:
        return of_present_file(path, lambda: os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


@_routable
def stat_now(path: Path) -> os.stat_result | None:
    """Size and times of a file as the server has them now; None if it is gone.

    Of another user's file they may be a minute old.
    """

    def ask() -> os.stat_result:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Opening a file makes NFS ask for its attributes, but not every client. All of them
            # take over those in the reply to a change. This one changes nothing. It names the path,
            # so that a client that still knows a file removed elsewhere looks the name up anew.
            with contextlib.suppress(PermissionError):
                os.chmod(path, stat.S_IMODE(os.fstat(handle).st_mode))
            return os.stat(path)
        finally:
            # A client that opens files late says here that the file it knew is gone.
            with contextlib.suppress(OSError):
                os.close(handle)

    try:
        return of_present_file(path, ask)
    except (FileNotFoundError, NotADirectoryError):
        return None


@_routable
def names(folder: Path, fresh: bool = False, temporary: bool = False) -> list[str]:
    """The names in a folder; none if there is no folder.

    Args:
        folder: the folder.
        fresh: for what decides something: also those that other hosts made a moment ago. Needs
            write access, without which they may be missing for a minute.
        temporary: also those of temporary files.
    """
    if fresh:
        with contextlib.suppress(OSError):
            _touch_probe(folder)
    try:
        found = of_present_file(folder, lambda: os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return found if temporary else [name for name in found if not _TEMPORARY.match(name)]


@_routable
def clock(folder: Path) -> float:
    """The present by the clock that stamps new files in a folder, in seconds since 1970.

    In a folder that cannot be written it is this host's clock.
    """
    try:
        return _touch_probe(folder)
    except OSError:
        return time.time()


def _open_file(path: Path) -> BufferedReader:
    call = _route(path) if _ROUTES else None
    if call is None:
        return passing_errors.open_file(path)
    content: bytes = call("read", path)
    # Not on a disk of this node, which may be full.
    handle = os.memfd_create(path.name, os.MFD_CLOEXEC)
    _write_pieces(handle, (content,))
    os.lseek(handle, 0, os.SEEK_SET)
    return os.fdopen(handle, "rb")


read = _routable(passing_errors.read)
open_file = _open_file
"""As `moleflow.passing_errors.open_file`. Where another process works on the file, this one holds
the bytes of now in memory."""


def uptime() -> float:
    """Seconds since this host was started, with those for which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@_routable
def age(path: Path) -> float | None:
    """Seconds since a file was written or touched, by the clock that stamps it; None if it is gone.

    Some filesystems stamp a file with the clock of the host that touches it. If that clock is
    wrong, so is the age.
    """
    now = stat_now(path)
    return None if now is None else clock(path.parent) - now.st_mtime


# --- Writing -------------------------------------------------------------------------------------


@_routable
def write_atomically(path: Path, *content: Content, folder: Path | None = None, durable: bool = True) -> None:
    """Make a file hold `content`: write a temporary file, then rename it into place.

    Args:
        path: the file; its folder must exist.
        content: pieces, written one after the other.
        folder: the folder of the temporary file, on the same filesystem; None = that of `path`.
        durable: sync the file before the rename, so that a power cut leaves the old content or the
            new one. False only for what can be made again.

    Raises:
        OSError: the disk is full or not writable; `path` keeps what it held, and nothing else
            stays.
    """

    # After a failed sync the kernel drops the pages and says that all is well when it is asked
    # again. So every try writes a new file.
    def write() -> None:
        temporary = _temporary_name(path, folder)
        try:
            write_file(temporary, *content, durable=durable)
            os.replace(temporary, path)
        except BaseException as error:
            _discard(temporary)
            if not isinstance(error, OSError):
                raise
            if not _reply_was_lost(error, lambda: _holds(path, content)):
                raise _passing_if_removed(error, path.parent, temporary.parent) from error

    retried(write, path)


@_routable
def create_exclusively(path: Path, *content: Content, durable: bool = False) -> bool:
    """Write `content` to a file that must not exist yet. Of several that try, one succeeds.

    Nobody sees the file without its content.

    Args:
        path: the file; its folder must exist.
        content: pieces, written one after the other; no other caller writes the same.
        durable: sync the file first, so that a power cut does not leave it empty.

    Returns:
        False if the file exists.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """

    def create() -> bool:
        with temporary_file(path) as temporary:
            write_file(temporary, *content, durable=durable)
            try:
                os.link(temporary, path)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return _create_without_link(path, *content)
                # A second name for the temporary file shows that the link was made, whatever the
                # reply to it says.
                if error.errno in {errno.EEXIST, *PASSING} and _has_second_name(temporary):
                    return True
                if error.errno == errno.EEXIST:
                    return False
                raise _passing_if_removed(error, path.parent) from error
        return True

    return retried(create, path)


@contextlib.contextmanager
def temporary_file(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A unique path for a temporary file beside `path`, or in `folder`; removed at the end.

    The name begins with a dot and ends in `.tmp`, which readers skip. It tells whose it is, so that
    `remove_leftovers` finds those of dead writers.
    """
    temporary = _temporary_name(path, folder)
    try:
        yield temporary
    finally:
        _discard(temporary)


@_routable
def write_file(path: Path, *content: Content, durable: bool = True) -> None:
    """Write pieces to a file, synced if `durable`. Not atomic: for files that are renamed later.

    Raises:
        OSError: the disk is full or not writable.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        _write_pieces(handle, content)
        if durable:
            # Without it a power cut after the rename can leave the new name without its content.
            os.fsync(handle)
    finally:
        # Some filesystems only say here that the disk is full.
        os.close(handle)


@_routable
def append(path: Path, content: bytes) -> None:
    """Add `content` to the end of a file, which is made if there is none.

    On NFS other hosts see it, since the file is closed again.

    Raises:
        OSError: the disk is full or not writable; a part of `content` may be in the file.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        _write_pieces(handle, (content,))
    finally:
        os.close(handle)


def rename(source: Path, target: Path, is_done: Callable[[], bool] | None = None) -> None:
    """Rename a file or a folder; a file of the name `target` is replaced.

    Args:
        source: the file or folder.
        target: its new name.
        is_done: tells from the target whether a rename was done whose reply was lost; None = it is
            compared with what `source` was before.

    Raises:
        FileNotFoundError: there is no `source`.
        OSError: the folder cannot be written.
    """
    call = _route(source) if _ROUTES else None
    if call is not None:
        try:
            call("rename", source, target)
        except OSError as error:
            if is_done is None or not _reply_was_lost(error, is_done):
                raise
        return
    before = None if is_done else of_present_file(source, lambda: os.stat(source))

    def is_there() -> bool:
        if before is None:
            return is_done is not None and is_done()
        after = stat_of(target)
        return after is not None and os.path.samestat(before, after)

    def move() -> None:
        try:
            os.replace(source, target)
        except OSError as error:
            if not _reply_was_lost(error, is_there):
                raise

    retried(move, target)


@_routable
def remove(path: Path) -> bool:
    """Remove a file; False if there is none.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        of_present_file(path, lambda: os.unlink(path))
    except FileNotFoundError:
        return False
    return True


@_routable
def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they exist.

    Raises:
        OSError: it cannot be made.
    """
    # `exist_ok` also covers a reply that was lost.
    retried(lambda: folder.mkdir(parents=True, exist_ok=True), folder)


def make_folder_if_missing(folder: Path, write: Callable[[], Written]) -> Written:
    """Return `write()`, called again once `folder` is made if it was missing.

    Raises:
        OSError: the folder cannot be made or written.
    """
    try:
        return write()
    except FileNotFoundError:
        make_folder(folder)
        return write()


@_routable
def remove_folder(folder: Path) -> None:
    """Remove a folder with everything in it, as far as this user may."""
    shutil.rmtree(folder, ignore_errors=True)


@_routable
def touch(path: Path, older_than_s: float | None = None) -> None:
    """Stamp a file with the present.

    Args:
        path: the file.
        older_than_s: leave a file alone whose time differs from this host's clock by less than
            this many seconds; None = stamp it always.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be stamped.
    """

    def stamp() -> None:
        if older_than_s is None or abs(time.time() - os.stat(path).st_mtime) > older_than_s:
            os.utime(path)

    of_present_file(path, stamp)


@_routable
def sync_folder(folder: Path) -> None:
    """Make renames into `folder` last through a power cut, where the filesystem can."""
    # Some network filesystems cannot sync a folder and answer with an error. Nothing more can be
    # done.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@_routable
def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files in a folder that dead writers left; returns them.

    A writer whose file is removed by mistake, since its host slept for hours, writes it anew.
    """
    removed = []
    with contextlib.suppress(OSError):
        for name in filter(_TEMPORARY.match, os.listdir(folder)):
            owned = _OWNED.search(name)
            gone = code_is_gone(owned[1]) if owned else None
            path = folder / name
            if gone is None:
                since = age(path)
                gone = since is not None and since > LEFT_BEHIND_S
            with contextlib.suppress(OSError):
                if gone and remove(path):
                    removed.append(path)
    return removed


def _temporary_name(path: Path, folder: Path | None) -> Path:
    return (folder or path.parent) / f".{path.name}.{owner_code()}-{uuid.uuid4().hex[:12]}.tmp"


def _discard(temporary: Path) -> None:
    """Remove a temporary file. Usually it is gone, since it was renamed."""
    # A broken disk refuses to remove it; then the error that led here counts, not this one.
    with contextlib.suppress(OSError):
        if is_routed(temporary):
            remove(temporary)
        else:
            os.unlink(temporary)


def _write_pieces(handle: int, content: Iterable[Content]) -> None:
    for piece in content:
        view = memoryview(piece).cast("B")
        while view:
            view = view[os.write(handle, view) :]


def _touch_probe(folder: Path) -> float:
    """Make and remove a file, which makes the client ask for the folder anew; returns its time."""
    with temporary_file(folder / "probe") as probe:
        handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)


def _reply_was_lost(error: OSError, is_done: Callable[[], bool]) -> bool:
    """True if an operation is done although its last reply was `error`."""
    with contextlib.suppress(OSError):
        return error.errno in {errno.ENOENT, *PASSING} and is_done()
    return False


def _passing_if_removed(error: OSError, *folders: Path) -> OSError:
    """ESTALE, which is tried again, if only the temporary file is missing and no folder."""
    if error.errno == errno.ENOENT and all(folder.is_dir() for folder in folders):
        return OSError(errno.ESTALE, os.strerror(errno.ESTALE), error.filename)
    return error


def _holds(path: Path, content: tuple[Content, ...]) -> bool:
    with passing_errors.open_file(path) as file:
        same = all(file.read(memoryview(piece).nbytes) == bytes(piece) for piece in content)
        return same and not file.read(1)


def _has_second_name(temporary: Path) -> bool:
    now = stat_now(temporary)
    return now is not None and now.st_nlink > 1


def _create_without_link(path: Path, *content: Content) -> bool:
    """As `create_exclusively`, where files cannot have two names."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        with contextlib.suppress(OSError):
            return _holds(path, content)
        return False
    try:
        try:
            _write_pieces(handle, content)
        finally:
            os.close(handle)
    except OSError:
        os.unlink(path)  # An empty file would pass for a claim for a minute.
        raise
    return True
