"""DeCoFlow's auxiliary couplings: start, formula, inverse, log-determinant and task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.models.auxiliary_couplings import AuxiliaryCouplings
from moleflow.models.flow import Flow
from moleflow.settings.config import AuxiliaryKnobs, FlowKnobs, LoraKnobs


def _couplings(width: int, seed: int = 0, **knobs: Any) -> AuxiliaryCouplings:
    """Couplings whose parameters differ from their start values."""
    generator = torch.Generator().manual_seed(seed)
    made = AuxiliaryCouplings(width, AuxiliaryKnobs(**knobs), generator).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return made.requires_grad_(False)


def _image(width: int) -> Tensor:
    return torch.randn(2, 3, 2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _network(network: Any, x: Tensor) -> Tensor:
    """W3 relu(W2 relu(W1 x + b1) + b2) + b3 of one vector."""
    for layer in network[:-1:2]:
        x = (layer.weight @ x + layer.bias).clamp_min(0)
    return network[-1].weight @ x + network[-1].bias


def test_they_start_as_the_identity() -> None:
    made = AuxiliaryCouplings(7, AuxiliaryKnobs(couplings=3), torch.Generator().manual_seed(0)).double()
    z, log_det = made(_image(7))
    assert torch.equal(z, _image(7))
    assert not log_det.any()
    first = made.layers[0].scale[0].weight
    assert first.any(), "only the last layers are zero"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("width", [6, 7])
def test_they_follow_their_formula_patch_by_patch(width: int, count: int) -> None:
    made, images = _couplings(width, couplings=count, limit=0.7), _image(width)
    z, log_det = made(images)
    half = width - width // 2
    for place in torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 2))).tolist():
        first, second = images[tuple(place)].split([half, width - half])
        total = torch.zeros((), dtype=torch.float64)
        for number, layer in enumerate(made.layers):
            passive, active = (first, second) if number % 2 == 0 else (second, first)
            s = 0.7 * torch.tanh(_network(layer.scale, passive) / 0.7)
            active = active * torch.exp(s) + _network(layer.shift, passive)
            first, second = (passive, active) if number % 2 == 0 else (active, passive)
            total += s.sum()
        torch.testing.assert_close(z[tuple(place)], torch.cat([first, second]))
        torch.testing.assert_close(log_det[tuple(place)], total)


@pytest.mark.parametrize("share", [0.25, 0.5, 2.0])
def test_networks_have_the_hidden_width_that_is_asked_for(share: float) -> None:
    made = AuxiliaryCouplings(9, AuxiliaryKnobs(couplings=2, hidden_share=share), torch.Generator())
    hidden = {0.25: 2, 0.5: 4, 2.0: 18}[share]
    shapes = [[tuple(part.weight.shape) for part in layer.shift[::2]] for layer in made.layers]
    assert shapes == [[(hidden, 5), (hidden, hidden), (4, hidden)], [(hidden, 4), (hidden, hidden), (5, hidden)]]


def _whole(**knobs: Any) -> Flow:
    """A flow of separate networks with context and auxiliary couplings, all away from the start."""
    generator = torch.Generator().manual_seed(0)
    flow = Flow(6, FlowKnobs(blocks=2, subnets="separate", permutation="hard", **knobs), generator, torch.float64)
    flow.add_expert(0, LoraKnobs(rank=2), generator)
    flow.add_auxiliary(0, AuxiliaryKnobs(couplings=3), generator)
    flow.double().select(0)
    for name, parameter in flow.named_parameters():
        if not name.endswith("w_perm"):
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return flow.requires_grad_(False)


@pytest.mark.parametrize("scale_context", [None, 3])
def test_the_flows_inverse_and_log_det_include_them(scale_context: int | None) -> None:
    flow, images = _whole(scale_context=scale_context), _image(6)
    z, log_det = flow(images)
    torch.testing.assert_close(flow.inverse(z), images, rtol=1e-9, atol=1e-9)
    for image, patches in zip(images, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x[None])[0][0], image)
        expected = torch.linalg.slogdet(jacobian.reshape(image.numel(), image.numel())).logabsdet
        torch.testing.assert_close(patches.sum(), expected, rtol=1e-6, atol=1e-9)


def test_a_task_uses_its_own_and_another_none() -> None:
    flow, images = _whole(), _image(6)
    with_them, _ = flow(images)
    flow.select(1)
    without, _ = flow(images)
    torch.testing.assert_close(flow.inverse(without), images, rtol=1e-9, atol=1e-9)
    flow.add_auxiliary(1, AuxiliaryKnobs(couplings=2), torch.Generator().manual_seed(3))
    flow.select(1)
    assert torch.equal(flow(images)[0], without), "new ones start as the identity"
    flow.select(0)
    assert torch.equal(flow(images)[0], with_them)
    assert not torch.equal(with_them, without)


def test_the_limit_bounds_every_log_scale() -> None:
    made = _couplings(6, couplings=1, limit=0.1)
    _, log_det = made(100 * _image(6))
    assert log_det.abs().max() <= 3 * 0.1
