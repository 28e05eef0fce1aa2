"""The command `dashboard`: optuna-dashboard over the study of a results folder, on loopback."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
from optuna_dashboard import wsgi

from moleflow.errors import InvalidInput
from orchestrator.search.storage import JOURNAL, explain_storage_errors, open_journal

LOOPBACK = "127.0.0.1"
SHUTDOWN_S = 2.0


class _QuietHandler(WSGIRequestHandler):
    """Answers requests without logging them: the page polls the server all the time."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def serve_dashboard(sweep_folder: Path, url: str | None, port: int, announce: Callable[[str], None]) -> None:
    """Serve the dashboard until Ctrl-C.

    Args:
        sweep_folder: a results folder.
        url: the URL of the study's storage; None = the journal in the folder.
        port: the port; 0 = any free port.
        announce: called with the dashboard's address once the server listens.

    Raises:
        InvalidInput: no study in the folder, a storage that cannot be opened, or a port in use.

    """
    if url is None and not (sweep_folder / JOURNAL).exists():
        raise InvalidInput(
            f"{sweep_folder}: holds no search ({JOURNAL} is missing); give --storage if the study lies elsewhere"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with explain_storage_errors(url, sweep_folder):
        app = wsgi(url or open_journal(sweep_folder))
    try:
        server = make_server(LOOPBACK, port, app, handler_class=_QuietHandler)
    except OSError as error:
        raise InvalidInput(f"--port: given {port}, but {error.strerror or error}; allowed: a free port, or 0") from None
    # The server runs in a thread of its own. In the main thread, a Ctrl-C during a request would be
    # raised inside the request, which the server logs and ignores.
    thread = threading.Thread(target=server.serve_forever, name="dashboard", daemon=True)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        announce(f"http://{LOOPBACK}:{server.server_port}")
        thread.join()
    # shutdown() waits for a request in progress, which a slow client can hold open for ever.
    threading.Thread(target=server.shutdown, daemon=True).start()
    thread.join(SHUTDOWN_S)
    if not thread.is_alive():
        server.server_close()
