"""One trial as the notes' authors ran it: a process of its own, no cache, the backbone run anew
wherever its features are needed.

    python benchmarks/notes_way.py TRIAL.json OUT.json

benchmarks/sweep.py calls it. The model, the loss and the metrics are the project's own; what
differs is where features come from: every training step and every evaluation forwards its images,
in batches of the training's size, through the frozen backbone. After each task all seen classes are
evaluated once. Last bits differ from a trial of the project, whose features are made image by
image.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from moleflow.cache.stages import ROOT, stage_id  # noqa: E402
from moleflow.data.digests import DigestCache  # noqa: E402
from moleflow.data.loading import load_image  # noqa: E402
from moleflow.data.samples import Sample  # noqa: E402
from moleflow.data.scan import scan  # noqa: E402
from moleflow.data.splits import choose_splits  # noqa: E402
from moleflow.environment import open_environment  # noqa: E402
from moleflow.features.backbone import FrozenBackbone  # noqa: E402
from moleflow.features.weights import weights_identity  # noqa: E402
from moleflow.models.detector import Detector  # noqa: E402
from moleflow.settings.config import TrialConfig, digest  # noqa: E402
from moleflow.training.evaluation import Evaluation  # noqa: E402
from moleflow.training.train_task import Randomness, train_task  # noqa: E402


class OnTheFly:
    """Features of some images, made whenever they are asked for; it stands where the project has a
    tensor (N, H, W, D).
    """

    def __init__(
        self, backbone: FrozenBackbone, config: TrialConfig, samples: tuple[Sample, ...], count: list[int]
    ) -> None:
        self._backbone, self._config, self._samples, self._count = backbone, config, samples, count
        self.shape = (len(samples), backbone.grid, backbone.grid, backbone.width)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._samples)

    def to(self, _device: torch.device) -> OnTheFly:
        """It is nowhere yet."""
        return self

    def __getitem__(self, chosen: Any) -> torch.Tensor:
        samples = [self._samples[n] for n in torch.arange(len(self))[chosen].tolist()]
        found = []
        size = self._config.training.batch_size
        for start in range(0, len(samples), size):
            images = [
                load_image(s, self._config.data.image_size, self._config.data.interpolation)
                for s in samples[start : start + size]
            ]
            self._count[0] += len(images)
            found.append(self._backbone._features(np.stack(images)).cpu())
        return torch.cat(found)


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate the sequence; its rows, backbone forwards and seconds."""
    config = TrialConfig.model_validate(given["config"])
    environment = open_environment("cpu", given["threads"])
    ready = time.perf_counter() - BEGUN
    place = Path(given["scratch"])
    tasks = scan(Path(given["data_root"]), config.data.tasks, DigestCache(place / "digests.json"))
    weights, forwards = weights_identity(config.backbone), [0]
    backbone = FrozenBackbone(config, environment)
    parent, detector, rows = ROOT, None, []
    kept: list[torch.Tensor] = []
    for task, data in enumerate(tasks):
        chosen = choose_splits(data, config.data, config.seed, place / "synthetic")
        training: Any = OnTheFly(backbone, config, chosen.train, forwards)
        randomness = Randomness(config.seed, parent.lineage, task)
        if detector is None:
            detector = Detector(config, training.shape[1:], randomness)
        detector.add_task(task, randomness)
        kept.append(training[:])  # One pass more, for the statistics and the router.
        detector.measure(task, kept[-1])
        train_task(detector, training, task, config, randomness, lambda _: None)
        parent = stage_id(parent, config, task, digest([s.digest for s in chosen.train]), weights, environment)
        # Nothing is kept from the evaluation after the task before, as a script that ends with a
        # table would.
        evaluation = Evaluation(config, detector)
        for seen, features in zip(tasks, kept, strict=False):
            tested = choose_splits(seen, config.data, config.seed, place / "synthetic").test
            test = OnTheFly(backbone, config, tested, forwards)[:]
            evaluation.add_task(features)
            evaluation.add_class(seen.name, tested, seen.has_masks, lambda test=test: test)
        for j, seen in enumerate(tasks[: task + 1]):
            found = evaluation.evaluate(j)
            rows.append(
                {
                    "after": task,
                    "task": seen.name,
                    "image_auroc": found.metrics.image_auroc,
                    "pixel_auroc": found.metrics.pixel_auroc,
                    "aupro": found.metrics.aupro,
                }
            )
    return {"rows": rows, "forwards": forwards[0], "startup_s": ready, "seconds": time.perf_counter() - BEGUN}


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(run(json.loads(source.read_text()))))
    os._exit(0)
