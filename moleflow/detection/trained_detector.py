"""A trained detector that scores new images, with the digits of the evaluation of its sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from moleflow.cache.array_packs import FloatArray
from moleflow.data.image_facts import examine
from moleflow.data.images import read_bytes
from moleflow.data.loading import load_image
from moleflow.data.samples import Sample
from moleflow.data.value_range import with_range
from moleflow.detection.collect import code_of
from moleflow.detection.detector_file import StoredDetector, read_detector
from moleflow.detection.memory_image import MemoryImage
from moleflow.environment import Environment, open_environment
from moleflow.errors import Diverged, InvalidInput, MoleflowError
from moleflow.features.extract import Extractor, _storable, frozen_backbone
from moleflow.features.weights import PRETRAINED, RANDOM, weights_identity
from moleflow.models.detector import Detector
from moleflow.models.router import TaskGaussian, route
from moleflow.settings.config import TrialConfig
from moleflow.settings.task_list import task_name
from moleflow.training.evaluation import PatchScorer, _pooled, anomaly_maps, image_scores
from moleflow.training.sequence import _new_model
from moleflow.training.train_task import Randomness

CHUNK = 32
"""Images that pass through the backbone at once. On the CPU it takes them one by one anyway."""

Failure = Callable[[Path, str], None]
"""Called with the path of an image that cannot be scored, and the reason in one line."""


@dataclass(frozen=True)
class ScoredImage:
    """A scored image.

    Attributes:
        path: the file; of an image in memory, its name, such as `image 3`.
        score: its image score; larger is more anomalous.
        task: the task whose expert scored it, from 0.
        task_name: the class of that task, or its classes joined by `+`.
        patch_scores: float32 (H, W), in nats, or distances to the memory bank.
        size: (width, height) of the image in pixels, as shown.
        value_range: for an image of more than 8 bits, the values that were read as 0 and 255; None
            for the full range.
        map_side: pixels a side of `anomaly_map`.
        smoothing: standard deviation of its Gaussian in pixels.
        digest: identity of the image, as of `Sample.digest`, or `MemoryImage.digest`.
        threshold: the threshold of its task; None without one.
    """

    path: Path
    score: float
    task: int
    task_name: str
    patch_scores: npt.NDArray[np.float32]
    size: tuple[int, int]
    value_range: tuple[int, int] | None
    map_side: int
    smoothing: float
    digest: str
    threshold: float | None = None

    @property
    def anomalous(self) -> bool | None:
        """True if the score is above the threshold; None without one."""
        return None if self.threshold is None else self.score > self.threshold

    @cached_property
    def anomaly_map(self) -> npt.NDArray[np.float32]:
        """The map of the sweep's pixel metrics: float32 (map_side, map_side).

        It covers the whole image, which the backbone sees squared.
        """
        found: npt.NDArray[np.float32] = anomaly_maps(self.patch_scores[None], self.map_side, self.smoothing)[0]
        return found


@dataclass(frozen=True)
class _CheckedImage:
    """An image to score, its (width, height), and its pixels if it has no file."""

    sample: Sample
    size: tuple[int, int]
    memory: MemoryImage | None = None


class TrainedDetector:
    """A trained detector with its backbone.

    Within one numeric environment a score equals that of the sweep's own evaluation to the bit. No
    other image changes it: features, route and score of an image are computed on their own.

    Args:
        stored: the detector.
        environment: where numbers are computed; `open_detector` opens one.
        weights: the file of the backbone's weights; None takes the sweep's own source.

    Attributes:
        config: the configuration of the trial.
        task_names: the name of each task.
        notes: reasons why scores may differ from those of the sweep in their last digits.

    Raises:
        InvalidInput: the weights are missing, or others than the sweep's.
    """

    def __init__(self, stored: StoredDetector, environment: Environment, weights: Path | None = None) -> None:
        self.stored = stored
        self.environment = environment
        self.config = _with_weights(stored.config(), stored.header.weights, weights)
        self.task_names = tuple(task_name(task) for task in self.config.data.tasks)
        self.notes = _differences(stored, self.config, environment)
        self._gaussians: list[TaskGaussian] = list(stored.gaussians)
        self._scorer = _restored(self.config, stored, environment)
        self._extractor: Extractor = frozen_backbone(self.config, environment)

    def score(
        self,
        images: str | Path | Iterable[str | Path | MemoryImage],
        on_failure: Failure | None = None,
        class_name: str | None = None,
    ) -> Iterator[ScoredImage]:
        """Yield the score of each image, in their order.

        Args:
            images: paths of image files, or one path, or images in memory.
            on_failure: called for an image that cannot be scored, which is then left out; None
                raises its error.
            class_name: the class whose range of values is used for images of more than 8 bits;
                needed only where the classes of the trial have different ranges.

        Raises:
            InvalidInput: an image cannot be read or scored; there is no such class.
        """
        if class_name is not None and class_name not in self.stored.header.value_ranges:
            allowed = ", ".join(self.stored.header.value_ranges)
            raise InvalidInput(f"class: given '{class_name}', allowed: {allowed}")
        waiting = iter([images] if isinstance(images, str | Path) else images)
        while chunk := list(islice(waiting, CHUNK)):
            found = []
            for one in chunk:
                path = one.name if isinstance(one, MemoryImage) else Path(one)
                try:
                    found.append(_in_memory(one) if isinstance(one, MemoryImage) else self._checked(path, class_name))
                except MoleflowError as error:
                    _report(on_failure, path, error)
            yield from self._scored(found, on_failure)

    def _scored(self, images: Sequence[_CheckedImage], on_failure: Failure | None) -> Iterator[ScoredImage]:
        if not images:
            return
        try:
            features = self._features(images)
        except MoleflowError as error:
            if len(images) == 1:
                _report(on_failure, images[0].sample.path, error)
                return
            # One of them fails, such as a file that was removed meanwhile. The others are scored.
            for one in images:
                yield from self._scored([one], on_failure)
            return
        for one, of_image in zip(images, torch.from_numpy(features).float(), strict=True):
            try:
                scored = self._scored_image(one.sample, one.size, of_image)
            except Diverged as error:
                _report(on_failure, one.sample.path, error)
            else:
                yield scored

    def _features(self, images: Sequence[_CheckedImage]) -> FloatArray:
        """Return the features of images, as `extract_features` does of files."""
        side, interpolation = self.config.data.image_size, self.config.data.interpolation
        pixels = [
            load_image(one.sample, side, interpolation)
            if one.memory is None
            else one.memory.resized(side, interpolation)
            for one in images
        ]
        return _storable(self._extractor.extract(np.stack(pixels)).numpy(), self.config)

    def _scored_image(self, sample: Sample, size: tuple[int, int], features: torch.Tensor) -> ScoredImage:
        task = int(route(_pooled(features[None]), self._gaussians)[0])
        patch_scores, _ = self._scorer.scores(self._scorer.terms(features, task))
        if not np.isfinite(patch_scores).all():
            raise Diverged(f"{sample.path}: a patch score of the expert of {self.task_names[task]} is not finite")
        score = float(image_scores(patch_scores[None], self.config.scoring)[0])
        side, sigma = self.config.data.mask_size, self.config.scoring.smoothing
        name, of_values = self.task_names[task], sample.value_range
        return ScoredImage(sample.path, score, task, name, patch_scores, size, of_values, side, sigma, sample.digest)

    def _checked(self, path: Path, class_name: str | None) -> _CheckedImage:
        """Return an image file, checked as by a scan of a data root."""
        facts = examine(read_bytes(path), path)  # Not remembered: new images come without end.
        sample = Sample(path.name, path, 0, "", None, facts.identity, None, largest=facts.largest)
        value_range = None if facts.largest is None else self._value_range(path, class_name)
        return _CheckedImage(with_range([sample], value_range)[0], (facts.width, facts.height))

    def _value_range(self, path: Path, class_name: str | None) -> tuple[int, int] | None:
        ranges = self.stored.header.value_ranges
        found = {ranges[class_name]} if class_name is not None else set(ranges.values())
        if len(found) > 1:
            each = ", ".join(f"{name} {'full' if of is None else list(of)}" for name, of in ranges.items())
            raise InvalidInput(
                f"{path}: has more than 8 bits, and the classes were read with different ranges ({each}); name its class"
            )
        return found.pop()


def open_detector(
    path: Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    weights: Path | None = None,
) -> TrainedDetector:
    """Return the detector of a file, ready to score.

    It sets this process up for reproducible numbers, as a sweep's worker does.

    Args:
        path: a file that a sweep with `keep` stored.
        device: the kind of device; auto = a GPU if there is one.
        threads: CPU threads of this process; None = as many as the sweep used, which gives equal
            digits.
        weights: the file of the backbone's weights; None takes the sweep's own source.

    Raises:
        InvalidInput: no such file, no detector, or weights that are missing or others.
        Damaged: the file has changed since it was written.
    """
    stored = read_detector(path)
    environment = open_environment(device, threads or int(stored.header.environment.get("threads", 1)))
    return TrainedDetector(stored, environment, weights)


def _with_weights(config: TrialConfig, needed: str, given: Path | None) -> TrialConfig:
    """Return the configuration with weights whose identity is the needed one.

    Raises:
        InvalidInput: they are missing, or others.
    """
    backbone = config.backbone
    if given is not None:
        backbone = backbone.model_copy(update={"weights": str(given)})
    what = f"this detector needs the weights {needed} of {backbone.model}"
    try:
        found = weights_identity(backbone)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; {what}: give their file with --weights, or weights= in Python") from None
    if found != needed:
        remedy = "give their file with --weights, or weights= in Python"
        if backbone.weights in (PRETRAINED, RANDOM) and needed.startswith("timm:"):
            remedy = f"install timm=={needed.rpartition(':')[2]}"
        raise InvalidInput(f"backbone.weights: '{backbone.weights}' is {found}, but {what}; {remedy}")
    return config.model_copy(update={"backbone": backbone})


def _restored(config: TrialConfig, stored: StoredDetector, environment: Environment) -> PatchScorer:
    """Return a scorer with the trained state of every task.

    Raises:
        InvalidInput: the state does not fit the configuration.
    """
    randomness = Randomness(config.seed, "", 0)  # All that it draws is replaced by the trained state.
    model, scorer = _new_model(config, torch.empty(0, *stored.header.shape), randomness, environment.device)
    for task, state in enumerate(stored.states):
        if isinstance(model, Detector):
            model.add_task(task, randomness)
        try:
            model.load_task_state(task, state)
        except (RuntimeError, KeyError) as error:
            raise InvalidInput(f"the detector was stored by other code than this program has ({error})") from None
        model.requires_grad_(False).eval()
    return scorer


def _differences(stored: StoredDetector, config: TrialConfig, environment: Environment) -> tuple[str, ...]:
    """Return the reasons why scores may differ from those of the sweep in their last digits."""
    notes = []
    here = environment.key()
    for name, there in stored.header.environment.items():
        if here.get(name) != there:
            notes.append(f"{name.replace('_', ' ')}: trained with {there}, here {here.get(name)}")
    code = code_of(config)
    changed = [phase for phase, of in stored.header.code.items() if code.get(phase) != of]
    if changed:
        notes.append(f"code: trained with other code of {', '.join(changed)}")
    return tuple(notes)


def _in_memory(image: MemoryImage) -> _CheckedImage:
    sample = Sample(image.name.name, image.name, 0, "", None, image.digest, None)
    return _CheckedImage(sample, image.image.size, image)


def _report(on_failure: Failure | None, path: Path, error: MoleflowError) -> None:
    if on_failure is None:
        raise error
    on_failure(path, " ".join(str(error).split()))
