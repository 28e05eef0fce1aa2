"""CPCF's parts against plain loops and FrEIA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.models.cross_patch import AttentionContext, ConvContext, CrossPatchBlock, MeanContext
from moleflow.models.flow import PatchBlock, random_rotation
from moleflow.settings.config import FlowKnobs

SIZES = {"height": st.integers(1, 6), "width": st.integers(1, 6), "kernel": st.sampled_from([1, 3, 5, 7])}


def _image(height: int, width: int, channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, height, width, channels, dtype=torch.float64, generator=generator)


def _window(x: torch.Tensor, row: int, column: int, kernel: int) -> torch.Tensor:
    """The patches (B, n, C) of a window that lie inside the image."""
    half = kernel // 2
    rows, columns = (slice(max(0, centre - half), centre + half + 1) for centre in (row, column))
    return x[:, rows, columns].flatten(1, 2)


@settings(max_examples=40, deadline=None)
@given(**SIZES, gate=st.sampled_from([0.0, 0.3, 1.0]))
def test_mean_context_is_the_mean_of_the_patches_inside_the_image(
    height: int, width: int, kernel: int, gate: float
) -> None:
    x = _image(height, width, 3)
    context = MeanContext(kernel, gate)(x)
    for row in range(height):
        for column in range(width):
            expected = (1 - gate) * x[:, row, column] + gate * _window(x, row, column, kernel).mean(dim=1)
            torch.testing.assert_close(context[:, row, column], expected)


def test_mean_context_leaves_a_uniform_image_unchanged_up_to_its_border() -> None:
    uniform = torch.full((1, 4, 5, 2), 7.0)
    torch.testing.assert_close(MeanContext(3, 0.3)(uniform), uniform)
    assert not list(MeanContext(3, 0.3).parameters())


@settings(max_examples=15, deadline=None)
@given(**SIZES)
def test_attention_context_attends_to_the_patches_inside_the_image(height: int, width: int, kernel: int) -> None:
    x = 2 * _image(height, width, 3)
    context = AttentionContext(3, kernel, torch.Generator().manual_seed(1)).double().requires_grad_(False)
    attended = context(x)
    for row in range(height):
        for column in range(width):
            around = _window(x, row, column, kernel)
            logits = (around @ context.key.T) @ (context.query @ x[:, row, column, :, None]) / math.sqrt(3)
            expected = (torch.softmax(logits, dim=1) * (around @ context.value.T)).sum(dim=1)
            torch.testing.assert_close(attended[:, row, column], expected)


def test_conv_context_is_a_weighted_sum_over_the_window() -> None:
    x = _image(3, 4, 2)
    context = ConvContext(2, 3, torch.Generator().manual_seed(1)).double().requires_grad_(False)
    torch.nn.init.ones_(context.bias)
    expected = torch.ones_like(x)
    for row, column, down, across in torch.cartesian_prod(*(torch.arange(n) for n in (3, 4, 3, 3))).tolist():
        y, z = row + down - 1, column + across - 1
        if 0 <= y < 3 and 0 <= z < 4:
            expected[:, row, column] += x[:, y, z] @ context.weight[:, :, down, across].T
    torch.testing.assert_close(context(x), expected)


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_a_block_that_ignores_its_context_has_the_numbers_of_freia(
    width: int, size: float, freia_block: Callable[[PatchBlock], Any]
) -> None:
    """Large coefficients reach the clamping."""
    generator = torch.Generator().manual_seed(0)
    passive, active = width - width // 2, width // 2
    weight = size * torch.randn(2 * active, passive, dtype=torch.float64, generator=generator)

    def subnet(inputs: int, outputs: int) -> torch.nn.Module:
        layer = torch.nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.zero_()[:, :passive] = weight
            layer.bias.copy_(torch.arange(outputs))
        return layer

    config = FlowKnobs(clamp=1.3, context="mean")
    rotation = random_rotation(width, generator)
    ours = CrossPatchBlock(width, config, subnet, rotation, generator).double().requires_grad_(False)
    freia = freia_block(PatchBlock(width, config, subnet, rotation)).requires_grad_(False)
    for mine, its in ((ours.global_scale, "global_scale"), (ours.global_offset, "global_offset")):
        other = freia.get_parameter(its)
        torch.testing.assert_close(mine, other.flatten(), rtol=1e-6, atol=0, check_dtype=False)  # Start values.
        mine.copy_(torch.randn(width, dtype=torch.float64, generator=generator))
        other.copy_(mine.reshape(other.shape))
    x = _image(3, 4, width)
    z, log_det = ours(x)
    (expected,), expected_log_det = freia([x.reshape(-1, width)])
    torch.testing.assert_close(z.reshape(expected.shape), expected)
    torch.testing.assert_close(log_det.flatten(), expected_log_det)
    (expected,), _ = freia([x.reshape(-1, width)], rev=True)
    torch.testing.assert_close(ours.inverse(x).reshape(expected.shape), expected)
