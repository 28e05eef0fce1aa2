"""A hub that does not answer is not asked again and again."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from moleflow.features.weights import PACKAGE, PRETRAINED
from orchestrator.host.hub import download_host, is_reachable, offline_if_hub_is_down


@pytest.fixture
def answering(monkeypatch):
    """Somebody who listens, as the hub."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_a_hub_that_answers_is_asked(answering):
    assert download_host() == answering.getsockname()
    with offline_if_hub_is_down([PRETRAINED]):
        assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_does_not_answer_is_not_asked_for_as_long_as_that(answering):
    answering.close()
    assert not is_reachable(*download_host())
    with offline_if_hub_is_down([PACKAGE]):
        assert not constants.HF_HUB_OFFLINE, "nothing comes from the hub"
    with offline_if_hub_is_down([PRETRAINED]):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
