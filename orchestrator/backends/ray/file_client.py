"""The driver's files as a node reaches them: requests to the file server, copies on the node."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from moleflow import files
from moleflow.data.layouts.table import Reading
from moleflow.file_service import FileAnswer, FileRequest
from moleflow.passing_errors import retried
from orchestrator.backends.ray.file_server import HubFile, ImagePack, Stamp, Stored, Unchanged

ANSWER_WITHIN_S = 60.0
FREE_SHARE = 0.1
"""Share of a node's disk that copies leave free."""
_NONE: Stamp = (0, 0, 0)
_HEADER = struct.Struct("<qqqI")  # The stamp, and the CRC-32 of the content.


def answered(reference: Any, path: Path) -> Any:
    """The value of a reference to something on the driver's node.

    Args:
        reference: of Ray.
        path: the file that it is about, for messages.

    Raises:
        OSError: the server or the connection to it is lost, which passes; or its own error.
        InvalidInput: its own error.

    """
    try:
        return cast(Any, ray).get(reference, timeout=ANSWER_WITHIN_S)
    except GetTimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, "the driver's node does not answer", str(path)) from None
    except (RayActorError, ObjectLostError):
        raise ConnectionResetError(errno.ECONNRESET, "the driver's node cannot be reached", str(path)) from None
    except RayTaskError as error:
        raise error.cause from None


class FileClient:
    """Reaches the server from a node. Errors that pass are tried again, as everywhere.

    Args:
        server: the actor.
        copies: copies of stages on this node.

    """

    def __init__(self, server: Any, copies: StageCopies) -> None:
        self._server, self._copies = server, copies

    def send(self, request: FileRequest) -> FileAnswer:
        """Carry a request; see `moleflow.file_service.Send`."""
        is_kept = request.name == "read" and self._copies.keeps(request.path)
        known = self._copies.read(request.path) if is_kept else None
        stamp = (known[0] if known else _NONE) if is_kept else None
        answer, stamp = answered(self._server.perform.remote(request, stamp), request.path)
        if known and isinstance(answer.result, Unchanged):
            return FileAnswer(known[1])
        if isinstance(answer.result, Stored):
            answer = replace(answer, result=answered(answer.result.reference[0], request.path))
        if stamp is not None and isinstance(answer.result, bytes):
            self._copies.write(request.path, stamp, answer.result)
        return cast(FileAnswer, answer)

    def image_packs(self, classes: Sequence[str], reading: Reading, root: Path) -> list[ImagePack]:
        """See `FileServer.image_packs`; `root` is named in messages."""
        found: list[ImagePack] = retried(
            lambda: answered(self._server.image_packs.remote(classes, reading), root), root
        )
        return found

    def images(self, pack: ImagePack, root: Path) -> list[bytes]:
        """The contents of the files of a pack; `root` is named in messages."""
        found: list[bytes] = retried(lambda: answered(answered(self._server.images.remote(pack), root)[0], root), root)
        return found

    def hub_weights(self, repository: str) -> HubFile | None:
        """See `FileServer.hub_weights`."""
        named = Path(repository)
        found: HubFile | None = retried(lambda: answered(self._server.hub_weights.remote(repository), named), named)
        return found

    def weights(self, path: Path, sha256: str) -> bytes:
        """The content of a file of weights on the driver's node."""
        found: bytes = retried(
            lambda: answered(answered(self._server.weights.remote(path, sha256), path)[0], path), path
        )
        return found


class StageCopies:
    """Copies of trained stages on a node's own disk: its trials often begin with the same ones.

    A stored stage never changes. One that was damaged and trained again has another stamp.

    Args:
        folder: the folder of the copies.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keeps(self, path: Path) -> bool:
        """True for a file that is copied."""
        return path.name == "state.safetensors"

    def read(self, path: Path) -> tuple[Stamp, bytes] | None:
        """The stamp and the content of an intact copy; None if there is none."""
        with contextlib.suppress(OSError, struct.error):
            stored = files.read(self._place(path))
            *stamp, crc32 = _HEADER.unpack_from(stored)
            content = stored[_HEADER.size :]
            if zlib.crc32(content) == crc32:
                return (stamp[0], stamp[1], stamp[2]), content
        return None

    def write(self, path: Path, stamp: Stamp, content: bytes) -> None:
        """Keep a copy, unless the disk is nearly full."""
        place = self._place(path)
        with contextlib.suppress(OSError):  # It costs time and nothing else.
            files.make_folder(place.parent)
            disk = shutil.disk_usage(place.parent)
            if disk.free - len(content) > FREE_SHARE * disk.total:
                header = _HEADER.pack(*stamp, zlib.crc32(content))
                files.write_atomically(place, header, content, durable=False)

    def _place(self, path: Path) -> Path:
        return self._folder / hashlib.sha256(str(path).encode()).hexdigest()
