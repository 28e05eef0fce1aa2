"""DeCoFlow's coupling block against loops over patches, and against FrEIA's block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.models.flow import Flow, PatchBlock
from moleflow.models.lora import LoRALinear
from moleflow.models.separate_coupling import DepthwiseContext, SeparateBlock
from moleflow.settings.config import FlowKnobs, LoraKnobs

HEIGHT, WIDTH = 3, 4


def _flow(width: int, **knobs: Any) -> Flow:
    """One block with an expert, whose parameters differ from their start values."""
    generator = torch.Generator().manual_seed(width)
    flow = Flow(width, FlowKnobs(blocks=1, subnets="separate", **knobs), generator, torch.float64)
    flow.add_expert(1, LoraKnobs(rank=2, alpha=3.0, scaling="alpha/rank"), generator)
    flow.double().select(1)
    for name, parameter in flow.named_parameters():
        if not name.endswith("w_perm"):
            torch.nn.init.normal_(parameter, generator=generator)
    return flow.requires_grad_(False)


def _block(flow: Flow) -> SeparateBlock:
    (block,) = flow.blocks
    assert isinstance(block, SeparateBlock)
    return block


def _image(width: int) -> Tensor:
    return torch.randn(2, HEIGHT, WIDTH, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _linear(layer: LoRALinear, x: Tensor) -> Tensor:
    """W x + (alpha / r) B A x + bias + task bias, of one vector, with alpha 3 and r 2."""
    expert = layer.experts["1"]
    return layer.base.weight @ x + 1.5 * (expert.b @ (expert.a @ x)) + layer.base.bias + expert.bias


def _network(network: Any, x: Tensor) -> Tensor:
    return _linear(network[2], _linear(network[0], x).clamp_min(0))


def _context(block: SeparateBlock, x1: Tensor, row: int, column: int) -> Tensor:
    """alpha (bias + sum over the window of weight * x1) at a patch of an image (H, W, D1)."""
    context = block.context
    assert context is not None
    kernel = context.weight.shape[-1]
    total = context.bias.clone()
    for down in range(kernel):
        for across in range(kernel):
            y, z = row + down - kernel // 2, column + across - kernel // 2
            if 0 <= y < HEIGHT and 0 <= z < WIDTH:
                total += context.weight[:, 0, down, across] * x1[y, z]
    return 0.2 / (1 + math.exp(-context.raw_alpha.item())) * total


@pytest.mark.parametrize("scale_context", [None, 3, 5])
@pytest.mark.parametrize("permutation", ["hard", "soft"])
@pytest.mark.parametrize("width", [6, 7])
def test_a_block_follows_its_formulas_patch_by_patch(width: int, permutation: str, scale_context: int | None) -> None:
    flow = _flow(width, clamp=1.3, permutation=permutation, scale_context=scale_context)
    block, images = _block(flow), _image(width)
    z, log_det = flow(images)
    half = width - width // 2
    # FrEIA's softplus with beta 1/2, times 0.1.
    scale = 0.1 * 2 * torch.log1p(torch.exp(0.5 * block.global_scale))
    for image, z_of_image, log_det_of_image in zip(images, z, log_det, strict=True):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                x1, x2 = image[row, column, :half], image[row, column, half:]
                seen = [x1] if scale_context is None else [x1, _context(block, image[..., :half], row, column)]
                s = 1.3 * torch.tanh(0.1 * _network(block.scale, torch.cat(seen)))
                y = torch.cat([x1, x2 * torch.exp(s) + 0.1 * _network(block.shift, x1)])
                torch.testing.assert_close(z_of_image[row, column], block.w_perm @ (scale * y + block.global_offset))
                torch.testing.assert_close(log_det_of_image[row, column], s.sum() + scale.log().sum())


def test_a_hard_permutation_reorders_channels_and_the_global_map_starts_as_the_identity() -> None:
    flow = Flow(8, FlowKnobs(blocks=1, subnets="separate", permutation="hard"), torch.Generator().manual_seed(0))
    block, x = _block(flow), _image(8).float()
    assert set(block.w_perm.unique().tolist()) == {0.0, 1.0}
    assert sorted(block.w_perm.argmax(dim=1).tolist()) == list(range(8))
    z, _ = flow(x)
    unchanged = block.w_perm.argmax(dim=1) < 4  # Places of the passive half.
    torch.testing.assert_close(z[..., unchanged], x[..., block.w_perm.argmax(dim=1)[unchanged]])


def test_with_one_network_for_both_it_is_freias_block(freia_block: Callable[[PatchBlock], Any]) -> None:
    """The rows of FrEIA's last layer split into those of the scale's and of the shift's network."""
    generator = torch.Generator().manual_seed(0)
    joint = Flow(6, FlowKnobs(blocks=1, clamp=1.3), generator, torch.float64).requires_grad_(False)
    separate = Flow(6, FlowKnobs(blocks=1, clamp=1.3, subnets="separate"), generator, torch.float64)
    (patch_block,), block = joint.blocks, _block(separate.requires_grad_(False))
    assert isinstance(patch_block, PatchBlock)
    first, _, last = patch_block.block.subnet
    for network, rows in ((block.scale, slice(0, 3)), (block.shift, slice(3, 6))):
        network[0].base.load_state_dict(first.base.state_dict())
        network[2].base.weight.copy_(last.base.weight[rows])
        network[2].base.bias.copy_(last.base.bias[rows])
    block.w_perm.copy_(patch_block.block.w_perm)
    x = _image(6)
    z, log_det = separate(x)
    (expected,), expected_log_det = freia_block(patch_block)([x.reshape(-1, 6)])
    torch.testing.assert_close(z.reshape(-1, 6), expected)
    torch.testing.assert_close(log_det.flatten(), expected_log_det)


def test_the_context_is_seen_by_the_scale_alone() -> None:
    """Only x1 of a neighbour changes a patch, and only its stretch: with x2 = 0 nothing does."""
    flow = _flow(6, scale_context=3, permutation="hard")
    x = _image(6)
    z, log_det = flow(x)
    active, passive = x.clone(), x.clone()
    active[0, 0, 1, 3:] += 1
    passive[0, 0, 1, :3] += 1
    here = (0, 0, 0)
    assert torch.equal(flow(active)[1][here], log_det[here])
    assert torch.equal(flow(active)[0][here], z[here])
    assert flow(passive)[1][here] != log_det[here]
    for images in (x, passive):
        images[0, 0, 0, 3:] = 0
    torch.testing.assert_close(flow(passive)[0][here], flow(x)[0][here])


def test_the_context_starts_at_zero_and_its_weights_learn_at_once() -> None:
    """alpha starts at 0.1; its own gradient is zero until the convolution has an effect."""
    generator = torch.Generator().manual_seed(0)
    with_it = Flow(6, FlowKnobs(blocks=1, subnets="separate", scale_context=5), generator)
    context = _block(with_it).context
    assert isinstance(context, DepthwiseContext)
    x = _image(6).float()
    assert not context(x[..., :3]).any()
    assert (0.2 * torch.sigmoid(context.raw_alpha)).item() == pytest.approx(0.1)
    z, log_det = with_it(x)
    (z.square().sum() - log_det.sum()).backward()
    assert context.weight.grad is not None
    assert context.weight.grad.any()
    assert context.raw_alpha.grad is not None
    assert not context.raw_alpha.grad.any()


@pytest.mark.parametrize(("scale_context", "inputs"), [(None, 5), (3, 10)])
def test_hidden_layers_are_a_multiple_of_the_passive_half(scale_context: int | None, inputs: int) -> None:
    """At D = 9 the passive half is 5 wide and the other 4; the scale's network sees 5 or 10."""
    flow = Flow(9, FlowKnobs(blocks=1, subnets="separate", scale_context=scale_context), torch.Generator())
    shapes = [tuple(layer.base.weight.shape) for layer in flow.layers()]
    assert shapes == [(10, inputs), (4, 10), (10, 5), (4, 10)]


def test_gradients_are_those_of_finite_differences() -> None:
    flow = _flow(4, scale_context=3)
    x = _image(4)[:1, :2, :2].clone().requires_grad_()
    parameters = [p.requires_grad_() for name, p in flow.named_parameters() if not name.endswith("w_perm")]

    def mapped(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        z, log_det = flow(x)
        return z, log_det

    assert torch.autograd.gradcheck(mapped, (x, *parameters))
