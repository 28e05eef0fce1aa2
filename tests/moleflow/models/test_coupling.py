"""The block's forward pass and inverse have FrEIA's numbers, and autograd's gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.models.coupling import affine_coupling, inverse_coupling, positive_scale, scaled_permutation
from moleflow.models.flow import PatchBlock, random_rotation
from moleflow.settings.config import FlowKnobs

Freia = Callable[[PatchBlock], Any]


def _block(width: int, dtype: torch.dtype) -> PatchBlock:
    """A block whose parameters differ from their start values."""
    generator = torch.Generator().manual_seed(width)

    def subnet(inputs: int, outputs: int) -> torch.nn.Module:
        layer = torch.nn.Linear(inputs, outputs)
        torch.nn.init.normal_(layer.weight, std=5.0, generator=generator)
        torch.nn.init.normal_(layer.bias, generator=generator)
        return layer

    block = PatchBlock(width, FlowKnobs(clamp=1.3), subnet, random_rotation(width, generator)).to(dtype)
    with torch.no_grad():
        for name in ("global_scale", "global_offset"):
            block.block.get_parameter(name).add_(torch.randn(1, width, generator=generator))
    return block


def _images(width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 4, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("width", [6, 7, 96])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_a_block_has_the_numbers_of_freia(
    width: int, dtype: torch.dtype, tolerance: float, gradients: bool, freia_block: Freia
) -> None:
    ours, x = _block(width, dtype), _images(width, dtype)
    freia = freia_block(ours)
    with torch.set_grad_enabled(gradients):
        z, log_det = ours(x)
        (expected,), expected_log_det = freia([x.reshape(-1, width)])
        (x_again,), _ = freia([z.reshape(-1, width)], rev=True)
        inverse = ours.inverse(z)
    for value, reference in (
        (z.reshape(expected.shape), expected),
        (log_det.flatten(), expected_log_det),
        (inverse.reshape(x_again.shape), x_again),
    ):
        assert (value - reference).abs().max() <= tolerance * reference.abs().max()


def test_a_block_starts_as_an_identity_but_for_its_permutation() -> None:
    """FrEIA's scale starts at 1 after its softplus, and its offset at 0."""
    block = PatchBlock(6, FlowKnobs(), lambda *_: torch.nn.Linear(3, 6), torch.eye(6)).block
    torch.testing.assert_close(positive_scale(block.global_scale), torch.ones(1, 6))
    assert not block.global_offset.any()
    assert torch.equal(block.w_perm, torch.eye(6))


@pytest.mark.parametrize("frozen", [(), ("subnet",), ("subnet", "global")], ids=["all train", "scale trains", "frozen"])
def test_a_block_has_the_gradients_of_freia(frozen: tuple[str, ...], freia_block: Freia) -> None:
    ours, x = _block(7, torch.float64), _images(7, torch.float64).requires_grad_()
    freia = freia_block(ours)
    inputs: list[list[Tensor]] = []
    for block in (ours.block, freia):
        trained = {name: p for name, p in block.named_parameters() if not name.startswith(("w_perm", *frozen))}
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(name in trained)
        inputs.append([x, *trained.values()])
    generator = torch.Generator().manual_seed(2)
    z_weights, log_det_weights = (
        torch.randn(24, *rest, dtype=torch.float64, generator=generator) for rest in ((7,), ())
    )

    def loss(z: Tensor, log_det: Tensor) -> Tensor:
        return (z_weights * z.reshape(24, 7)).sum() + (log_det_weights * log_det.flatten()).sum()

    (z,), log_det = freia([x.reshape(-1, 7)])
    expected = torch.autograd.grad(loss(z, log_det), inputs[1])
    for gradient, reference in zip(torch.autograd.grad(loss(*ours(x)), inputs[0]), expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_the_coupling_by_hand() -> None:
    """With s_raw = 10 atanh(1/2), s = 2 * 1/2 = 1; with t_raw = 30, t = 3: y2 = 5 e + 3."""
    x1, x2 = torch.tensor([[7.0]]).double(), torch.tensor([[5.0]]).double()
    raw = torch.tensor([[10 * 0.5493061443340549, 30.0]]).double()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            y, log_det = affine_coupling(x1, x2, raw, 2.0)
        assert y.tolist() == [[7.0, pytest.approx(16.591409142295227)]]
        assert log_det.tolist() == [pytest.approx(1.0)]
    assert inverse_coupling(x1, y[:, 1:], raw, 2.0).tolist() == [[7.0, pytest.approx(5.0)]]


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x1, x2, raw, y = (
        torch.randn(5, width, dtype=torch.float64, generator=generator).requires_grad_() for width in (4, 3, 6, 7)
    )
    scale = (0.5 + torch.rand(7, dtype=torch.float64, generator=generator)).requires_grad_()
    offset = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: affine_coupling(*given, 1.9), (x1, x2, 5 * raw))
    rotation = random_rotation(7, generator)
    assert torch.autograd.gradcheck(lambda *given: scaled_permutation(*given, rotation), (y, scale, offset))
