"""optuna-dashboard over the study of a results folder, on loopback."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
from optuna_dashboard import wsgi

from moleflow.errors import InvalidInput
from orchestrator.search.storage import JOURNAL, journal, usable

LOOPBACK = "127.0.0.1"
LEAVE_WITHIN_S = 2.0


class _Quiet(WSGIRequestHandler):
    """A page asks again and again; nobody wants to read that."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def serve_dashboard(sweep_folder: Path, url: str | None, port: int, say: Callable[[str], None]) -> None:
    """Serve the dashboard until somebody interrupts it.

    Args:
        sweep_folder: a results folder.
        url: of the study's storage, where it is not the folder's journal.
        port: 0 = any free one.
        say: told the address once it answers.

    Raises:
        InvalidInput: there is no study, its storage cannot be opened, or the port is taken.

    """
    if url is None and not (sweep_folder / JOURNAL).exists():
        raise InvalidInput(
            f"{sweep_folder}: holds no search ({JOURNAL} is missing); give --storage if it has one elsewhere"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with usable(url, sweep_folder):
        app = wsgi(url or journal(sweep_folder))
    try:
        server = make_server(LOOPBACK, port, app, handler_class=_Quiet)
    except OSError as error:
        raise InvalidInput(f"--port: given {port}, but {error.strerror or error}; allowed: a free port, or 0") from None
    # In a thread of its own: a Ctrl-C in the middle of an answer would be taken for a mistake of that answer, and swallowed.
    serving = threading.Thread(target=server.serve_forever, name="dashboard", daemon=True)
    serving.start()
    with contextlib.suppress(KeyboardInterrupt):
        say(f"http://{LOOPBACK}:{server.server_port}")
        serving.join()
    threading.Thread(target=server.shutdown, daemon=True).start()
    serving.join(LEAVE_WITHIN_S)  # An answer that takes longer ends with the process.
    if not serving.is_alive():
        server.server_close()
