"""The option --notify: a command or a webhook that hears of the first failure and of the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from rich.console import Console

from moleflow.errors import InvalidInput
from orchestrator.execution.trial_source import RunOutcome
from orchestrator.exit_codes import FAILED, INTERRUPTED
from orchestrator.host.printable_text import single_line
from orchestrator.monitor.status import StatusReader
from orchestrator.records.events import Event

LIMIT_S = 10.0
"""Seconds that a command or a webhook may take for one notice."""
VARIABLE = "MOLEFLOW_NOTIFY_"
"""The beginning of the names of environment variables that a command receives."""
_WORDS = {0: "finished", INTERRUPTED: "interrupted"}


@dataclass(frozen=True)
class Notice:
    """One message about a sweep.

    Attributes:
        event: `failed` at the first failed trial, `ended` at the end.
        sweep: the sweep's name.
        folder: the results folder, as an absolute path.
        trials: {state: number of trials}, in the words of `status`.
        exit_code: that of the run; None before its end.
        answer: the first line of the report's answer; empty before the end.
        error: the failed trial with its error, or the error that ended the run; may be empty.
    """

    event: Literal["failed", "ended"]
    sweep: str
    folder: str
    trials: Mapping[str, int] = field(default_factory=dict)
    exit_code: int | None = None
    answer: str = ""
    error: str = ""

    @property
    def text(self) -> str:
        """The notice in one line, for chats."""
        if self.event == "failed":
            return f"{self.sweep}: first failed trial: {self.error}"
        states = ", ".join(f"{number} {state}" for state, number in self.trials.items() if number)
        end = _WORDS.get(self.exit_code or 0, "failed")
        said = "; ".join(filter(None, [states, self.error, self.answer]))
        return f"{self.sweep}: {end}: {said}" if said else f"{self.sweep}: {end}"

    def as_json(self) -> str:
        """The notice as a webhook receives it; chats show its `text`."""
        return json.dumps({"text": self.text, **vars(self)}, ensure_ascii=False)

    def variables(self) -> dict[str, str]:
        """The notice as environment variables of a command."""
        own: dict[str, Any] = {"text": self.text, **vars(self)}
        states = own.pop("trials")
        own |= {name: states.get(name, 0) for name in ("finished", "failed")} | {"total": sum(states.values())}
        return {f"{VARIABLE}{name.upper()}": "" if value is None else str(value) for name, value in own.items()}


def check_notify(target: str) -> None:
    """Check the value of --notify. The message shows no URL, which may hold a secret.

    Raises:
        InvalidInput: it is empty, or a URL of another kind than http and https.
    """
    if not target.strip():
        raise InvalidInput("--notify: given ''; give a command, or a webhook that begins with https:// or http://")
    scheme, found, _ = target.partition("://")
    if found and scheme.isalnum() and not (_is_webhook(target) and urlsplit(target).hostname):
        raise InvalidInput(f"--notify: given a URL of '{scheme}', allowed: https://HOST/... or http://HOST/...")


class Notifier:
    """Sends notices to a command or a webhook, each once; a failure is a warning.

    Args:
        target: a command for the shell, or a URL.
        sweep: the sweep's name.
        folder: its results folder.
    """

    def __init__(self, target: str, sweep: str, folder: Path) -> None:
        self._target, self._sweep, self._folder = target, sweep, folder
        self._first: threading.Thread | None = None
        self._warnings: list[str] = []

    def hear_failure(self, event: Event, tally: RunOutcome) -> None:
        """Send a notice of the first trial that failed for good; the run goes on meanwhile."""
        if self._first is not None or event.trial_id not in tally.failed:
            return
        error = single_line(str(event.facts.get("error") or event.facts.get("error_kind") or "no error is known"))
        notice = Notice("failed", self._sweep, str(self._folder.absolute()), error=f"{event.trial_id}: {error}")
        self._first = threading.Thread(target=self._send, args=(notice,), daemon=True)
        self._first.start()

    def tell_end(self, exit_code: int, error: str = "") -> list[str]:
        """Send the notice of the end, and return a warning for each notice that failed."""
        if self._first is not None:
            self._first.join(2 * LIMIT_S)
        states: dict[str, int] = {}
        with contextlib.suppress(InvalidInput, OSError):
            states = {str(state): number for state, number in StatusReader(self._folder).look().counts.items()}
        answer = _answer_line(self._folder) if exit_code != INTERRUPTED and not error else ""
        folder = str(self._folder.absolute())
        last = threading.Thread(
            target=self._send,
            args=(Notice("ended", self._sweep, folder, states, exit_code, answer, error),),
            daemon=True,
        )
        last.start()
        last.join(2 * LIMIT_S)
        if last.is_alive():
            self._warnings.append(f"--notify: no notice of the end: {_shown(self._target)}: no answer")
        return self._warnings

    def _send(self, notice: Notice) -> None:
        try:
            if _is_webhook(self._target):
                _post(self._target, notice)
            else:
                _run_command(self._target, notice)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            about = "first failure" if notice.event == "failed" else "end"
            self._warnings.append(f"--notify: no notice of the {about}: {_shown(self._target)}: {_reason(error)}")


@contextlib.contextmanager
def notifying(target: str | None, sweep: str, folder: Path, console: Console) -> Iterator[Notifier | None]:
    """Yield a notifier, which also hears of an error that ends the run; None without a target."""
    if target is None:
        yield None
        return
    notifier = Notifier(target, sweep, folder)
    try:
        yield notifier
    except Exception as error:
        say_end(notifier, FAILED, console, single_line(str(error)))
        raise


def say_end(notifier: Notifier | None, exit_code: int, console: Console, error: str = "") -> None:
    """Send the notice of the end; warnings go to the console, and a Ctrl-C skips the notice."""
    if notifier is not None:
        with contextlib.suppress(KeyboardInterrupt):
            for warning in notifier.tell_end(exit_code, error):
                console.print(f"warning: {warning}")


def _is_webhook(target: str) -> bool:
    return target.lower().startswith(("https://", "http://"))


def _shown(target: str) -> str:
    """Return the target for a message: of a URL only the host, as the rest may be a secret."""
    return f"{urlsplit(target).scheme}://{urlsplit(target).hostname}/***" if _is_webhook(target) else "the command"


def _post(url: str, notice: Notice) -> None:
    request = urllib.request.Request(  # noqa: S310 - http and https alone, see `check_notify`
        url, notice.as_json().encode(), {"Content-Type": "application/json", "User-Agent": "moleflow-sweep"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S):  # noqa: S310
        pass


def _run_command(command: str, notice: Notice) -> None:
    """Run a command with the notice in its environment and, as JSON, on its standard input.

    Raises:
        subprocess.SubprocessError: it failed, or took too long. All its processes are ended then.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        env=os.environ | notice.variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(notice.as_json(), timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


def _reason(error: Exception) -> str:
    match error:
        case subprocess.TimeoutExpired():
            return f"ended after {LIMIT_S:.0f} seconds"
        case subprocess.CalledProcessError():
            last = (error.stderr or "").strip().rpartition("\n")[2]
            return f"exit code {error.returncode}" + (f": {single_line(last)}" if last else "")
        case urllib.error.HTTPError():
            return f"HTTP {error.code}"
        case urllib.error.URLError():
            return single_line(str(error.reason))
    return single_line(str(error)) or type(error).__name__


def _answer_line(folder: Path) -> str:
    """Return the first line of the report behind its title, without marks of Markdown."""
    with contextlib.suppress(OSError, UnicodeError):
        lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
        return next((line.replace("**", "").lstrip("- ") for line in lines if line and not line.startswith("#")), "")
    return ""
