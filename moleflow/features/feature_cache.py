"""Frozen features, computed once and kept in a cache that all trials and processes share.

    <folder>/<feature key>/<packs of up to 64 images>      see `moleflow.cache.array_packs`

A feature key stands for everything but the image: the settings that reach features, the weights, the numeric
environment, and the code and packages that turn a file into features. Images are filed by the digest of their content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from moleflow.cache.array_packs import NodeCopies, PackFolder, bucket
from moleflow.cache.claim import try_claim, wait_for
from moleflow.cache.entries import feature_entries
from moleflow.code_digest import code_digest, version
from moleflow.data.mvtec import Sample
from moleflow.environment import Environment
from moleflow.errors import Damaged, InvalidInput
from moleflow.features.extract import Extractor, Factory, extract_features, frozen_backbone
from moleflow.features.weights import planned_weights
from moleflow.settings.config import TrialConfig, digest, reach

PACK_IMAGES = 64
_REPAIRS, _REMOVALS = 3, 100


Report = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class CacheSize:
    """How much a cache holds."""

    bytes: int
    images: int


class FeatureCache:
    """Features by content.

    Args:
        copies: where this node keeps copies to read from, if it does; new features go to `folder` all the same.

    Attributes:
        forwards: images that this instance has sent through a backbone.
    """

    def __init__(self, folder: Path, factory: Factory = frozen_backbone, copies: NodeCopies | None = None) -> None:
        self.forwards = 0
        self._folder = folder
        self._factory = factory
        self._copies = copies
        self._extractor: tuple[str, Extractor] | None = None

    def key(self, config: TrialConfig, environment: Environment, weights: str | None = None) -> str:
        """The feature key: equal keys and equal images give equal features, to the bit.

        Args:
            weights: the identity that the weights have to have; None = whatever is there.

        Raises:
            InvalidInput: the weights are not there, or are others.
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
        """Features of `samples` in their order: float32 (N, H, W, D), computed where they are missing.

        Processes that want the same images share the work bucket by bucket, and no image is computed twice.

        Args:
            report: told (images there, images wanted) as the work goes on.
            weights: the identity that the weights have to have; None = whatever is there.

        Raises:
            InvalidInput: the backbone cannot be built, gives numbers that cannot be stored, or has other weights.
            Damaged: an image file changed since it was scanned, or the disk does not give back what was written.
            OSError: the cache cannot be written, for one because the disk is full.
        """
        if not samples:
            raise ValueError("samples: none given, so no shape is known")
        names = [sample.digest for sample in samples]
        key = self.key(config, environment, weights)
        return torch.from_numpy(self._whole(key, config, environment, samples, report, lambda packs: packs.read(names)))

    def ensure(
        self, config: TrialConfig, environment: Environment, samples: Sequence[Sample], report: Report | None = None
    ) -> None:
        """Compute what is missing of `samples` and compare everything stored of them with its checksums; nothing is kept in memory.

        Args:
            report: told (images there, images wanted) as the work goes on.

        Raises:
            InvalidInput, Damaged, OSError: as `get`.
        """
        names = [sample.digest for sample in samples]

        def check(packs: PackFolder) -> tuple[bool | None, set[str]]:
            good, damaged = packs.check(names)
            return good or None, damaged

        self._whole(self.key(config, environment), config, environment, samples, report, check)

    def missing(self, config: TrialConfig, environment: Environment, samples: Sequence[Sample]) -> int:
        """How many of the images are not stored; what is stored is not read.

        Raises:
            InvalidInput: the weights are not there.
        """
        stored = PackFolder(self._folder / self.key(config, environment)).index()
        return len({sample.digest for sample in samples} - stored.keys())

    def size(self) -> CacheSize:
        """What the whole cache holds, over all feature keys."""
        total = sum(entry.bytes for entry in feature_entries(self._folder) if entry.kind == "features")
        return CacheSize(total, sum(len(PackFolder(folder).index()) for folder in self._folder.glob("*/")))

    def _whole(
        self,
        key: str,
        config: TrialConfig,
        environment: Environment,
        samples: Sequence[Sample],
        report: Report | None,
        take: Callable[[PackFolder], tuple[T | None, set[str]]],
    ) -> T:
        """What `take` gives once every sample is stored and sound; with None it names the packs that are to be made anew.

        What somebody else takes away before it is read, to keep the cache within its budget, is made anew as well, and is no damage.
        """
        packs = PackFolder(self._folder / key, self._copies)
        packs.folder.mkdir(parents=True, exist_ok=True)
        repairs = removals = 0
        while repairs < _REPAIRS and removals < _REMOVALS:
            self._fill(packs, key, config, environment, samples, report or _silent)
            taken, damaged = take(packs)
            if taken is not None:
                return taken
            for name in damaged:
                _discard(packs, name)
            repairs, removals = repairs + bool(damaged), removals + (not damaged)
        raise Damaged(
            f"{packs.folder}: what was written could not be read back {repairs + removals} times; check the disk"
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
            missing = wanted.keys() - packs.index().keys()
            report(len(wanted) - len(missing), len(wanted))
            if not missing:
                return
            buckets = sorted({bucket(image) for image in missing})
            worked = False
            for name in buckets:
                claim = try_claim(packs.claim(name))
                if claim is None:
                    continue  # Another process is at it; come back after the others.
                with claim:
                    packs.sweep(name)
                    for part in self._parts(packs, name, wanted):
                        self._compute(packs, key, config, environment, [wanted[image] for image in part])
                        missing -= set(part)
                        report(len(wanted) - len(missing), len(wanted))
                worked = True
            if not worked:
                wait_for(lambda: False, packs.claim(buckets[0]))

    def _parts(self, packs: PackFolder, name: str, wanted: dict[str, Sample]) -> list[list[str]]:
        """What is still missing of a bucket, looked up under its claim, in packs."""
        todo = sorted(image for image in wanted.keys() - packs.index().keys() if bucket(image) == name)
        return [todo[start : start + PACK_IMAGES] for start in range(0, len(todo), PACK_IMAGES)]

    def _compute(
        self, packs: PackFolder, key: str, config: TrialConfig, environment: Environment, samples: Sequence[Sample]
    ) -> None:
        if self._extractor is None or self._extractor[0] != key:
            self._extractor = None  # Give the memory back before the next model takes its own.
            extractor = self._factory(config, environment)
            if self.key(config, environment) != key:  # Nobody knows which of the two files was loaded.
                given = f"the weights '{config.backbone.weights}' were replaced while they were read"
                raise InvalidInput(f"backbone.weights: {given}; start the command again")
            self._extractor = (key, extractor)
        features = extract_features(self._extractor[1], samples, config)
        self.forwards += len(samples)
        packs.write([sample.digest for sample in samples], features)


def _discard(packs: PackFolder, name: str) -> None:
    """Take a damaged pack away, unless another process has already made it anew."""
    claim = try_claim(packs.claim(bucket(name)))
    if claim is None:
        wait_for(lambda: False, packs.claim(bucket(name)))
        return
    with claim:
        if not packs.sound(name):
            packs.discard(name)


def _silent(_done: int, _wanted: int) -> None:
    """Report nothing."""
