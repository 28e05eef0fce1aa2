"""Features of images, computed once and shared by all trials and processes through a cache.

    <folder>/<feature key>/<packs of up to 64 images>      see `moleflow.cache.array_packs`

A feature key stands for everything but the image: the settings that reach features, the weights,
the numeric environment, and the code and packages that turn a file into features. Images are filed
by the digest of their content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from moleflow import files
from moleflow.cache.array_packs import NodeCopies, OpenArrays, PackFolder, bucket
from moleflow.cache.claim import try_claim, wait_for
from moleflow.code_digest import code_digest, version
from moleflow.data.samples import Sample
from moleflow.environment import Environment
from moleflow.errors import Damaged, InvalidInput
from moleflow.features.extract import Extractor, Factory, extract_features, frozen_backbone
from moleflow.features.weights import planned_weights
from moleflow.settings.config import TrialConfig, digest, reach

PACK_IMAGES = 64
# Damage that comes back means a broken disk. Evictions by other processes may come many times.
_REPAIRS, _REMOVALS = 3, 100


Report = Callable[[int, int], None]
T = TypeVar("T")


class FeatureCache:
    """Features of images, by the images' content.

    Args:
        folder: the folder of the cache.
        factory: builds the backbone of a configuration.
        copies: copies on this node to read from; new features go to `folder` all the same.

    Attributes:
        forwards: number of images that this instance has sent through a backbone.
    """

    def __init__(self, folder: Path, factory: Factory = frozen_backbone, copies: NodeCopies | None = None) -> None:
        self.forwards = 0
        self._folder = folder
        self._factory = factory
        self._copies = copies
        self._extractor: tuple[str, Extractor] | None = None
        self._opened = OpenArrays()
        self._packs: dict[str, PackFolder] = {}

    def key(self, config: TrialConfig, environment: Environment, weights: str | None = None) -> str:
        """The feature key: equal keys and equal images give equal features, to the bit.

        Args:
            config: the trial.
            environment: where features are computed.
            weights: the planned identity of the weights; None = do not compare.

        Raises:
            InvalidInput: the weights are missing, or others than planned.
        """
        return digest(
            {
                "settings": reach(config, "features"),
                "weights": planned_weights(config.backbone, weights),
                "environment": environment.key(),
                "code": code_digest("features"),
                "packages": {name: version(name) for name in ("timm", "pillow")},
            }
        )

    def get(
        self,
        config: TrialConfig,
        environment: Environment,
        samples: Sequence[Sample],
        report: Report | None = None,
        weights: str | None = None,
    ) -> torch.Tensor:
        """Features of `samples` in their order: float32 (N, H, W, D); missing ones are computed.

        Processes that want the same images share the work bucket by bucket, and no image is
        computed twice.

        Args:
            config: the trial.
            environment: where features are computed.
            samples: the images; at least one.
            report: called with (images stored, images needed) as the work goes on.
            weights: the planned identity of the weights; None = do not compare.

        Raises:
            InvalidInput: the backbone cannot be built, its output cannot be stored, or its weights
                are others than planned.
            Damaged: an image file changed since it was scanned, or the disk returns other bytes
                than were written.
            OSError: the cache cannot be written, for example because the disk is full.
        """
        if not samples:
            raise ValueError("samples: none given, so no shape is known")
        names = [sample.digest for sample in samples]
        key = self.key(config, environment, weights)
        return torch.from_numpy(
            self._complete(key, config, environment, samples, report, lambda packs: packs.read(names))
        )

    def ensure(
        self, config: TrialConfig, environment: Environment, samples: Sequence[Sample], report: Report | None = None
    ) -> None:
        """Compute missing features of `samples`, and compare stored ones with their checksums.

        Args:
            config: the trial.
            environment: where features are computed.
            samples: the images.
            report: called with (images stored, images needed) as the work goes on.

        Raises:
            InvalidInput, Damaged, OSError: as `get`.
        """
        names = [sample.digest for sample in samples]

        def check(packs: PackFolder) -> tuple[bool | None, set[str]]:
            intact, damaged = packs.check(names)
            return intact or None, damaged

        self._complete(self.key(config, environment), config, environment, samples, report, check)

    def missing(self, config: TrialConfig, environment: Environment, samples: Sequence[Sample]) -> int:
        """Number of the images without stored features. No stored feature is read.

        Raises:
            InvalidInput: the weights are missing.
        """
        stored = PackFolder(self._folder / self.key(config, environment)).index()
        return len({sample.digest for sample in samples} - stored.keys())

    def count(self) -> int:
        """Number of images with stored features, summed over all feature keys."""
        return sum(len(PackFolder(folder).index()) for folder in self._folder.glob("*/"))

    def _complete(
        self,
        key: str,
        config: TrialConfig,
        environment: Environment,
        samples: Sequence[Sample],
        report: Report | None,
        take: Callable[[PackFolder], tuple[T | None, set[str]]],
    ) -> T:
        """The result of `take` once every sample is stored and intact.

        Args:
            take: reads the packs; returns None and the names of damaged packs if it cannot. Those
                are computed again. So are packs that another process evicted before they were read.
        """
        packs = self._packs.setdefault(key, PackFolder(self._folder / key, self._copies, self._opened))
        images = [sample.digest for sample in samples]
        repairs = removals = 0
        while repairs < _REPAIRS and removals < _REMOVALS:
            self._fill(packs, key, config, environment, samples, report or _silent)
            packs.mark_used(images)
            taken, damaged = take(packs)
            if taken is not None:
                return taken
            for name in damaged:
                _discard(packs, name)
            repairs, removals = repairs + bool(damaged), removals + (not damaged)
        raise Damaged(
            f"{packs.folder}: stored features were damaged or gone {repairs + removals} times; check the disk"
        )

    def _fill(
        self,
        packs: PackFolder,
        key: str,
        config: TrialConfig,
        environment: Environment,
        samples: Sequence[Sample],
        report: Report,
    ) -> None:
        """Return when every sample is stored."""
        wanted = {sample.digest: sample for sample in samples}
        while True:
            missing = packs.missing(wanted.keys())
            report(len(wanted) - len(missing), len(wanted))
            if not missing:
                return
            files.make_folder(packs.folder)
            buckets = sorted({bucket(image) for image in missing})
            worked = False
            for name in buckets:
                claim = try_claim(packs.claim_path(name))
                if claim is None:
                    continue  # Another process computes it; come back after the other buckets.
                with claim:
                    packs.remove_leftovers(name)
                    for part in self._parts(packs, name, wanted):
                        self._compute(packs, key, config, environment, [wanted[image] for image in part])
                        missing -= set(part)
                        report(len(wanted) - len(missing), len(wanted))
                worked = True
            if not worked:
                done = len(wanted) - len(missing)
                wait_for(lambda done=done: _still(report, done, len(wanted)), packs.claim_path(buckets[0]))  # type: ignore[misc]

    def _parts(self, packs: PackFolder, name: str, wanted: dict[str, Sample]) -> list[list[str]]:
        """The missing images of a bucket by pack; call it under the bucket's claim."""
        todo = sorted(image for image in wanted.keys() - packs.index().keys() if bucket(image) == name)
        return [todo[start : start + PACK_IMAGES] for start in range(0, len(todo), PACK_IMAGES)]

    def _compute(
        self, packs: PackFolder, key: str, config: TrialConfig, environment: Environment, samples: Sequence[Sample]
    ) -> None:
        if self._extractor is None or self._extractor[0] != key:
            self._extractor = None  # Give the memory back before the next model takes its own.
            extractor = self._factory(config, environment)
            # The key was taken before the file was read. If they differ, either file may be loaded.
            if self.key(config, environment) != key:
                given = f"the weights '{config.backbone.weights}' were replaced while they were read"
                raise InvalidInput(f"backbone.weights: {given}; start the command again")
            self._extractor = (key, extractor)
        features = extract_features(self._extractor[1], samples, config)
        self.forwards += len(samples)
        packs.write([sample.digest for sample in samples], features)


def _discard(packs: PackFolder, name: str) -> None:
    """Remove a damaged pack, unless another process has already replaced it."""
    claim = try_claim(packs.claim_path(bucket(name)))
    if claim is None:
        wait_for(lambda: False, packs.claim_path(bucket(name)))
        return
    with claim:
        if not packs.is_intact(name):
            packs.discard(name)


def _still(report: Report, done: int, wanted: int) -> bool:
    """Report the same again at each look while waiting; False: only the claim ends the wait."""
    report(done, wanted)
    return False


def _silent(_done: int, _wanted: int) -> None:
    """A report that is not shown."""
