"""Functions of `moleflow.files` for processes that do not see the files: both ends of a route.

    client                                      service, where the files are
    files.routed(folder, RemoteFiles(send))     FileService([folder]).perform(request)

`send` carries a request to the service and its answer back, in any way. If it loses either, it
raises an OSError that passes, and the request is sent again. The service performs a request once,
however often it arrives, so an answer that was lost does no harm.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moleflow import files
from moleflow.passing_errors import retried

REMEMBERED = 10_000
"""Requests whose answers the service keeps, in case that one was lost."""

_READING: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        one.__name__: one
        for one in (files.exists, files.stat_of, files.stat_now, files.age, files.clock, files.names, files.read)
    }
)
"""Functions that a second time does no harm. Their answers may be large and are not kept."""
_CHANGING: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        one.__name__: one
        for one in (
            *(files.write_atomically, files.create_exclusively, files.write_file, files.append),
            *(files.rename, files.remove, files.remove_folder, files.remove_leftovers, files.make_folder),
            *(files.touch, files.sync_folder),
        )
    }
)


@dataclass(frozen=True)
class FileRequest:
    """A call of a function of `moleflow.files`.

    Attributes:
        name: the function.
        path: its first argument.
        args: its further arguments; bytes for content.
        kwargs: its arguments by name.
        id: the same each time that the request is sent.
    """

    name: str
    path: Path
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class FileAnswer:
    """The answer to a request: a result, or an OSError as plain values.

    Attributes:
        result: what the function returned.
        error: errno, text and file name of the error that it raised; None = it raised none.
        is_no_file: true if the error is `NotAFile`.
    """

    result: Any = None
    error: tuple[int | None, str, str | None] | None = None
    is_no_file: bool = False

    @staticmethod
    def of(error: OSError) -> FileAnswer:
        """The answer that says that a function raised this error."""
        name = None if error.filename is None else os.fspath(error.filename)
        return FileAnswer(
            error=(error.errno, error.strerror or str(error), name), is_no_file=type(error) is files.NotAFile
        )

    def value(self, path: Path) -> Any:
        """The result.

        Raises:
            OSError: the function raised it.
        """
        if self.is_no_file:
            raise files.NotAFile(path)
        if self.error is not None:
            number, text, name = self.error
            raise OSError(text) if number is None else OSError(number, text, name)
        return self.result


Send = Callable[[FileRequest], FileAnswer]


class RemoteFiles:
    """The `call` of a route: sends each call to a service, again while its errors pass.

    Args:
        send: carries a request to the service; raises an OSError that passes if it cannot tell
            whether the request was performed.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def __call__(self, name: str, path: Path, *args: Any, **kwargs: Any) -> Any:
        """Call a function of `moleflow.files` where the files are; see `moleflow.files.Call`."""
        # A memory view cannot be pickled.
        given = tuple(bytes(each) if isinstance(each, memoryview) else each for each in args)
        request = FileRequest(name, path, given, kwargs)
        return retried(lambda: self._send(request), path).value(path)


class FileService:
    """Performs requests on the files below some folders, in any thread.

    Args:
        roots: the folders. A path that leads out of them, by `..` or a link, is refused.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, Future[FileAnswer]] = OrderedDict()

    def perform(self, request: FileRequest) -> FileAnswer:
        """Call the function of a request, once for each request, and answer with what it did."""
        if request.name in _READING:
            return self._call(_READING[request.name], request)
        with self._lock:
            known = self._answers.get(request.id)
            if known is None:
                mine: Future[FileAnswer] = Future()
                self._answers[request.id] = mine
                if len(self._answers) > REMEMBERED:
                    self._answers.popitem(last=False)
        if known is not None:
            return known.result()
        try:
            answer = self._call(_CHANGING[request.name], request)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(answer)
        return answer

    def _call(self, function: Callable[..., Any], request: FileRequest) -> FileAnswer:
        paths = (request.path, *(one for one in (*request.args, *request.kwargs.values()) if isinstance(one, Path)))
        try:
            for path in paths:
                self.check(path)
            return FileAnswer(function(request.path, *request.args, **request.kwargs))
        except OSError as error:
            return FileAnswer.of(error)

    def check(self, path: Path) -> None:
        """Refuse a path that is not below the roots.

        Raises:
            PermissionError: it is not.
        """
        # The last part of a path may be a link: it is renamed or removed, or it leads elsewhere.
        if not any(path.resolve().is_relative_to(root) for root in self._roots):
            raise PermissionError(f"{path}: not below {' or '.join(map(str, self._roots))}")
