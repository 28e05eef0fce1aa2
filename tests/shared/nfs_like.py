"""A filesystem that shows a folder as an NFS client would. Two mounts of one folder are two hosts.

    python nfs_like.py FOLDER MOUNT --keep 60 --faults faults.json --log faults.log

Each mount keeps attributes, names (missing ones too) and listings for `--keep` seconds and sees
only its own changes at once. Opening a file asks for its attributes anew. A file that the other
mount removed answers ESTALE. One that is removed while it is open here stays as `.nfs*` until it is
closed.

The faults are read from a JSON file again after each change, `{kind: {"every": N}}`: each Nth call
of this kind fails, in folders named `results` or `cache`. Every fault is a line in the log. Kinds:

- `rename`, `mkdir`, `link`, `create`: done, but the reply is lost. The repeated request finds it
  done, and answers ENOENT or EEXIST.
- `no_link`: EOPNOTSUPP, as where files cannot have two names.
- `close`: EDQUOT, and what was written is lost. `fsync`: EIO.
- `open`, `read`: ESTALE. After a failed `open` the kernel asks again, which fails too.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyfuse3
import trio

REPLIES = {
    "rename": errno.ENOENT,
    "mkdir": errno.EEXIST,
    "link": errno.EEXIST,
    "create": errno.EEXIST,
    "no_link": errno.EOPNOTSUPP,
    "close": errno.EDQUOT,
    "fsync": errno.EIO,
    "open": errno.ESTALE,
    "read": errno.ESTALE,
}
FAULTY = re.compile(r"/(results|cache)/")
COPIED = ("mode", "nlink", "uid", "gid", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")
SPACE = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail")


class Faults:
    """Decides which calls fail."""

    def __init__(self, wanted: Path | None, log: Path | None) -> None:
        self._wanted, self._log = wanted, log
        self._stamp = 0
        self._every: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        self._again = ""

    def check(self, kind: str, path: str) -> None:
        """Raise the error of this kind if it is this call's turn."""
        if self._wanted is None or self._log is None:
            return
        with suppress(OSError, ValueError):
            stamp = self._wanted.stat().st_mtime_ns
            if stamp != self._stamp:
                self._every = {
                    kind: int(fault["every"]) for kind, fault in json.loads(self._wanted.read_text()).items()
                }
                self._stamp = stamp
        if kind not in self._every or not FAULTY.search(path):
            return
        if kind == "open" and self._again == path:
            self._again = ""
            raise pyfuse3.FUSEError(REPLIES[kind])
        self._calls[kind] += 1
        if self._calls[kind] % self._every[kind] == 0:
            self._again = path if kind == "open" else ""
            with self._log.open("a") as log:
                log.write(f"{kind} {path}\n")
            raise pyfuse3.FUSEError(REPLIES[kind])


@dataclass
class Node:
    """A file or folder that the kernel knows: an O_PATH handle and how often it is in use."""

    handle: int
    lookups: int = 0
    opened: int = 0
    hidden: tuple[int, bytes] | None = None  # A handle of the folder and the .nfs* name in it.
    listing: tuple[float, list[bytes]] = field(default=(0.0, []))

    @property
    def link(self) -> str:
        """A path to this file, wherever it is now."""
        return f"/proc/self/fd/{self.handle}"

    @property
    def path(self) -> str:
        """The present path, for the log."""
        return os.readlink(self.link)

    def status(self) -> os.stat_result:
        """The attributes at the server; ESTALE if the file is gone."""
        found = os.fstat(self.handle)
        if found.st_nlink == 0:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return found


class NfsLike(pyfuse3.Operations):
    """The filesystem of one mount."""

    enable_writeback_cache = False

    def __init__(self, folder: Path, keep: float, faults: Faults) -> None:
        super().__init__()
        self._keep, self._faults = keep, faults
        self._nodes = {pyfuse3.ROOT_INODE: Node(os.open(folder, os.O_PATH | os.O_DIRECTORY), lookups=1)}
        self._root = os.fstat(self._nodes[pyfuse3.ROOT_INODE].handle).st_ino
        self._files: dict[int, tuple[int, int, bool, int]] = {}  # handle: descriptor, inode, written, size
        self._folders: dict[int, tuple[int, list[bytes]]] = {}
        self._last = 0

    def _node(self, inode: int) -> Node:
        if inode not in self._nodes:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return self._nodes[inode]

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _attributes(self, found: os.stat_result) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        for name in COPIED:
            setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
        entry.st_ino = pyfuse3.ROOT_INODE if found.st_ino == self._root else found.st_ino
        entry.st_blksize, entry.st_blocks = 4096, found.st_blocks
        entry.entry_timeout = entry.attr_timeout = self._keep
        return entry

    def _found(self, folder: Node, name: bytes) -> pyfuse3.EntryAttributes:
        """The attributes of a name that the kernel gets to know."""
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder.handle)
        entry = self._attributes(os.fstat(handle))
        if entry.st_ino in self._nodes:
            os.close(handle)
        else:
            self._nodes[entry.st_ino] = Node(handle)
        self._nodes[entry.st_ino].lookups += 1
        return entry

    def _made(self, kind: str, folder: Node, name: bytes) -> pyfuse3.EntryAttributes:
        folder.listing = (0.0, [])
        self._check(kind, folder, name)
        return self._found(folder, name)

    def _check(self, kind: str, folder: Node, name: bytes) -> None:
        self._faults.check(kind, f"{folder.path}/{os.fsdecode(name)}")

    def _hide(self, folder: Node, name: bytes) -> bool:
        """Rename a file that is open here before its name is lost."""
        with suppress(FileNotFoundError):
            inode = os.stat(name, dir_fd=folder.handle, follow_symlinks=False).st_ino
            node = self._nodes.get(inode)
            if node is not None and node.opened and node.hidden is None:
                hidden = b".nfs%016x" % inode
                os.rename(name, hidden, src_dir_fd=folder.handle, dst_dir_fd=folder.handle)
                node.hidden = (os.open(".", os.O_PATH, dir_fd=folder.handle), hidden)
                return True
        return False

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        try:
            return self._found(self._node(parent), name)
        except FileNotFoundError:
            nothing = pyfuse3.EntryAttributes()
            nothing.st_ino, nothing.entry_timeout = 0, self._keep
            return nothing

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        for inode, count in forgotten:
            node = self._nodes[inode]
            node.lookups -= count
            if node.lookups <= 0 and inode != pyfuse3.ROOT_INODE:
                os.close(self._nodes.pop(inode).handle)

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._attributes(self._node(inode).status())

    async def setattr(self, inode: int, new: Any, fields: Any, fh: int | None, ctx: Any) -> pyfuse3.EntryAttributes:
        node = self._node(inode)
        before = node.status()
        if fields.update_size:
            os.truncate(node.link, new.st_size)
        if fields.update_mode:
            os.chmod(node.link, stat.S_IMODE(new.st_mode))
        if fields.update_uid or fields.update_gid:
            owner = new.st_uid if fields.update_uid else -1
            os.chown(node.link, owner, new.st_gid if fields.update_gid else -1)
        if fields.update_atime or fields.update_mtime:
            accessed = new.st_atime_ns if fields.update_atime else before.st_atime_ns
            os.utime(node.link, ns=(accessed, new.st_mtime_ns if fields.update_mtime else before.st_mtime_ns))
        return self._attributes(node.status())

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return os.readlink(b"", dir_fd=self._node(inode).handle)

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        folder = self._node(parent)
        os.symlink(target, name, dir_fd=folder.handle)
        return self._made("symlink", folder, name)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        folder = self._node(parent)
        os.mkdir(name, mode, dir_fd=folder.handle)
        return self._made("mkdir", folder, name)

    async def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        folder = self._node(parent)
        self._check("no_link", folder, name)
        os.link(self._node(inode).link, name, dst_dir_fd=folder.handle, follow_symlinks=True)
        return self._made("link", folder, name)

    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        folder = self._node(parent)
        if not self._hide(folder, name):
            os.unlink(name, dir_fd=folder.handle)
        folder.listing = (0.0, [])

    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        folder = self._node(parent)
        os.rmdir(name, dir_fd=folder.handle)
        folder.listing = (0.0, [])

    async def rename(self, parent: int, name: bytes, new_parent: int, new: bytes, flags: int, ctx: Any) -> None:
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        source, target = self._node(parent), self._node(new_parent)
        os.stat(name, dir_fd=source.handle, follow_symlinks=False)
        self._hide(target, new)
        os.rename(name, new, src_dir_fd=source.handle, dst_dir_fd=target.handle)
        source.listing = target.listing = (0.0, [])
        self._check("rename", target, new)

    async def opendir(self, inode: int, ctx: Any) -> int:
        node = self._node(inode)
        node.status()
        if time.monotonic() > node.listing[0]:
            names = [os.fsencode(name) for name in sorted(os.listdir(node.link))]
            node.listing = (time.monotonic() + self._keep, names)
        self._folders[handle := self._next()] = (inode, node.listing[1])
        return handle

    async def readdir(self, fh: int, start: int, token: Any) -> None:
        inode, names = self._folders[fh]
        folder = self._node(inode)
        for number, name in enumerate(names[start:], start + 1):
            with suppress(FileNotFoundError):  # The other mount has removed it.
                entry = self._found(folder, name)
                if not pyfuse3.readdir_reply(token, name, entry, number):
                    await self.forget([(entry.st_ino, 1)])
                    return

    async def releasedir(self, fh: int) -> None:
        del self._folders[fh]

    def _opened(self, descriptor: int, inode: int, written: bool) -> pyfuse3.FileInfo:
        self._files[handle := self._next()] = (descriptor, inode, written, os.fstat(descriptor).st_size)
        self._nodes[inode].opened += 1
        # Without the kernel's page cache each read comes here, and so do its faults.
        return pyfuse3.FileInfo(fh=handle, direct_io=True)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        node = self._node(inode)
        node.status()
        self._faults.check("open", node.path)
        descriptor = os.open(node.link, flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
        with suppress(OSError):
            pyfuse3.invalidate_inode(inode, attr_only=True)
        return self._opened(descriptor, inode, flags & (os.O_WRONLY | os.O_RDWR) != 0)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        folder = self._node(parent)
        descriptor = os.open(name, flags | os.O_CREAT, mode, dir_fd=folder.handle)
        try:
            entry = self._made("create" if flags & os.O_EXCL else "", folder, name)
        except BaseException:
            os.close(descriptor)
            raise
        return self._opened(descriptor, entry.st_ino, True), entry

    async def read(self, fh: int, start: int, size: int) -> bytes:
        descriptor, inode, *_ = self._files[fh]
        self._node(inode).status()
        self._faults.check("read", self._node(inode).path)
        return os.pread(descriptor, size, start)

    async def write(self, fh: int, start: int, content: bytes) -> int:
        descriptor, inode, *_ = self._files[fh]
        self._node(inode).status()
        return os.pwrite(descriptor, content, start)  # With O_APPEND, Linux appends.

    async def flush(self, fh: int) -> None:
        descriptor, inode, written, size = self._files[fh]
        try:
            if written and os.fstat(descriptor).st_size > size:
                self._faults.check("close", self._node(inode).path)
        except pyfuse3.FUSEError:
            os.ftruncate(descriptor, size)
            raise

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._faults.check("fsync", self._node(self._files[fh][1]).path)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass

    async def release(self, fh: int) -> None:
        descriptor, inode, *_ = self._files.pop(fh)
        os.close(descriptor)
        node = self._nodes.get(inode)
        if node is None:
            return
        node.opened -= 1
        if not node.opened and node.hidden is not None:
            handle, name = node.hidden
            node.hidden = None
            with suppress(OSError):
                os.unlink(name, dir_fd=handle)
            os.close(handle)

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        found, reply = os.statvfs(self._nodes[pyfuse3.ROOT_INODE].link), pyfuse3.StatvfsData()
        for name in SPACE:
            setattr(reply, f"f_{name}", getattr(found, f"f_{name}"))
        reply.f_namemax = 255
        return reply

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True


def _answering_errors(cls: type) -> type:
    """Let each operation answer the server's own errors; pyfuse3 wants them as FUSEError."""

    def wrapped(operation: Any) -> Any:
        async def answer(*words: Any) -> Any:
            try:
                return await operation(*words)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno or errno.EIO) from error

        return answer

    for name, value in list(vars(cls).items()):
        if not name.startswith("_") and callable(value):
            setattr(cls, name, wrapped(value))
    return cls


def main() -> None:
    parser = argparse.ArgumentParser(description="A folder as an NFS client shows it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("mount")
    parser.add_argument("--keep", type=float, default=60.0)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--log", type=Path)
    typed = parser.parse_args()
    served = _answering_errors(NfsLike)(typed.folder, typed.keep, Faults(typed.faults, typed.log))
    pyfuse3.init(served, typed.mount, {*pyfuse3.default_options, "fsname=nfs_like"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
