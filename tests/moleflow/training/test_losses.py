"""NLL, focal weights and centre loss: exact where they are off, finite everywhere, the notes' formula where they are on."""

from __future__ import annotations

import math

import pytest
import torch

from moleflow.settings.config import LossKnobs
from moleflow.training.losses import focal_weight, log_density_constant, patch_nll, training_loss

FORMS = ["joint", "per_dim", "relative"]


def _latents(scale: float = 1.0, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = (scale * torch.randn(3, 4, 5, 6, generator=generator)).requires_grad_()
    log_det = (torch.randn(3, 4, 5, generator=generator) + shift).requires_grad_()
    return z, log_det


def test_score_is_the_negative_log_of_a_standard_normal_density() -> None:
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


def test_joint_form_is_the_notes_formula_where_the_nll_is_positive() -> None:
    z, log_det = _latents(scale=3.0)
    nll = patch_nll(z, log_det)
    assert nll.min() > 0
    expected = ((1 - torch.exp(-nll.clamp(max=20))) ** 2 * nll).mean()
    torch.testing.assert_close(training_loss(z, log_det, LossKnobs(focal_gamma=2.0))[0], expected)


def test_joint_form_stops_training_where_the_nll_is_not_positive() -> None:
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


@pytest.mark.parametrize("form", FORMS)
def test_harder_patches_weigh_more(form: str) -> None:
    nll = torch.linspace(0.1, 19.0, 20).reshape(1, 4, 5)
    weight = focal_weight(nll, 6, LossKnobs(focal_gamma=2.0, focal_form=form)).flatten()
    assert (weight[1:] >= weight[:-1]).all()
    assert weight[-1] > weight[0]


def test_relative_form_knows_no_scale() -> None:
    nll = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    loss = LossKnobs(focal_gamma=2.0, focal_form="relative")
    torch.testing.assert_close(
        focal_weight(nll, 6, loss), focal_weight(1000 * nll - 700, 6, loss), rtol=1e-3, atol=1e-4
    )


def test_detached_weight_passes_no_gradient() -> None:
    z, log_det = _latents(scale=3.0)
    nll = patch_nll(z, log_det)
    weight = focal_weight(nll, 6, LossKnobs(focal_gamma=2.0, focal_detach=True))
    training_loss(z, log_det, LossKnobs(focal_gamma=2.0, focal_detach=True))[0].backward()
    torch.testing.assert_close(log_det.grad, -weight / nll.numel())


def test_centre_loss_and_scale() -> None:
    z, log_det = _latents()
    plain = patch_nll(z, log_det).mean()
    expected = plain + 0.05 * z.square().sum(-1).mean()
    torch.testing.assert_close(training_loss(z, log_det, LossKnobs(center_weight=0.05))[0], expected)
    torch.testing.assert_close(
        training_loss(z, log_det, LossKnobs(center_weight=0.05, nll_scale="per_dim"))[0], expected / 6
    )


@pytest.mark.parametrize("scale", ["sum", "per_dim"])
def test_centre_loss_on_the_features_changes_the_loss_and_no_gradient(scale: str) -> None:
    features = 3 * torch.ones(3, 4, 5, 6)
    found = []
    for loss in (LossKnobs(nll_scale=scale), LossKnobs(nll_scale=scale, center_weight=0.05, center_on="features")):
        z, log_det = _latents()
        value, plain = training_loss(z, log_det, loss, features)
        value.backward()
        found.append((value.detach(), plain, z.grad, log_det.grad))
    (without, *same), (with_it, *also) = found
    torch.testing.assert_close(with_it - without, torch.tensor(0.05 * 9 * (6 if scale == "sum" else 1)))
    assert all(torch.equal(one, other) for one, other in zip(same, also, strict=True))


def test_constant_of_the_density() -> None:
    assert log_density_constant(2) == pytest.approx(math.log(2 * math.pi))
