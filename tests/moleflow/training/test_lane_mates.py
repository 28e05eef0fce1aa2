"""A trial whose lanes train the stages of other trials, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moleflow.cache.stages import StageId, StageStore
from moleflow.data.scan import scan
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.training.sequence import SequenceContext, run_sequence

Config = Callable[..., TrialConfig]
Train = Callable[..., Any]


@pytest.fixture
def train(ground: Path, recorder: type[Any]) -> Train:
    """The function that runs a trial with lane mates on the images of `ground`."""

    def run(settings: TrialConfig, stages: Path, *mates: TrialConfig, observer: Any = None) -> Any:
        context = SequenceContext(
            scan(ground / "images", settings.data.classes),
            FeatureCache(ground / "features"),
            StageStore(stages),
            open_environment("cpu"),
            ground / "synthetic",
            lane_mates=mates,
        )
        observer = observer or recorder()
        observer.outcome = run_sequence(settings, context, observer)
        return observer

    return run


def _three(config: Config) -> tuple[TrialConfig, TrialConfig, TrialConfig]:
    first, *others = (config("v7", lanes=3, focal_gamma=gamma) for gamma in (0.0, 1.0, 2.0))
    return first, *others


def test_the_first_trial_trains_the_stages_of_its_mates(train: Train, config: Config, tmp_path: Path) -> None:
    first, second, third = _three(config)
    led = train(first, tmp_path, second, third)
    assert led.reused == [False] * 3
    for mate in (second, third):
        followed = train(mate, tmp_path)
        assert followed.reused == [True] * 3
        assert followed.steps["training"] == 0
        assert sum(report.seconds_reused for report in followed.reports) > 0


def test_a_trial_has_the_same_digits_whoever_trains_it(train: Train, config: Config, tmp_path: Path) -> None:
    first, second, third = _three(config)
    train(first, tmp_path / "led", second, third)
    followed, alone = train(third, tmp_path / "led"), train(third, tmp_path / "alone")
    assert followed.reused == [True] * 3
    assert alone.reused == [False] * 3
    assert followed.digits() == alone.digits()


def test_an_interrupted_trial_and_its_mates_resume_with_the_same_digits(
    train: Train, config: Config, tmp_path: Path, recorder: type[Any], interruption: type[Any]
) -> None:
    first, second, _ = _three(config)

    class Interrupted(recorder):  # type: ignore[misc]
        def on_epoch(self, task: int, epoch: Any) -> None:
            super().on_epoch(task, epoch)
            if (task, epoch.epoch) == (1, 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(first, tmp_path / "cut", second, observer=Interrupted())
    assert len(list((tmp_path / "cut").rglob("*.checkpoint.safetensors"))) == 2
    resumed = train(first, tmp_path / "cut", second)
    assert resumed.epochs == [(1, 2), (2, 1), (2, 2)]
    assert list((tmp_path / "cut").rglob("*.checkpoint.safetensors")) == []
    followed = train(second, tmp_path / "cut")
    assert followed.reused == [True] * 3
    whole = train(first, tmp_path / "whole", second)
    assert resumed.digits() == whole.digits()
    assert followed.digits() == train(second, tmp_path / "whole").digits()


def test_a_mate_whose_stages_are_stored_is_not_trained_again(train: Train, config: Config, tmp_path: Path) -> None:
    first, second, third = _three(config)
    train(second, tmp_path)
    stored = {path: path.read_bytes() for path in tmp_path.rglob("stage.json")}
    assert len(stored) == 3
    assert train(first, tmp_path, second, third).reused == [False] * 3
    assert len(list(tmp_path.rglob("stage.json"))) == 9
    assert {path: path.read_bytes() for path in stored} == stored


def test_a_mate_that_another_worker_trains_is_left_to_it(train: Train, config: Config, tmp_path: Path) -> None:
    first, second, third = _three(config)
    train(second, tmp_path / "elsewhere")
    names = {path.parent.name for path in (tmp_path / "elsewhere").rglob("stage.json")}
    claims = [StageStore(tmp_path / "here").claim(StageId(name, "")) for name in names]
    for claim in claims:
        assert claim is not None
        claim.__enter__()
    assert train(first, tmp_path / "here", second, third).reused == [False] * 3
    assert len(list((tmp_path / "here").rglob("stage.json"))) == 6
    for claim in claims:
        assert claim is not None
        claim.__exit__(None, None, None)


def test_the_seconds_of_mates_are_no_seconds_of_the_trial(train: Train, config: Config, tmp_path: Path) -> None:
    first, second, third = _three(config)
    led = train(first, tmp_path, second, third)
    own = [sum(curve["seconds"] for curve in report.curves) for report in led.reports]
    followed = train(third, tmp_path)
    for report, seconds, other in zip(led.reports, own, followed.reports, strict=True):
        assert report.seconds_spent >= seconds
        assert other.seconds_reused == pytest.approx(sum(curve["seconds"] for curve in other.curves))
