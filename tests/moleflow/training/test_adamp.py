"""AdamP takes the steps of timm's."""

from __future__ import annotations

import pytest
import torch

from moleflow.features.timm_import import import_timm
from moleflow.training.adamp import AdamP

SHAPES = {"matrix": (6, 9), "row": (1, 7), "grid": (2, 2, 3, 4), "vector": (5,), "number": (1,), "zero": (4, 3)}


def _parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES.values()]
    with torch.no_grad():
        made[-1].zero_()  # As B of an expert at its start.
    return made


def _gradient(parameter: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """A gradient that is orthogonal to each row of the weights, to the whole, or to nothing."""
    drawn = torch.randn(parameter.shape, generator=generator)
    if kind == "any" or parameter.dim() == 1:
        return drawn + 0.5 * parameter
    rows, weights = drawn.flatten(1).double(), parameter.detach().flatten(1).double()
    if kind == "rows":
        rows -= weights * (rows * weights).sum(1, keepdim=True) / weights.square().sum(1, keepdim=True).clamp_min(1e-9)
    else:
        rows[0] += 3 * weights[0]
        rows -= weights * (rows * weights).sum() / weights.square().sum().clamp_min(1e-9)
    return rows.float().reshape(parameter.shape)


@pytest.mark.parametrize("kind", ["any", "rows", "whole"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_those_of_timm(kind: str, weight_decay: float) -> None:
    import_timm()
    from timm.optim.adamp import AdamP as Theirs

    ours, theirs = _parameters(), _parameters()
    optimizers = AdamP(ours, lr=0.01, weight_decay=weight_decay), Theirs(theirs, lr=0.01, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for mine, its in zip(ours, theirs, strict=True):
            its.grad = _gradient(its, kind, generator)
            mine.grad = its.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for mine, its in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    assert optimizers[0].state[ours[0]].keys() == optimizers[1].state[theirs[0]].keys()


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    ours = _parameters()
    before = [p.detach().clone() for p in ours]
    optimizer = AdamP(ours, lr=0.1, weight_decay=0.1)
    ours[0].grad = torch.ones(SHAPES["matrix"])
    optimizer.step()
    assert [torch.equal(p, old) for p, old in zip(ours, before, strict=True)] == [False] + 5 * [True]
