"""A hub that does not answer is skipped."""

from __future__ import annotations

import logging
import socket

import pytest
from huggingface_hub import constants

from moleflow.features.weights import PACKAGE, PRETRAINED
from orchestrator.host.hub import download_host, is_reachable, offline_if_hub_is_down


@pytest.fixture
def answering(monkeypatch):
    """A listening socket in place of the hub."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_a_hub_that_answers_is_used(answering):
    assert download_host() == answering.getsockname()
    with offline_if_hub_is_down([PRETRAINED]):
        assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_does_not_answer_is_skipped_inside_the_block(answering, monkeypatch):
    answering.close()
    assert not is_reachable(*download_host())
    with offline_if_hub_is_down([PACKAGE]):
        assert not constants.HF_HUB_OFFLINE, "nothing comes from the hub"
    log = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(log, "level", logging.INFO)
    with offline_if_hub_is_down([PRETRAINED]):
        assert (constants.HF_HUB_OFFLINE, log.level) == (True, logging.ERROR)
    assert (constants.HF_HUB_OFFLINE, log.level) == (False, logging.INFO)


def test_a_user_who_is_offline_stays_offline(answering, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with offline_if_hub_is_down([PRETRAINED]):
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE


def test_a_host_that_says_nothing_is_given_up_after_the_time_given(monkeypatch):
    given = []

    def connect(address, timeout):
        given.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not is_reachable("hub", 443)
    assert not is_reachable("hub", 80, 1.5)
    assert given == [(("hub", 443), 3.0), (("hub", 80), 1.5)]


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ("huggingface.co", 443)),
        ({"HF_ENDPOINT": "http://mirror"}, ("mirror", 80)),
        ({"HF_ENDPOINT": "https://mirror:8443"}, ("mirror", 8443)),
        ({"HTTPS_PROXY": "http://proxy:3128", "HF_ENDPOINT": "https://mirror"}, ("proxy", 3128)),
        ({"all_proxy": "socks5://proxy"}, ("proxy", 80)),
    ],
)
def test_a_download_connects_to_the_proxy_or_the_hub(monkeypatch, variables, address):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert download_host() == address
