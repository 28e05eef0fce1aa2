"""optuna-dashboard over a search: on loopback alone, in a browser; and what it cannot show."""

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
def dashboard(searched, begin_search):
    """The address of the dashboard of the search that has ended, from a process of its own."""
    process = begin_search(searched.folder, "dashboard", str(searched.results), "--port", "0")
    said = process.stdout.readline()
    yield re.fullmatch(r"dashboard: (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", said)[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, err) == (0, "")


def test_it_answers_on_loopback_with_the_study(dashboard):
    with urllib.request.urlopen(f"{dashboard}/api/studies", timeout=WITHIN_S) as answer:
        assert b'"study_name": "search"' in answer.read()


def test_ctrl_c_ends_it_in_the_middle_of_a_request(searched, begin_search):
    process = begin_search(searched.folder, "dashboard", str(searched.results), "--port", "0")
    port = int(re.search(r":(\d+) ", process.stdout.readline())[1])
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as half:
        half.sendall(b"GET /api/studies HTTP/1.1\r\nHost: localhost\r\n")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, err) == (0, "")


def test_a_browser_shows_the_study_and_its_objective(dashboard, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    def text_with(word):
        return WebDriverWait(browser, WITHIN_S).until(
            lambda page: next((t for t in [page.find_element("tag name", "body").text] if word in t), False)
        )

    browser.get(dashboard)
    assert "search" in text_with("search")
    browser.get(f"{dashboard}/dashboard/studies/0")
    assert "image_auroc" in text_with("image_auroc")


def test_a_folder_without_a_search_and_a_port_that_is_taken_are_mistakes(command, place, searched):
    ended = command("dashboard", place)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "holds no search (study.journal is missing)" in ended.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"--port: given {port}, but Address already in use"):
            serve_dashboard(searched.results, None, port, lambda _: None)


def test_a_storage_that_cannot_be_opened_is_a_mistake(command, place):
    ended = command("dashboard", place, "--storage", "nosuchdatabase://here")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--storage: nosuchdatabase://here cannot be opened" in ended.err
