"""NLL, focal weights and centre loss: values and gradients by hand, finite everywhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from moleflow.settings.config import LossKnobs
from moleflow.training.losses import focal_weight, log_density_constant, patch_nll, tail_loss, training_loss

FORMS = ["joint", "per_dim", "relative"]


def _latents(scale: float = 1.0, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = (scale * torch.randn(3, 4, 5, 6, generator=generator)).requires_grad_()
    log_det = (torch.randn(3, 4, 5, generator=generator) + shift).requires_grad_()
    return z, log_det


def test_the_score_is_the_negative_log_of_a_standard_normal_density() -> None:
    z, log_det = _latents()
    expected = -torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - log_det
    torch.testing.assert_close(patch_nll(z, log_det) + log_density_constant(6), expected)


def test_image_mean_puts_one_log_det_on_every_patch() -> None:
    z, log_det = _latents()
    nll = patch_nll(torch.zeros_like(z), log_det, image_mean=True)
    assert torch.equal(nll[0], -log_det.mean(dim=(1, 2))[0].expand(4, 5))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("detach", [True, False])
def test_gamma_0_and_centre_weight_0_are_the_plain_nll_to_the_last_bit(form: str, detach: bool) -> None:
    gradients = []
    for loss in (LossKnobs(), LossKnobs(focal_gamma=0.0, focal_form=form, focal_detach=detach, center_weight=0.0)):
        z, log_det = _latents()
        value, plain = training_loss(z, log_det, loss)
        value.backward()
        gradients.append((value.detach(), plain, z.grad, log_det.grad))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_joint_form_stops_training_where_the_nll_is_not_positive() -> None:
    z, log_det = _latents(shift=600.0)
    value, _ = training_loss(z, log_det, LossKnobs(focal_gamma=2.0, focal_form="joint"))
    value.backward()
    assert value == 0
    assert not z.grad.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("shift", [-600.0, -15.0, 0.0, 15.0, 600.0])
def test_weights_lie_in_0_1_and_gradients_are_finite(form: str, gamma: float, shift: float) -> None:
    z, log_det = _latents(shift=shift)
    loss = LossKnobs(focal_gamma=gamma, focal_form=form)
    weight = focal_weight(patch_nll(z, log_det), 6, loss)
    assert weight.min() >= 0
    assert weight.max() <= 1
    training_loss(z, log_det, loss)[0].backward()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(log_det.grad).all()


def test_a_patch_exactly_at_zero_has_a_finite_gradient() -> None:
    z = torch.zeros(1, 1, 2, 4, requires_grad=True)
    log_det = torch.zeros(1, 1, 2, requires_grad=True)
    training_loss(z, log_det, LossKnobs(focal_gamma=0.5))[0].backward()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(log_det.grad).all()


LN2 = math.log(2)
# Of two patches, with gamma 2 and D = 2: their NLL, the loss, and its derivative by each NLL.
# The loss is the mean of (1 - p)^2 NLL. Its derivative by an NLL is
# ((1 - p)^2 + 2 (1 - p) p x' NLL) / 2, with x' the derivative of x in p = exp(-x).
BY_HAND = {
    # p = 1/2 and 1/4, x' = 1.
    "joint": ((LN2, 2 * LN2), 0.6875 * LN2, (0.125 + 0.25 * LN2, 0.28125 + 0.375 * LN2)),
    # p = exp(-NLL / 2) = 1/2 and 1/4, x' = 1/2.
    "per_dim": ((2 * LN2, 4 * LN2), 1.375 * LN2, (0.125 + 0.25 * LN2, 0.28125 + 0.375 * LN2)),
    # Minimum 5 and standard deviation 2: x = 0 and 2, p = 1 and e^-2 = 0.1353352832, x' = 1/2.
    "relative": ((5.0, 9.0), 3.3644028258, (0.0, 0.9004109356)),
}
# The loss's derivative if the weight is a constant: (1 - p)^2 / 2.
DETACHED = {"joint": (0.125, 0.28125), "per_dim": (0.125, 0.28125), "relative": (0.0, 0.3738225362)}


def _two_patches(form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of zero and log-determinants of -NLL, one patch in each of two images."""
    log_det = -torch.tensor(BY_HAND[form][0], dtype=torch.float64).reshape(2, 1, 1)
    return torch.zeros(2, 1, 1, 2, dtype=torch.float64), log_det.requires_grad_()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("detach", [False, True])
def test_the_focal_loss_and_its_gradient_by_hand(form: str, detach: bool) -> None:
    z, log_det = _two_patches(form)
    value, plain = training_loss(z, log_det, LossKnobs(focal_gamma=2.0, focal_form=form, focal_detach=detach))
    value.backward()
    nll, expected, by_nll = BY_HAND[form]
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert plain.item() == pytest.approx(sum(nll) / 2)
    assert (-log_det.grad).flatten().tolist() == pytest.approx(DETACHED[form] if detach else by_nll, rel=1e-8)


@pytest.mark.parametrize(("gamma", "weight"), [(0.5, math.sqrt(0.5)), (1.0, 0.5), (3.0, 0.125)])
def test_gamma_is_the_exponent_of_the_weight(gamma: float, weight: float) -> None:
    nll = torch.tensor([[[LN2]]], dtype=torch.float64)
    assert focal_weight(nll, 6, LossKnobs(focal_gamma=gamma)).item() == pytest.approx(weight)


def test_the_nll_is_clamped_at_20_before_the_exponential() -> None:
    """So p is at least exp(-20) = 2.0611536e-9, and its gradient stops there."""
    nll = torch.tensor([[[25.0]]], dtype=torch.float64, requires_grad=True)
    weight = focal_weight(nll, 6, LossKnobs(focal_gamma=1.0))
    assert 1 - weight.item() == pytest.approx(2.0611536e-9, rel=1e-6)
    weight.backward()
    assert nll.grad.item() == 0.0


def test_the_centre_loss_and_the_scale_by_hand() -> None:
    """z = (3, 4) and log_det 1: NLL = 25/2 - 1 = 11.5, and a centre loss of 25."""
    z, log_det = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[1.0]]])
    for knobs, expected in (
        (LossKnobs(), 11.5),
        (LossKnobs(center_weight=0.05), 12.75),
        (LossKnobs(center_weight=0.05, nll_scale="per_dim"), 6.375),
        (LossKnobs(nll_scale="per_dim"), 5.75),
    ):
        value, plain = training_loss(z, log_det, knobs)
        assert value.item() == pytest.approx(expected)
        assert plain.item() == 11.5


@pytest.mark.parametrize("knobs", [{}, {"focal_gamma": 2.0}, {"center_weight": 0.05}, {"nll_scale": "per_dim"}])
def test_patch_sums_are_the_mean_over_images_of_the_sum_over_patches(knobs: dict[str, Any]) -> None:
    z, log_det = (tensor.detach().double() for tensor in _latents())
    nll = 0.5 * z.square().sum(-1) - log_det
    weight = 1 - torch.exp(-nll.clamp(0, 20))
    each = weight**2 * nll if "focal_gamma" in knobs else nll
    if "center_weight" in knobs:
        each = each + 0.05 * z.square().sum(-1)
    expected = sum(image.sum() for image in each) / 3 / (6 if "nll_scale" in knobs else 1)
    value, plain = training_loss(z, log_det, LossKnobs(patch_reduction="sum", **knobs))
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert plain.item() == pytest.approx(nll.mean().item(), rel=1e-12)
    mean, _ = training_loss(z, log_det, LossKnobs(**knobs))
    assert value.item() == pytest.approx(20 * mean.item(), rel=1e-12)


def test_the_constant_of_the_density_in_a_patch_sum_changes_no_gradient() -> None:
    """The notes' sum has D/2 log(2 pi) for each patch; ours leaves it out."""
    gradients = []
    for constant in (0.0, log_density_constant(6)):
        z, log_det = _latents()
        if constant:
            value = (0.5 * z.square().sum(-1) - log_det + constant).sum() / 3
        else:
            value, _ = training_loss(z, log_det, LossKnobs(patch_reduction="sum"))
        value.backward()
        gradients.append((z.grad, log_det.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("height", "width", "share", "count"),
    [(28, 28, 0.02, 15), (56, 56, 0.02, 62), (14, 14, 0.02, 3), (4, 5, 0.02, 1), (4, 5, 0.25, 5), (4, 5, 1.0, 20)],
)
def test_the_tail_is_the_mean_of_each_images_worst_patches(height: int, width: int, share: float, count: int) -> None:
    nll = torch.randn(3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    worst = [sorted(image.flatten().tolist())[-count:] for image in nll]
    expected = sum(sum(image) / count for image in worst) / 3
    assert tail_loss(nll, share).item() == pytest.approx(expected)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_tail_aware_loss_and_its_gradient_by_hand(weight: float) -> None:
    """Four patches an image, a share of 1/2: the worst two of (1, 5, 3, 2) and of (8, 0, 4, 6)."""
    log_det = (-torch.tensor([[[1.0, 5.0], [3.0, 2.0]], [[8.0, 0.0], [4.0, 6.0]]])).requires_grad_()
    z = torch.zeros(2, 2, 2, 4)
    loss = LossKnobs(tail_weight=weight, tail_share=0.5)
    value, plain = training_loss(z, log_det, loss)
    value.backward()
    assert plain.item() == pytest.approx(29 / 8)
    assert value.item() == pytest.approx((1 - weight) * 29 / 8 + weight * (4 + 7) / 2)
    in_tail = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(-log_det.grad, (1 - weight) / 8 + weight * in_tail / 4)


@pytest.mark.parametrize("image_mean", ["per_patch", "image_mean"])
def test_the_squared_log_determinant_is_each_patchs_own(image_mean: str) -> None:
    """log_det 1 and 3: the mean of their squares is 5, in both forms of the NLL's."""
    z, log_det = torch.zeros(1, 1, 2, 4), torch.tensor([[[1.0, 3.0]]])
    knobs = {"log_det": image_mean, "log_det_weight": 0.1}
    assert training_loss(z, log_det, LossKnobs(**knobs))[0].item() == pytest.approx(-2 + 0.5)


def test_per_dim_divides_the_nll_its_tail_and_the_squared_log_determinant() -> None:
    """D = 4. NLL -1 and 3, of which the worst is 3; squares 1 and 9."""
    z, log_det = torch.zeros(1, 1, 2, 4), torch.tensor([[[1.0, -3.0]]])
    for scale, divisor in (("sum", 1), ("per_dim", 4)):
        loss = LossKnobs(nll_scale=scale, tail_weight=0.7, tail_share=0.5, log_det_weight=0.01, center_weight=0.5)
        assert training_loss(z, log_det, loss)[0].item() == pytest.approx((0.3 * 1 + 0.7 * 3 + 0.01 * 5) / divisor)


def test_a_tail_weight_leaves_the_focal_weight_to_the_other_share() -> None:
    z, log_det = _latents()
    focal = LossKnobs(focal_gamma=2.0)
    both = focal.model_copy(update={"tail_weight": 0.4, "tail_share": 0.1})
    nll = patch_nll(z, log_det)
    expected = 0.6 * training_loss(z, log_det, focal)[0] + 0.4 * tail_loss(nll, 0.1)
    torch.testing.assert_close(training_loss(z, log_det, both)[0], expected)


def test_weights_of_0_are_the_plain_nll_to_the_last_bit() -> None:
    results = []
    for loss in (LossKnobs(), LossKnobs(tail_weight=0.0, tail_share=0.5, log_det_weight=0.0)):
        z, log_det = _latents()
        value, plain = training_loss(z, log_det, loss)
        value.backward()
        results.append((value.detach(), plain, z.grad, log_det.grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("scale", ["sum", "per_dim"])
def test_centre_loss_on_the_features_changes_the_loss_and_no_gradient(scale: str) -> None:
    features = 3 * torch.ones(3, 4, 5, 6)
    results = []
    for loss in (LossKnobs(nll_scale=scale), LossKnobs(nll_scale=scale, center_weight=0.05, center_on="features")):
        z, log_det = _latents()
        value, plain = training_loss(z, log_det, loss, features)
        value.backward()
        results.append((value.detach(), plain, z.grad, log_det.grad))
    (without, *same), (with_it, *also) = results
    torch.testing.assert_close(with_it - without, torch.tensor(0.05 * 9 * (6 if scale == "sum" else 1)))
    assert all(torch.equal(one, other) for one, other in zip(same, also, strict=True))


def test_the_constant_of_the_density() -> None:
    """log(2 pi) = 1.8378770664 for every two dimensions."""
    assert log_density_constant(2) == pytest.approx(1.8378770664)
    assert log_density_constant(6) == pytest.approx(5.5136311992)
