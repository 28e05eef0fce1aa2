"""A node of a Ray cluster as its trials see it: which folders of the driver exist there.

    <temporary folder>/moleflow-node-<user>/<run>/     on a node that lacks one of them
        images/     the images of the classes that its trials need
        weights/, packages/, hub/   weights (`orchestrator.backends.ray.node_weights`)
        features/   copies of features (`moleflow.cache.array_packs.NodeCopies`)
        stages/     copies of trained stages
        synthetic/, digests.json    made from the images there
        workers/    claims of the processes that use the folder

Every node of a machine with several has the same folder. The driver removes it at the end of its
run. What a driver left that was killed, the next process on the node removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from moleflow import files
from moleflow.cache.claim import exclusive, is_stale, try_claim
from moleflow.data.scan import reading_of
from moleflow.file_service import RemoteFiles
from moleflow.owner import owner_code
from moleflow.passing_errors import read
from moleflow.settings.config import TrialConfig, digest
from orchestrator.backends.ray.file_client import FileClient, StageCopies
from orchestrator.backends.ray.node_weights import NodeWeights, once
from orchestrator.execution.backend import WorkerConfig
from orchestrator.sweep.trial import Trial

RESULTS, CACHE, IMAGES = "results", "cache", "images"


@dataclass(frozen=True)
class DriverFiles:
    """The way of a process on any node to the driver's files. It travels there.

    Attributes:
        server: the actor of `orchestrator.backends.ray.file_server`.
        run: a name that no other run has.
        probes: {results or cache: a file that the driver made there}.
        images: some image files, with the SHA-256 of their content.

    """

    server: Any
    run: str
    probes: Mapping[str, Path]
    images: Mapping[Path, str]

    def unseen(self) -> frozenset[str]:
        """The folders that this node does not see: results, cache, images."""
        unseen = {name for name, probe in self.probes.items() if not probe.exists()}
        with contextlib.suppress(OSError):
            if all(hashlib.sha256(read(path)).hexdigest() == known for path, known in self.images.items()):
                return frozenset(unseen)
        return frozenset(unseen | {IMAGES})


class Node:
    """This node, for one process that runs trials.

    Args:
        driver: the driver's files; None = every node sees them.
        setup: the worker's configuration, with the driver's paths.

    Attributes:
        setup: the configuration for this node. Paths of results and cache stay: where the node
            lacks them, the seam reaches the driver's (`moleflow.files.routed`).

    """

    def __init__(self, driver: DriverFiles | None, setup: WorkerConfig) -> None:
        self._driver = driver
        self._unseen = driver.unseen() if driver else frozenset[str]()
        self._routes = contextlib.ExitStack()  # For as long as this process lives.
        self.setup = setup
        if driver:
            self._weights = NodeWeights(lambda: self._client, lambda: self._folder)
            self.setup = setup = replace(setup, weights_at_hand=self._weights.from_hub)
        if not self._unseen:
            return
        call = RemoteFiles(self._client.send)
        for name, folder in ((RESULTS, setup.folder), (CACHE, setup.cache)):
            if name in self._unseen:
                self._routes.enter_context(files.routed(folder, call))
        self.setup = replace(
            setup,
            scratch=self._folder,
            data_root=self._folder / "images" if IMAGES in self._unseen else setup.data_root,
            node_cache=setup.node_cache or (str(self._folder / "features") if CACHE in self._unseen else None),
        )

    def prepared(self, trial: Trial, weights: Path | None) -> Trial:
        """Fetch the images and the weights of a trial, unless they are here; each once a node.

        Args:
            trial: the trial.
            weights: the file of its weights on the driver's node; None = not in a file that the
                sweep or a package names.

        Returns:
            The trial, with the path of its weights here.

        Raises:
            OSError: the driver's node cannot be reached, or the disk here is full.
            InvalidInput: the data root cannot be read any more.

        """
        if self._driver is None:
            return trial
        if IMAGES in self._unseen:
            self._fetch_images(trial.config)
        return trial if weights is None else self._weights.of_file(trial, weights)

    @cached_property
    def _folder(self) -> Path:
        assert self._driver is not None
        return _enter(self._driver.run)

    @cached_property
    def _client(self) -> FileClient:
        assert self._driver is not None
        return FileClient(self._driver.server, StageCopies(self._folder / "stages"))

    def _fetch_images(self, config: TrialConfig) -> None:
        reading, classes = reading_of(config.data), config.data.classes
        done = self._folder / f"images-{digest([classes, reading.layout, reading.normal_names])[:16]}"
        if done.exists():
            return
        root = self.setup.data_root
        with once(self._folder / "images"):
            if done.exists():
                return
            for pack in self._client.image_packs(classes, reading, root):
                if all(_has(root / name, size) for name, size in pack.files):
                    continue
                for (name, _), content in zip(pack.files, self._client.images(pack, root), strict=True):
                    files.make_folder((root / name).parent)
                    files.write_atomically(root / name, content, durable=False)
            done.touch()


def nodes_folder() -> Path:
    """The folder on this node with the folders of all runs of this user."""
    return Path(tempfile.gettempdir()) / f"moleflow-node-{os.getuid()}"


def remove_run(run: str) -> None:
    """Remove the folder of a run from this node."""
    shutil.rmtree(nodes_folder() / run, ignore_errors=True)


def stalls_of(run: str) -> dict[str, bytes]:
    """The tracebacks that stalled processes of a run left on this node, by file name."""
    found = {}
    for path in (nodes_folder() / run).glob("*.stalled"):
        with contextlib.suppress(OSError):
            found[path.name] = path.read_bytes()
    return found


def _enter(run: str) -> Path:
    """The folder of a run on this node; this process uses it until it ends.

    Raises:
        OSError: it cannot be made, or another user made it.

    """
    place = nodes_folder()
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place}: belongs to another user; remove it, or set TMPDIR on the nodes")
    with exclusive(place / "lock"):
        for other in place.iterdir():
            if other.is_dir() and other.name != run and all(map(is_stale, (other / "workers").glob("*"))):
                shutil.rmtree(other, ignore_errors=True)
        # Not given back: it is stale once this process has ended.
        try_claim(place / run / "workers" / owner_code())
    return place / run


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
