"""The hub of pretrained weights: its address, and how to skip it while it does not answer."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from moleflow.features.weights import PRETRAINED

HUB = "https://huggingface.co"
WITHIN_S = 3.0
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of weights in a repository, in the order in which timm looks for them."""


def download_host() -> tuple[str, int]:
    """Host and port that a download connects to: the proxy if one is set, else the hub."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    proxy = next((os.environ[name] for name in names if os.environ.get(name)), None)
    url = urlsplit(proxy or os.environ.get("HF_ENDPOINT") or HUB)
    return url.hostname or "localhost", url.port or (443 if url.scheme == "https" else 80)


def is_reachable(host: str, port: int, within_s: float = WITHIN_S) -> bool:
    """True if a connection opens within `within_s` seconds; nothing is sent."""
    try:
        socket.create_connection((host, port), within_s).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def cache_folder() -> Path:
    """The folder of this process in which downloads from the hub are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_weights(repository: str, folder: Path | None = None) -> Path | None:
    """The file with the weights of a repository, if a download kept it.

    Args:
        repository: its name on the hub, such as `timm/NAME`.
        folder: where downloads are kept; None = the folder of this process.

    """
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name, cache_dir=folder) for name in WEIGHT_FILES)
    return next((Path(path) for path in found if isinstance(path, str)), None)


@contextlib.contextmanager
def only_cache(folder: Path) -> Iterator[None]:
    """Inside the block, read from downloads that are kept in a folder; nothing is downloaded."""
    from huggingface_hub import constants

    before = constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(folder), True
    try:
        yield
    finally:
        constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def offline_if_hub_is_down(weights: Collection[str]) -> Iterator[None]:
    """Let weights that are not cached fail at once inside the block if the hub does not answer.

    The hub's client would retry for a minute, and log each attempt.

    Args:
        weights: values of backbone.weights that are about to be read; without pretrained ones
            nothing is done.

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
