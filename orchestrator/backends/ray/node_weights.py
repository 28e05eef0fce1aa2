"""The weights of backbones on a node: the driver's files of those that the node lacks.

<folder of the run>/
weights/    files that a sweep names
packages/   the Python package of weights, with its file alone
hub/        a cache of the Hugging Face hub
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from moleflow import files
from moleflow.cache.claim import exclusive
from moleflow.errors import InvalidInput
from moleflow.features.weights import PACKAGE, PRETRAINED, weights_identity
from moleflow.settings.config import BackboneKnobs
from orchestrator.backends.ray.file_client import FileClient
from orchestrator.host import hub
from orchestrator.sweep.trial import Trial

_SHA256 = "sha256:"
_MODULE = PACKAGE.replace("-", "_")


@dataclass(frozen=True)
class NodeWeights:
    """Brings weights to a node, each file once.

    Attributes:
        client: gives what reaches the driver's files.
        folder: gives the folder of the run on this node. Both make that folder if need be.

    """

    client: Callable[[], FileClient]
    folder: Callable[[], Path]

    def of_file(self, trial: Trial, weights: Path) -> Trial:
        """The trial with weights that are on this node.

        Args:
            trial: the trial.
            weights: the file of the user, or of the package, on the driver's node.

        Raises:
            OSError: the driver's node cannot be reached, or the disk here is full.

        """
        if _are_here(trial):
            return trial
        sha256 = trial.inputs.weights.removeprefix(_SHA256)
        if trial.config.backbone.weights == PACKAGE:
            self._place_package(weights, sha256)
            return trial
        local = self.folder() / "weights" / f"{sha256}-{weights.name}"
        self._fetch(local, weights, sha256)
        backbone = trial.config.backbone.model_copy(update={"weights": str(local)})
        return replace(trial, config=trial.config.model_copy(update={"backbone": backbone}))

    @contextlib.contextmanager
    def from_hub(self, backbone: BackboneKnobs) -> Iterator[None]:
        """Let timm find the pretrained weights of a backbone within the block.

        If neither this node nor the driver has them in its cache, timm downloads them.

        Raises:
            OSError: as `of_file`.

        """
        repository = _repository(backbone) if backbone.weights == PRETRAINED else None
        if repository is None or hub.cached_weights(repository) or not self._fill_hub(repository):
            yield
            return
        with hub.only_cache(self.folder() / "hub"):
            yield

    def _place_package(self, weights: Path, sha256: str) -> None:
        packages = self.folder() / "packages"
        self._fetch(packages / _MODULE / Path(*weights.parts[-2:]), weights, sha256)
        # A folder without this file would come after a package of the same name that is installed.
        (packages / _MODULE / "__init__.py").touch()
        if str(packages) not in sys.path:
            sys.path.insert(0, str(packages))
        importlib.invalidate_caches()

    def _fill_hub(self, repository: str) -> bool:
        """Copy a repository's weights from the driver's cache; False if they are not there."""
        if (found := self.client().hub_weights(repository)) is None:
            return False
        local = self.folder() / "hub" / found.place
        self._fetch(local, found.path, found.sha256)
        snapshot = local.parent  # <repository>/snapshots/<commit>
        reference = snapshot.parent.parent / "refs" / "main"
        files.make_folder(reference.parent)
        files.write_atomically(reference, snapshot.name.encode(), durable=False)
        return True

    def _fetch(self, local: Path, path: Path, sha256: str) -> None:
        with once(local):
            if not local.exists():
                files.write_atomically(local, self.client().weights(path, sha256), durable=False)


@contextlib.contextmanager
def once(path: Path) -> Iterator[None]:
    """Let one process of this node at a time make a file."""
    files.make_folder(path.parent)
    with exclusive(path.with_name(f"{path.name}.claim")):
        yield


def _are_here(trial: Trial) -> bool:
    try:
        return weights_identity(trial.config.backbone) == trial.inputs.weights
    except (InvalidInput, OSError):
        return False


def _repository(backbone: BackboneKnobs) -> str | None:
    """The repository on the hub with timm's weights of a model; None if they lie elsewhere."""
    from moleflow.features.timm_import import import_timm  # Loads torch.

    record = import_timm().get_pretrained_cfg(backbone.model)
    return getattr(record, "hf_hub_id", None)
