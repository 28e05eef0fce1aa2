"""The hub that pretrained weights come from: where it can be reached, and asked without waiting where it cannot."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from moleflow.features.weights import PRETRAINED

HUB = "https://huggingface.co"
WITHIN_S = 3.0


def download_host() -> tuple[str, int]:
    """Where a download would connect to: the proxy, where one is set, else the hub."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    proxy = next((os.environ[name] for name in names if os.environ.get(name)), None)
    url = urlsplit(proxy or os.environ.get("HF_ENDPOINT") or HUB)
    return url.hostname or "localhost", url.port or (443 if url.scheme == "https" else 80)


def is_reachable(host: str, port: int, within_s: float = WITHIN_S) -> bool:
    """Whether somebody listens there; nothing is sent."""
    try:
        socket.create_connection((host, port), within_s).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def offline_if_hub_is_down(weights: Collection[str]) -> Iterator[None]:
    """Take what is not in the hub's cache as not to be had where the hub does not answer.

    Its client would ask again and again for a minute, and tell of each time.

    Args:
        weights: values of backbone.weights that are going to be read; nothing is done where none comes from the hub.

    """
    if PRETRAINED not in weights:
        yield
        return
    from huggingface_hub import constants

    log, before = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = log.level
    log.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = before or not is_reachable(*download_host())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        log.setLevel(level)
