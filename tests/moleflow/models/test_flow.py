"""The flow is a flow: invertible, with the log-determinant that autograd finds, and reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moleflow.config import Flow as FlowConfig
from moleflow.config import Lora
from moleflow.models.flow import Flow, rotation


def _flow(permutation: str, dtype: torch.dtype, seed: int = 0) -> Flow:
    generator = torch.Generator().manual_seed(seed)
    flow = Flow(10, FlowConfig(blocks=4, permutation=permutation), generator, dtype)
    flow.add_expert(0, Lora(rank=3), generator)
    flow.to(dtype).select(0)
    for layer in flow.layers():  # A new expert changes nothing; a trained one does.
        torch.nn.init.normal_(layer.experts["0"].b, generator=generator)
    return flow.requires_grad_(False)


@pytest.mark.parametrize("permutation", ["soft", "hard"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_inverse_gives_the_input_back(permutation: str, dtype: torch.dtype, tolerance: float) -> None:
    flow = _flow(permutation, dtype)
    x = 3 * torch.randn(64, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    z, _ = flow(x)
    assert (flow.inverse(z) - x).abs().max() < tolerance


@pytest.mark.parametrize("permutation", ["soft", "hard"])
def test_log_det_is_that_of_the_autograd_jacobian(permutation: str) -> None:
    flow = _flow(permutation, torch.float64)
    x = 3 * torch.randn(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, log_det = flow(x)
    for patch, value in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda p: flow(p[None])[0][0], patch)
        torch.testing.assert_close(value, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-5, atol=1e-9)


def test_one_patch_does_not_see_another() -> None:
    flow = _flow("soft", torch.float64)
    x = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[3] += 1
    same = [0, 1, 2, 4]
    assert torch.equal(flow(x)[0][same], flow(changed)[0][same])
    assert torch.equal(flow(x)[1][same], flow(changed)[1][same])


def test_seed_alone_decides_and_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (_flow("soft", torch.float32, seed).state_dict() for seed in (7, 7, 8))
    assert torch.equal(before_torch, torch.get_rng_state())
    assert np.array_equal(before_numpy, np.random.get_state()[1])
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["blocks.0.w_perm"], other["blocks.0.w_perm"])


def test_rotation_is_one_and_uniform_in_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        q = rotation(7, generator)
        torch.testing.assert_close(q @ q.T, torch.eye(7, dtype=torch.float64))
        assert torch.linalg.det(q) > 0


def test_expert_is_used_only_when_selected_and_starts_as_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    flow = Flow(8, FlowConfig(blocks=2), generator)
    x = torch.randn(4, 8, generator=generator)
    bare, _ = flow(x)
    flow.add_expert(1, Lora(rank=2), generator)
    flow.select(1)
    assert torch.equal(flow(x)[0], bare)
    for layer in flow.layers():
        torch.nn.init.ones_(layer.experts["1"].b)
    assert not torch.equal(flow(x)[0], bare)
    flow.select(0)
    assert torch.equal(flow(x)[0], bare)
