"""--notify: a command or a webhook hears of the first failure and of the end, and harms no run.

Webhooks are servers of the test on 127.0.0.1.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from typing import ClassVar

import pytest

from moleflow.errors import InvalidInput
from orchestrator.driver import notify
from orchestrator.driver.notify import Notice, Notifier, check_notify
from orchestrator.execution.trial_source import RunOutcome
from orchestrator.records.events import Event


@pytest.fixture
def server():
    """A webhook: its URL with a secret path, the bodies that it received, and the reply to give."""

    class Hook(http.server.BaseHTTPRequestHandler):
        received: ClassVar[list] = []
        status, pause_s = 200, 0.0

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.received.append((self.headers["Content-Type"], json.loads(body)))
            time.sleep(self.pause_s)
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    Hook.received = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as opened:
        opened.daemon_threads = True
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        Hook.url = f"http://127.0.0.1:{opened.server_port}/services/s3cret"
        yield Hook
        opened.shutdown()
        thread.join()


def test_a_webhook_hears_of_the_end_with_counts_folder_and_answer(finished, command, server, edit):
    ended = command("sweep.yaml", "--backend", "inline", "--quiet", "--notify", server.url)
    assert (ended.code, "warning" in ended.out + ended.err) == (0, False)
    ((kind, body),) = server.received
    assert kind == "application/json"
    assert body["event"] == "ended"
    assert (body["sweep"], body["folder"], body["exit_code"]) == ("small", str(finished / "results/small"), 0)
    assert body["trials"]["finished"] == 4
    assert body["answer"].startswith("Found: ")
    assert body["text"] == f"small: finished: 4 finished; {body['answer']}"
    assert body["error"] == ""


def test_a_command_hears_of_the_first_failure_and_of_the_end(place, command, edit):
    edit(base={"extends": "base.yaml", "learning_rate": 1e30, "gradient_clip": 1e30})
    hook = 'cat >> told.jsonl; echo >> told.jsonl; env | grep ^MOLEFLOW_NOTIFY_ | sort >> "$MOLEFLOW_NOTIFY_EVENT.env"'
    ended = command("sweep.yaml", "--backend", "inline", "--quiet", "--notify", hook)
    assert ended.code == 1
    first, last = (json.loads(line) for line in (place / "told.jsonl").read_text().splitlines())
    assert (first["event"], first["exit_code"], last["event"], last["exit_code"]) == ("failed", None, "ended", 1)
    assert "Diverged" in first["error"] or "loss" in first["error"]
    assert first["text"] == f"small: first failed trial: {first['error']}"
    assert last["trials"]["failed"] == 4
    assert last["text"].startswith("small: failed: 4 failed")
    variables = dict(line.split("=", 1) for line in (place / "ended.env").read_text().splitlines())
    assert variables["MOLEFLOW_NOTIFY_SWEEP"] == "small"
    assert variables["MOLEFLOW_NOTIFY_FOLDER"] == str(place / "results/small")
    counts = [variables[f"MOLEFLOW_NOTIFY_{name}"] for name in ("FINISHED", "FAILED", "TOTAL", "EXIT_CODE")]
    assert counts == ["0", "4", "4", "1"]
    assert variables["MOLEFLOW_NOTIFY_TEXT"] == last["text"]


def test_it_is_stored_nowhere_and_no_message_shows_it(finished, command, server):
    server.status = 500
    words = ("sweep.yaml", "--backend", "inline", "--quiet", f"--notify={server.url}")
    ended = command(*words)
    assert ended.code == 0  # Its failure is a warning.
    assert "warning: --notify: no notice of the end: http://127.0.0.1/***: HTTP 500" in ended.out
    assert "s3cret" not in ended.out + ended.err
    stored = json.loads((finished / "results/small/sweep.json").read_text())
    assert stored["command"] == ["sweep.yaml", "--backend", "inline", "--quiet"]
    for path in (finished / "results").rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    assert len(server.received) == 1


def test_retry_replays_nothing_and_takes_an_own_one(finished, command, server):
    place = finished / "results/small"

    def lose_results():
        for path in [*place.glob("parts/*/*.parquet"), *place.glob("tables/*")]:
            if "00000000-empty" not in path.name:
                path.unlink()

    assert command("sweep.yaml", "--backend", "inline", "--quiet", "--notify", server.url).code == 0
    lose_results()
    assert command("retry", "results/small", "--yes").code == 0
    assert len(server.received) == 1
    lose_results()
    retried = command("retry", "results/small", "--yes", "--notify", server.url)
    assert retried.code == 0
    assert "s3cret" not in retried.out + retried.err + (place / "sweep.json").read_text()
    assert [body["trials"]["finished"] for _, body in server.received] == [4, 4]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("sleep 60", "the command: ended after 0 seconds"),
        ("echo no such channel >&2; exit 3", "the command: exit code 3: no such channel"),
        ("http://127.0.0.1:1/s3cret", "http://127.0.0.1/***: "),
    ],
)
def test_a_notice_that_fails_is_a_warning(tmp_path, monkeypatch, target, says):
    monkeypatch.setattr(notify, "LIMIT_S", 0.4)
    (warning,) = Notifier(target, "small", tmp_path).tell_end(0)
    assert warning.startswith("--notify: no notice of the end: ")
    assert says in warning
    assert "s3cret" not in warning


def test_a_webhook_that_does_not_answer_is_given_up(tmp_path, monkeypatch, server):
    monkeypatch.setattr(notify, "LIMIT_S", 0.2)
    server.pause_s = 2.0
    (warning,) = Notifier(server.url, "small", tmp_path).tell_end(0)
    assert "http://127.0.0.1/***: timed out" in warning


def test_only_the_first_failed_trial_is_told(tmp_path, server):
    notifier, tally = Notifier(server.url, "small", tmp_path), RunOutcome()
    event = Event("failed", "a" * 12, {"error": "out of\nmemory"})
    notifier.hear_failure(event, tally)  # It will be tried again.
    tally.failed["a" * 12] = event
    notifier.hear_failure(event, tally)
    tally.failed["b" * 12] = Event("failed", "b" * 12, {})
    notifier.hear_failure(tally.failed["b" * 12], tally)
    assert notifier.tell_end(1, "the disk is full") == []
    first, last = (body for _, body in server.received)
    assert first["error"] == f"{'a' * 12}: out of memory"
    assert last["error"] == "the disk is full"
    assert last["text"] == "small: failed: the disk is full"


@pytest.mark.parametrize("target", ["", " ", "ftp://host/x", "https://", "http:///path"])
def test_what_is_neither_a_command_nor_a_webhook_is_refused(target):
    with pytest.raises(InvalidInput, match="--notify: given"):
        check_notify(target)


def test_commands_and_webhooks_are_taken():
    for target in ("notify-send done", "curl -d @- https://host/x", "https://host/x?token=1", "HTTP://127.0.0.1:8000"):
        check_notify(target)


@pytest.mark.parametrize("option", ["--dry-run", "--print-sbatch"])
def test_a_run_that_is_not_followed_has_no_notices(place, command, option):
    ended = command("sweep.yaml", option, "--backend", "slurm", "--notify", "https://host/s3cret")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "leave --dry-run, --detach and --print-sbatch out" in ended.err
    assert not (place / "results").exists()


def test_a_notice_is_one_line_for_chats():
    notice = Notice("ended", "s", "/r", {"finished": 3, "failed": 1, "waiting": 0}, 1, "Found: x.")
    assert notice.text == "s: failed: 3 finished, 1 failed; Found: x."
    assert notice.variables()["MOLEFLOW_NOTIFY_TOTAL"] == "4"
    assert Notice("ended", "s", "/r", {"waiting": 2}, 130).text == "s: interrupted: 2 waiting"
