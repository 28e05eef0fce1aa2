"""The dashboard: served on loopback alone, in a browser, and its errors."""

from __future__ import annotations

import re
import signal
import socket
import urllib.request

import pytest

from moleflow.errors import InvalidInput
from orchestrator.search.dashboard import serve_dashboard

WITHIN_S = 60


@pytest.fixture
def dashboard(searched, start):
    """The address and the process of the finished search's dashboard."""
    process = start("dashboard", searched.results, "--port", "0").process
    line = process.stdout.readline()
    address = re.fullmatch(r"dashboard: (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)[1]
    return address, process


def test_it_serves_the_study_on_loopback_until_ctrl_c(driven):
    one = driven({"seeds": 1}, trials=1)
    one.run(lambda _: 0.5)
    answers = []

    def read_and_interrupt(address):
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/api/studies", timeout=WITHIN_S) as answer:
            answers.append(answer.read())
        raise KeyboardInterrupt

    serve_dashboard(one.folder, None, 0, read_and_interrupt)
    assert b'"study_name": "small"' in answers[0]


@pytest.mark.process
def test_ctrl_c_during_a_request_ends_it(dashboard):
    address, process = dashboard
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as half:
        half.sendall(b"GET /api/studies HTTP/1.1\r\nHost: localhost\r\n")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, err) == (0, "")


@pytest.mark.process
def test_a_browser_shows_the_study_and_its_objective(dashboard, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    def text_with(word):
        return WebDriverWait(browser, WITHIN_S).until(
            lambda page: next((t for t in [page.find_element("tag name", "body").text] if word in t), False)
        )

    address, process = dashboard
    browser.get(address)
    assert "search" in text_with("search")
    browser.get(f"{address}/dashboard/studies/0")
    assert "image_auroc" in text_with("image_auroc")
    process.send_signal(signal.SIGINT)
    assert process.wait(WITHIN_S) == 0


def test_a_folder_without_a_search_and_a_port_in_use_are_errors(driven, tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no search \(study\.journal is missing\); give --storage"):
        serve_dashboard(tmp_path, None, 0, lambda _: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"--port: given {port}, but Address already in use"):
            serve_dashboard(driven().folder, None, port, lambda _: None)


def test_a_storage_that_cannot_be_opened_is_an_error(command, place):
    ended = command("dashboard", place, "--storage", "nosuchdatabase://here")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--storage: nosuchdatabase://here cannot be opened" in ended.err
