"""AdamP takes the steps of timm's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch

from moleflow.features.timm_import import import_timm
from moleflow.training import adamp
from moleflow.training.adamp import AdamP

SHAPES = {"matrix": (6, 9), "row": (1, 7), "grid": (2, 2, 3, 4), "vector": (5,), "number": (1,), "zero": (4, 3)}
# Several of one shape, as the layers of a flow are; one larger than torch's units of work.
MORE = [*SHAPES.values(), (6, 9), (6, 9), (4, 3), (3, 4), (33, 97), (33, 97), (192, 384), (384, 192)]


def _parameters(shapes: Iterable[tuple[int, ...]] = tuple(SHAPES.values())) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    with torch.no_grad():
        made[5].zero_()  # As B of an expert at its start.
    return made


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """AdamP on the CPU takes the path of a GPU, which a test machine need not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adamp, "project_by_host", adamp.project_on_device)
        yield


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


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_path_of_a_gpu_has_the_digits_of_that_of_a_cpu(weight_decay: float) -> None:
    """Any of them with gradients of any kind or none at all."""
    ours, theirs = _parameters(MORE), _parameters(MORE)
    optimizers = [AdamP(of, lr=0.01, weight_decay=weight_decay) for of in (ours, theirs)]
    generator = torch.Generator().manual_seed(2)
    drawn = set()
    for _ in range(25):
        for n, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            kind = ["any", "rows", "whole", "none"][int(torch.randint(4, (), generator=generator))]
            drawn.add((n, kind))
            its.grad = None if kind == "none" else _gradient(its, kind, generator)
            mine.grad = None if its.grad is None else its.grad.clone()
        optimizers[0].step()
        with as_on_a_gpu():
            optimizers[1].step()
        assert all(map(torch.equal, ours, theirs))
    assert len(drawn) == 4 * len(MORE)


def test_the_path_of_a_gpu_reads_nothing_from_the_device() -> None:
    """A meta tensor has a shape and no numbers: reading one is an error."""
    parameters = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in MORE]
    optimizer = AdamP(parameters, lr=0.01, weight_decay=0.3)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adamp, "project_on_device", adamp.project_by_host)
        with pytest.raises(NotImplementedError, match="meta tensor"):
            optimizer.step()
