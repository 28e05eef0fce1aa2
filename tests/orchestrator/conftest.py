"""Finished trials generated for the tests of reports: no trial was run for any of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from orchestrator.reports.lock import Recipe
from orchestrator.reports.published import Published, PublishedRows, load_published
from orchestrator.reports.tables import build_report, write_report
from orchestrator.results.schema import DETECTION
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, PartWriter

CONFIG = {
    "version": "v7",
    "backbone": {"model": "efficientnet_lite0", "grid": 14},
    "loss": {"focal_gamma": 0.0, "center_weight": 0.0},
    "training": {"epochs": 5},
    "digests": {"data": "d1"},
}
CODE = "c0de" * 16
START = datetime(2025, 1, 1, tzinfo=UTC)


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def generated_trial(
    factors: Mapping[str, object],
    seed: int = 0,
    image: Sequence[float | None] = (0.9, 0.8),
    pixel: Sequence[float | None] = (0.95, 0.85),
    routing: Sequence[float] = (1.0, 1.0),
    classes: Sequence[str] = ("leather", "grid"),
    drop: float = 0.0,
    settings: Mapping[str, object] | None = None,
    split: str = "test",
    images: Sequence[tuple[Sequence[int], Sequence[float]]] | None = None,
    **attempt: Any,
) -> AttemptRows:
    """One attempt with metrics given for each class.

    Args:
        factors: {dotted knob: value} of the sweep's axes.
        drop: how much better each task was before the final one.
        settings: {dotted knob: value} of other settings.
        images: (labels, scores) of each class's images. Image AUROC is then scikit-learn's.
        attempt: columns of the attempts table.
    """
    if images is not None:
        image = [float(roc_auc_score(labels, scores)) for labels, scores in images]
    config = json.loads(canonical(CONFIG)) | {"seed": seed}
    for path, value in {**factors, **(settings or {})}.items():
        *groups, last = path.split(".")
        place = config
        for name in groups:
            place = place.setdefault(name, {})
        place[last] = value
    own = canonical(config)
    row = {
        "sweep": "generated",
        "trial_id": hashlib.sha256(own.encode()).hexdigest()[:12],
        "attempt": 1,
        "version": config["version"],
        "seed": seed,
        "factors": canonical(dict(factors)),
        "dataset": "embedded",
        "status": "finished",
        "started_at": START + timedelta(minutes=seed),
        "ended_at": START + timedelta(minutes=seed + 1),
        "seconds_spent": 36.0,
        "seconds_reused": 18.0,
        "backend": "inline",
        "host": "host",
        "pid": 1,
        "worker": "w",
        "device": "cpu",
        "device_model": "Model A",
        "torch": "2.13.0",
        "dtype": "float32",
        "threads": 1,
        "code_digest": CODE,
        "packages": '{"timm":"1.0.31"}',
        "config": canonical(config),
        "lora_scaling": 0.03125,
        "parameters_total": 1_234_567,
        "parameters_per_task": [1_000_000, 234_567],
        "flags": "[]",
        "data_digest": "d1" * 32,
        "state_digest": f"state of {own}",
        "scores_digest": f"scores of {own}",
    } | attempt
    metrics = []
    for i, after in enumerate(classes):
        for j in range(i + 1):
            shift = drop if i < len(classes) - 1 else 0.0
            values: dict[str, object] = dict.fromkeys([*DETECTION, *(f"oracle_{name}" for name in DETECTION)], 0.5)
            own_image = image[j]
            shifted = None if own_image is None else own_image + shift
            values |= {"image_auroc": shifted, "pixel_auroc": pixel[j], "routing_accuracy": routing[j]}
            metrics.append(
                {
                    "split": split,
                    "after_task": i,
                    "task": j,
                    "task_name": classes[j],
                    "after_task_name": after,
                    "n_images": 80,
                    "n_anomalous": 40,
                    "n_masks": 40,
                    "state_digest": f"state {i} of {own}",
                    "scores_digest": f"scores {i} {j} of {own}",
                    "seconds_spent": 18.0,
                    "seconds_reused": 9.0,
                    **values,
                }
            )
    scores = [
        {
            "split": split,
            "task": j,
            "task_name": classes[j],
            "image": f"{classes[j]}/test/{k:03d}.png",
            "image_digest": f"{classes[j]} {k}",
            "defect": "crack" if label else "good",
            "label": label,
            "score": score,
            "oracle_score": score,
            "routed_task": j,
        }
        for j, (labels, of_class) in enumerate(images or ())
        for k, (label, score) in enumerate(zip(labels, of_class, strict=True))
    ]
    return AttemptRows(row, metrics, scores)


def drawn_images(
    strengths: Sequence[float], seed: int = 0, n: int = 30, images_seed: int = 7
) -> list[tuple[list[int], list[float]]]:
    """Labels and scores of `n` images of each class; half are defective and score higher.

    Args:
        strengths: for each class, how much higher defective images score.
        seed: draws the noise of one training.
        images_seed: draws the difficulty of each image, which all trials share.
    """
    shared, own = np.random.default_rng(images_seed), np.random.default_rng([1, seed])
    found = []
    for strength in strengths:
        labels = np.arange(n) % 2
        hardness, noise = shared.normal(size=n), own.normal(scale=0.3, size=n)
        scores = np.round(strength * labels + hardness + noise, 1)  # Rounded, so that some tie.
        found.append((labels.tolist(), scores.tolist()))
    return found


@pytest.fixture
def make_images() -> Callable[..., list[tuple[list[int], list[float]]]]:
    return drawn_images


@pytest.fixture
def make_trial() -> Callable[..., AttemptRows]:
    return generated_trial


@pytest.fixture
def writer(tmp_path: Path) -> PartWriter:
    return PartWriter(ResultStore(tmp_path / "sweep"))


@pytest.fixture
def add(writer: PartWriter) -> Callable[..., str]:
    """Add a generated trial and return its id."""

    def add(*arguments: Any, **named: Any) -> str:
        rows = generated_trial(*arguments, **named)
        writer.add(rows)
        return str(rows.attempt["trial_id"])

    return add


@pytest.fixture
def stored(writer: PartWriter, tmp_path: Path) -> Callable[[], ResultStore]:
    """Write the added trials and return the store."""

    def stored() -> ResultStore:
        writer.flush()
        return ResultStore(tmp_path / "sweep")

    return stored


@pytest.fixture
def ids(add: Callable[..., str], stored: Callable[[], ResultStore]) -> list[str]:
    """Four stored trials; their ids."""
    found = [
        add({"loss.focal_gamma": gamma}, seed, image=(0.9, 0.5 + gamma / 10 + seed / 50))
        for gamma in (0.0, 2.0)
        for seed in (0, 1)
    ]
    stored()
    return found


@pytest.fixture
def write(ids: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Write the report of the stored trials into their folder and return its path."""

    def write(selection: Any = "plan", published: Published | None = None, **named: Any) -> Path:
        chosen = tuple(ids) if selection == "plan" else selection
        named = {"code": CODE, "command": "moleflow-sweep report FOLDER"} | named
        recipe = Recipe("Does gamma --> help?", chosen, {"loss.focal_gamma": 0.0}, **named)
        report = build_report(ResultStore(tmp_path / "sweep"), recipe, published)
        return write_report(report, tmp_path / "sweep")["md"]

    return write


@pytest.fixture
def contrast(add: Callable[..., str]) -> Callable[..., None]:
    """Add gamma 0 and 2 on several seeds, with `gain` in pixel AUROC that varies a little."""

    def contrast(
        gain: float,
        seeds: int = 3,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        **both: Any,
    ) -> None:
        attempt = {"dataset": "mvtec"} | both
        for seed in range(seeds):
            pixel = (0.80 + seed / 100, 0.70)
            add({"loss.focal_gamma": 0.0}, seed, pixel=pixel, **(attempt | dict(before or {})))
            moved = tuple(value + gain + (seed - 1) / 2000 for value in pixel)
            add({"loss.focal_gamma": 2.0}, seed, pixel=moved, **(attempt | dict(after or {})))

    return contrast


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published()


@pytest.fixture(scope="module")
def three_classes(published: Published) -> PublishedRows:
    return next(rows for rows in published.files if rows.tasks == ("leather", "grid", "transistor"))


@pytest.fixture
def disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of os.fsync and os.replace in order; a rename says if its file was synced."""
    calls: list[str] = []
    synced: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def record_sync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        calls.append(f"sync folder {path}" if path.is_dir() else "sync file")
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def record_rename(source: str | Path, target: str | Path) -> None:
        inode = Path(source).stat().st_ino
        state = "synced" if inode in synced else "unsynced"
        # A later file may get the number of this one.
        synced.discard(inode)
        calls.append(f"rename {state} to {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    return calls
