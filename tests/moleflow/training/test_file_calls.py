"""File-system calls in the cache, counted without strace: a cluster's file server answers them all.

`benchmarks/file_calls.py` counts those of whole sweeps.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moleflow.cache.array_packs import PackFolder
from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import StageStore
from moleflow.data.samples import Sample
from moleflow.data.scan import scan
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.training.sequence import Doing, SequenceContext, TaskReport, run_sequence

A_TRIAL = 100
_watched: list[tuple[str, Counter[str]]] = []


def _count(event: str, facts: tuple[Any, ...]) -> None:
    """Count an audited call on a path in a watched folder; every such call begins with its path."""
    if _watched and facts and (event == "open" or event.startswith("os.")):
        folder, found = _watched[-1]
        if isinstance(facts[0], str | Path) and str(facts[0]).startswith(folder):
            found[event] += 1


@pytest.fixture(scope="module")
def audited() -> None:
    """The hook; Python cannot remove it, and it does nothing outside `counted`."""
    sys.addaudithook(_count)


@pytest.fixture
def counted(audited: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """A block whose file-system calls under a folder are counted, by name."""

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting_call(path: Any, *more: Any, **named: Any) -> Any:
            _count(name, (path,))
            return call(path, *more, **named)

        return counting_call

    # Python audits no `stat`, and no sync of an open file.
    for name in ("stat", "lstat", "access"):
        monkeypatch.setattr(os, name, counting(f"os.{name}", getattr(os, name)))
    sync = os.fsync

    def counting_sync(file: int) -> None:
        _count("os.fsync", (os.readlink(f"/proc/self/fd/{file}"),))
        sync(file)

    monkeypatch.setattr(os, "fsync", counting_sync)

    @contextmanager
    def block(folder: Path) -> Iterator[Counter[str]]:
        found: Counter[str] = Counter()
        _watched.append((str(folder), found))
        try:
            yield found
        finally:
            _watched.pop()

    return block


class Silent:
    """An observer that does nothing."""

    def on_features(self, done: int, total: int) -> None: ...

    def on_epoch(self, task: int, epoch: Epoch) -> None: ...

    def on_step(self, doing: Doing) -> None: ...

    def on_task(self, report: TaskReport) -> bool:
        return True


def test_a_trial_in_steady_state_makes_few_calls(
    tmp_path: Path, ground: Path, config: Callable[..., TrialConfig], counted: Callable[[Path], Any]
) -> None:
    """The third trial of a worker, which trains and scores three tasks."""
    cache = tmp_path / "cache"
    context = SequenceContext(
        classes=scan(ground / "images", config().data.classes),
        features=FeatureCache(cache / "features"),
        stages=StageStore(cache / "stages"),
        environment=open_environment("cpu"),
        synthetic=cache / "synthetic",
    )
    for seed in range(2):
        run_sequence(config(seed=seed), context, Silent())
    with counted(cache) as found:
        run_sequence(config(seed=2), context, Silent())
    assert 0 < sum(found.values()) <= A_TRIAL, found


def store_packs(folder: Path, packs: int) -> list[str]:
    """Store so many packs of two images; return the digests of the images."""
    folder.mkdir(parents=True)
    images = []
    for n in range(packs):
        images += (pair := [f"{n % 16:x}{n:062x}{k}" for k in range(2)])
        PackFolder(folder).write(pair, np.full((2, 1, 1, 4), n, dtype=np.float32))
    return images


@pytest.mark.parametrize("packs", [16, 64])
def test_known_features_are_read_without_a_call(
    packs: int, tmp_path: Path, config: Callable[..., TrialConfig], counted: Callable[[Path], Any]
) -> None:
    cache, environment = FeatureCache(tmp_path / "features"), open_environment("cpu")
    images = store_packs(tmp_path / "features" / cache.key(config(), environment), packs)
    samples = [Sample("none", tmp_path / "none", 0, "good", None, image, None) for image in images]
    first = cache.get(config(), environment, samples)
    assert first.shape == (2 * packs, 1, 1, 4)
    with counted(tmp_path / "features") as found:
        again = cache.get(config(), environment, samples)
    assert found == {}
    assert np.array_equal(first, again)
