"""The block's own way forward: FrEIA's numbers and autograd's gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moleflow.models.coupling import affine_coupling, scaled_permutation
from moleflow.models.flow import PatchBlock, random_rotation
from moleflow.settings.config import FlowKnobs as FlowConfig


def _block(width: int, dtype: torch.dtype) -> PatchBlock:
    """A block whose parameters are anything but their start values."""
    generator = torch.Generator().manual_seed(width)

    def subnet(inputs: int, outputs: int) -> torch.nn.Module:
        layer = torch.nn.Linear(inputs, outputs)
        torch.nn.init.normal_(layer.weight, std=5.0, generator=generator)
        torch.nn.init.normal_(layer.bias, generator=generator)
        return layer

    made = PatchBlock(width, FlowConfig(clamp=1.3), subnet, random_rotation(width, generator)).to(dtype)
    with torch.no_grad():
        for name in ("global_scale", "global_offset"):
            made.block.get_parameter(name).add_(torch.randn(1, width, generator=generator))
    return made


def _images(width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 4, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", [6, 7, 96])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_a_block_gives_freia_s_own_numbers(width: int, dtype: torch.dtype, tolerance: float) -> None:
    made, x = _block(width, dtype), _images(width, dtype)
    (z,), log_det = made.block([x.reshape(-1, width)])
    found, found_log_det = made(x)
    for one, other in ((found.reshape(z.shape), z), (found_log_det.flatten(), log_det)):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("frozen", [(), ("subnet",), ("subnet", "global")], ids=["all train", "scale trains", "frozen"])
def test_a_block_gives_freia_s_own_gradients(frozen: tuple[str, ...]) -> None:
    made, x = _block(7, torch.float64), _images(7, torch.float64).requires_grad_()
    for name, parameter in made.block.named_parameters():
        parameter.requires_grad_(not name.startswith(("w_perm", *frozen)))
    inputs = [x, *(p for p in made.parameters() if p.requires_grad)]
    generator = torch.Generator().manual_seed(2)
    of_z, of_log_det = (torch.randn(24, *rest, dtype=torch.float64, generator=generator) for rest in ((7,), ()))

    def loss(z: Tensor, log_det: Tensor) -> Tensor:
        return (of_z * z.reshape(24, 7)).sum() + (of_log_det * log_det.flatten()).sum()

    (z,), log_det = made.block([x.reshape(-1, 7)])
    expected = torch.autograd.grad(loss(z, log_det), inputs)
    for one, other in zip(torch.autograd.grad(loss(*made(x)), inputs), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x1, x2, raw, y = (
        torch.randn(5, width, dtype=torch.float64, generator=generator).requires_grad_() for width in (4, 3, 6, 7)
    )
    scale = (0.5 + torch.rand(7, dtype=torch.float64, generator=generator)).requires_grad_()
    offset = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: affine_coupling(*given, 1.9), (x1, x2, 5 * raw))
    turned = random_rotation(7, generator)
    assert torch.autograd.gradcheck(lambda *given: scaled_permutation(*given, turned), (y, scale, offset))
