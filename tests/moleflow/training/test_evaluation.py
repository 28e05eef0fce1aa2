"""Routed and oracle scores, metrics, maps and the gallery of a detector of two tasks."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from moleflow.data.samples import Sample
from moleflow.errors import Diverged
from moleflow.metrics.ranking import ranking
from moleflow.metrics.regions import pixel_metrics
from moleflow.models.detector import Detector
from moleflow.settings.config import ScoringKnobs, TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.evaluation import METRIC_NAMES, Evaluation, FlowScorer, anomaly_maps, image_scores
from moleflow.training.train_task import Randomness

SHAPE = (4, 4, 8)
SIZE = 16
Maps = npt.NDArray[np.float32]


def config(**knobs: Any) -> TrialConfig:
    small = {"flow.blocks": 2, "lora.rank": 2, "mask_size": SIZE, "image_score": "max", "smoothing": 1.0}
    return resolve([version_layer("v3", "test"), Layer("test", small | knobs)])


def trained_like(settings: TrialConfig) -> Detector:
    """A detector of two tasks whose experts and adapters differ, as after training."""
    draws = Randomness(0, "", 0)
    detector = Detector(settings, SHAPE, draws)
    for task in range(2):
        detector.add_task(task, Randomness(0, "", task))
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if not name.endswith(("w_perm", "w_perm_inv")):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws(name)))
    return detector.requires_grad_(False).eval()


def evaluation_of(settings: TrialConfig, detector: Detector) -> Evaluation:
    """An evaluation of the flow's scores."""
    return Evaluation(settings, FlowScorer(settings.scoring, detector))


def features(task: int, count: int, name: str) -> torch.Tensor:
    """Feature maps (count, 4, 4, 8) around a mean of the task's own."""
    return torch.randn(count, *SHAPE, generator=Randomness(0, "", task)(name)) + 5 * task


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Three normal and three defective images, of which nothing is read but the masks."""
    folder = tmp_path_factory.mktemp("masks")
    found = []
    for n in range(6):
        mask = None
        if n >= 3:
            marked = np.zeros((32, 32), dtype=np.uint8)
            marked[4 * n : 4 * n + 8, 8:16] = 255
            mask = folder / f"{n}.png"
            Image.fromarray(marked).save(mask)
        found.append(
            Sample(f"{n}.png", folder / f"{n}.png", int(n >= 3), "dent" if n >= 3 else "good", mask, str(n), None)
        )
    return tuple(found)


def shown() -> torch.Tensor:
    """Test features of task 0; the last image looks like task 1, the defective ones stand out."""
    found = features(0, 6, "test")
    found[3:, 1:3, 1:3] += 1
    found[5] += 5
    return found


def evaluated(settings: TrialConfig, samples: tuple[Sample, ...], has_masks: bool = True, tasks: int = 2) -> Evaluation:
    evaluation = evaluation_of(settings, trained_like(settings))
    evaluation.add_task(features(0, 12, "train"))
    evaluation.add_class("shown", samples, has_masks, shown)
    if tasks > 1:
        evaluation.add_task(features(1, 12, "train"))
        evaluation.add_class("shown", samples, has_masks, lambda: features(1, 6, "test"))
    return evaluation


def patch_scores(settings: TrialConfig, images: torch.Tensor, expert: int) -> Maps:
    """-log p of the standard normal base and the log-determinant (N, H, W), in one batch."""
    with torch.no_grad():
        z, log_det = trained_like(settings)(images, expert)
    log_density = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=-1) + log_det
    return np.asarray(-log_density.numpy(), dtype=np.float32)


def test_each_image_is_scored_by_the_expert_it_is_routed_to(samples: tuple[Sample, ...]) -> None:
    settings = config()
    found = evaluated(settings, samples).evaluate(0)
    assert found.routes.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.routing_accuracy == 5 / 6
    own, other = (patch_scores(settings, shown(), expert) for expert in (0, 1))
    routed = np.concatenate([own[:5], other[5:]])
    np.testing.assert_allclose(found.scores, routed.max(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.oracle_scores, own.max(axis=(1, 2)), rtol=1e-5)
    assert abs(found.scores[5] - found.oracle_scores[5]) > 1


def test_metrics_are_those_of_the_routed_scores_and_maps(samples: tuple[Sample, ...]) -> None:
    settings = config()
    found = evaluated(settings, samples).evaluate(0)
    labels = [sample.label for sample in samples]
    masks = np.zeros((6, SIZE, SIZE), dtype=bool)
    for n in range(3, 6):
        masks[n, 2 * n : 2 * n + 4, 4:8] = True
    own, other = (patch_scores(settings, shown(), expert) for expert in (0, 1))
    for maps, scores, metrics in (
        (np.concatenate([own[:5], other[5:]]), found.scores, found.metrics),
        (own, found.oracle_scores, found.oracle_metrics),
    ):
        image, pixel = ranking(labels, scores), pixel_metrics(masks, anomaly_maps(maps, SIZE, 1.0))
        expected = (image.auroc, image.ap, image.f1_max, pixel.auroc, pixel.ap, pixel.f1_max, pixel.aupro)
        assert tuple(getattr(metrics, name) for name in METRIC_NAMES) == pytest.approx(expected, rel=1e-6)
    assert found.metrics.pixel_auroc != found.oracle_metrics.pixel_auroc


def test_before_the_other_task_is_known_every_image_goes_to_the_one_expert(samples: tuple[Sample, ...]) -> None:
    found = evaluated(config(), samples, tasks=1).evaluate(0)
    assert found.routing_accuracy == 1.0
    assert np.array_equal(found.scores, found.oracle_scores)
    assert found.metrics == found.oracle_metrics


def test_without_masks_there_are_no_pixel_metrics(samples: tuple[Sample, ...]) -> None:
    with_masks, without = (evaluated(config(), samples, has).evaluate(0).metrics for has in (True, False))
    for name in METRIC_NAMES:
        if name.startswith("image"):
            assert getattr(without, name) == getattr(with_masks, name)
        else:
            assert getattr(without, name) is None
            assert getattr(with_masks, name) is not None


def test_one_kind_of_image_has_no_ranking(samples: tuple[Sample, ...]) -> None:
    evaluation = evaluation_of(config(), trained_like(config()))
    evaluation.add_task(features(0, 12, "train"))
    evaluation.add_class("shown", samples[:3], False, lambda: shown()[:3])
    found = evaluation.evaluate(0)
    assert len(found.scores) == 3
    assert {getattr(found.metrics, name) for name in METRIC_NAMES} == {None}


def test_a_score_does_not_depend_on_the_other_images(samples: tuple[Sample, ...]) -> None:
    everyone = evaluated(config(), samples).evaluate(0).scores
    evaluation = evaluation_of(config(), trained_like(config()))
    evaluation.add_task(features(0, 12, "train"))
    evaluation.add_class("shown", samples[2:4], True, lambda: shown()[2:4])
    assert np.array_equal(evaluation.evaluate(0).scores, everyone[2:4])


def test_latent_norm_is_that_of_normal_images_through_their_own_expert(samples: tuple[Sample, ...]) -> None:
    images = shown()
    images[1] += 5  # A normal image that is misrouted.
    settings = config()
    passes = []
    detector = trained_like(settings)
    detector.register_forward_hook(lambda *_: passes.append(1))
    evaluation = evaluation_of(settings, detector)
    for task in range(2):
        evaluation.add_task(features(task, 12, "train"))
        evaluation.add_class("shown", samples, False, lambda: images)
    found = evaluation.evaluate(0)
    assert found.routes.tolist() == [0, 1, 0, 0, 0, 1]
    with torch.no_grad():
        z, _ = detector(images[:3], 0)
        misrouted, _ = detector(images[1:2], 1)
    assert found.normal_latent_norm == pytest.approx(z.square().mean().item(), rel=1e-6)
    assert abs(z[1].square().mean() - misrouted.square().mean()) > 0.01
    assert len(passes) == 8 + 2, "one for each image and expert, and the two above"
    one_task = evaluated(config(**{"scoring.log_det": "image_mean", "image_score": "top_k"}), samples, tasks=1)
    with torch.no_grad():
        z, _ = detector(shown()[:3], 0)
    assert one_task.evaluate(0).normal_latent_norm == pytest.approx(z.square().mean().item(), rel=1e-6)


def test_without_normal_images_there_is_no_latent_norm(samples: tuple[Sample, ...]) -> None:
    evaluation = evaluation_of(config(), trained_like(config()))
    evaluation.add_task(features(0, 12, "train"))
    evaluation.add_class("shown", samples[3:], False, lambda: shown()[3:])
    assert evaluation.evaluate(0).normal_latent_norm is None


def test_the_digest_differs_with_scores_and_maps(samples: tuple[Sample, ...]) -> None:
    start = evaluated(config(), samples).evaluate(0)
    assert evaluated(config(), samples).evaluate(0).digest == start.digest
    others = [config(smoothing=2.0), config(image_score="top_k"), config(**{"scoring.log_det": "image_mean"})]
    assert len({evaluated(other, samples).evaluate(0).digest for other in others} | {start.digest}) == 4


def test_masks_are_read_once(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    copies = []
    for sample in samples:
        mask = Path(shutil.copy(sample.mask, tmp_path)) if sample.mask else None
        copies.append(replace(sample, mask=mask))
    settings = config(mask_size=9)  # 81 bits, which is no whole number of bytes.
    evaluation = evaluated(settings, tuple(copies), tasks=1)
    for copy in tmp_path.iterdir():
        copy.unlink()
    assert evaluation.evaluate(0).metrics == evaluated(settings, samples, tasks=1).evaluate(0).metrics
    evaluation.add_task(features(1, 12, "train"))
    evaluation.add_class("shown", samples, True, lambda: features(1, 6, "test"))
    after = evaluation.evaluate(0)
    assert after.routes.tolist() == [0, 0, 0, 0, 0, 1]
    assert after.metrics == evaluated(settings, samples).evaluate(0).metrics


def test_vanished_masks_are_those_of_defective_images_that_nearest_resizing_loses(
    samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    marked = np.zeros((32, 32), dtype=np.uint8)
    marked[0, 0] = 255
    Image.fromarray(marked).save(tmp_path / "tiny.png")
    tiny = replace(samples[5], name="tiny", mask=tmp_path / "tiny.png")
    evaluation = evaluated(config(), (*samples[:5], tiny), tasks=1)
    assert evaluation.vanished_masks(0) == {"tiny"}
    assert evaluated(config(mask_size=32), (*samples[:5], tiny), tasks=1).vanished_masks(0) == set()
    assert evaluated(config(), samples, has_masks=False, tasks=1).vanished_masks(0) == set()


def test_image_mean_puts_the_mean_log_determinant_on_every_patch(samples: tuple[Sample, ...]) -> None:
    settings = config(**{"scoring.log_det": "image_mean"})
    with torch.no_grad():
        z, log_det = trained_like(settings)(shown(), 0)
    maps = 0.5 * z.square().sum(-1) - log_det.mean(dim=(1, 2), keepdim=True) + 4 * math.log(2 * math.pi)
    expected = maps.amax(dim=(1, 2)).numpy()
    np.testing.assert_allclose(evaluated(settings, samples).evaluate(0).oracle_scores, expected, rtol=1e-5)


@pytest.mark.parametrize("value", [1e30, math.nan])
def test_a_score_that_is_not_finite_names_image_and_expert(samples: tuple[Sample, ...], value: float) -> None:
    def broken() -> torch.Tensor:
        found = shown()
        found[4, 2, 3] = value
        return found

    evaluation = evaluation_of(config(adapter={"enabled": False}), trained_like(config(adapter={"enabled": False})))
    evaluation.add_task(features(0, 12, "train"))
    evaluation.add_class("shown", samples, True, broken)
    with pytest.raises(Diverged, match=r"4\.png: a patch score of the expert of task 0 is not finite"):
        evaluation.evaluate(0)


def enlarged(small: Maps, size: int) -> npt.NDArray[np.float64]:
    """A map (size, size) of patches (H, W), interpolated along columns and then rows."""
    positions = [np.linspace(0, count - 1, size) for count in small.shape]
    rows = np.stack([np.interp(positions[0], np.arange(small.shape[0]), column) for column in small.T], axis=1)
    return np.stack([np.interp(positions[1], np.arange(small.shape[1]), row) for row in rows])


def test_image_scores_are_maximum_quantile_or_mean_of_the_largest() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    flat = maps.reshape(5, 42).astype(np.float64)
    largest = -np.sort(-flat, axis=1)
    assert np.array_equal(image_scores(maps, ScoringKnobs(image_score="max")), largest[:, 0])
    np.testing.assert_allclose(
        image_scores(maps, ScoringKnobs(image_score="top_k", top_k=3)), largest[:, :3].sum(axis=1) / 3
    )
    assert np.array_equal(image_scores(maps, ScoringKnobs(image_score="top_k", top_k=1)), largest[:, 0])
    np.testing.assert_allclose(image_scores(maps, ScoringKnobs(image_score="top_k", top_k=100)), flat.mean(axis=1))
    # numpy's and the notes' quantile: linear between neighbours, here at 0.99 * 41 = 40.59.
    interpolated = largest[:, 1] + 0.59 * (largest[:, 0] - largest[:, 1])
    np.testing.assert_allclose(image_scores(maps, ScoringKnobs(image_score="quantile", quantile=0.99)), interpolated)
    np.testing.assert_allclose(
        image_scores(maps, ScoringKnobs(image_score="quantile", quantile=0.5)), np.median(flat, axis=1)
    )
    assert image_scores(maps, ScoringKnobs()).dtype == np.float64


def test_maps_are_enlarged_bilinearly_corner_to_corner_and_then_smoothed() -> None:
    patches = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    expected = np.stack([enlarged(small, 13) for small in patches])
    plain = anomaly_maps(patches, 13, 0.0)
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    assert np.array_equal(plain[:, ::12, ::12], patches[:, ::3, ::3])
    smooth = anomaly_maps(patches, 13, 1.5)
    np.testing.assert_allclose(smooth, np.stack([gaussian_filter(one, 1.5) for one in expected]), atol=1e-6)
    assert smooth.dtype == plain.dtype == np.float32


@pytest.mark.parametrize("sigma", [0.0, 0.7, 4.0])
def test_a_map_does_not_depend_on_the_other_maps(sigma: float) -> None:
    patches = np.random.default_rng(0).normal(-600, 50, size=(5, 6, 6)).astype(np.float32)
    together = anomaly_maps(patches, 33, sigma)
    for one, alone in zip(together, patches, strict=True):
        assert np.array_equal(anomaly_maps(alone[None], 33, sigma)[0], one)


@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_a_single_patch_or_equal_patches_give_a_level_map(sigma: float) -> None:
    for patches in (np.full((1, 1, 1), -611.7, np.float32), np.full((1, 3, 5), -611.7, np.float32)):
        np.testing.assert_allclose(anomaly_maps(patches, 16, sigma), np.full((1, 16, 16), -611.7), rtol=1e-6)


def test_gallery_maps_are_smoothed_in_proportion_to_their_size(samples: tuple[Sample, ...]) -> None:
    """Sigma 1 at 16 pixels is sigma 4 at 64; all maps of a class share one grey scale."""
    settings = config(smoothing=1.0)
    evaluation = evaluated(settings, samples)
    own, other = (patch_scores(settings, shown(), expert) for expert in (0, 1))
    routed = np.concatenate([own[:5], other[5:]])
    kept = evaluation.gallery(0, "test")
    assert len(kept) == 2 + 3 + 3
    assert len({(one.low, one.high) for one in kept}) == 1
    for one in kept:
        n = samples.index(one.sample)
        values = one.low + np.frombuffer(one.grey, dtype=np.uint8).reshape(64, 64) / 255 * (one.high - one.low)
        expected = gaussian_filter(enlarged(routed[n], 64), 4.0)
        assert np.abs(values - expected).max() <= (one.high - one.low) / 255
        assert (one.split, one.task, one.score) == ("test", 0, pytest.approx(routed[n].max(), rel=1e-5))
