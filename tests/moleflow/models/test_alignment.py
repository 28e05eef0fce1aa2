"""DeCoFlow's alignment: start values, bounds and the formula."""

from __future__ import annotations

import math

import pytest
import torch

from moleflow.models.alignment import Alignment


def _features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=generator) + 1


def test_it_follows_its_formula_patch_by_patch() -> None:
    alignment = Alignment(6, False, 1.25).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in alignment.parameters():
        torch.nn.init.normal_(parameter, std=2.0, generator=generator)
    x = 0.01 * _features()  # Small: the epsilon of 1e-5 counts.
    y = alignment(x)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 4))).tolist():
        patch = x[tuple(place)].tolist()
        mean = sum(patch) / 6
        deviation = math.sqrt(sum((value - mean) ** 2 for value in patch) / 6 + 1e-5)
        for channel, value in enumerate(patch):
            raw_gamma, raw_beta = (p[channel].item() for p in (alignment.raw_gamma, alignment.raw_beta))
            expected = (0.5 + 1.5 / (1 + math.exp(-raw_gamma))) * (value - mean) / deviation + 2 * math.tanh(raw_beta)
            assert y[*place, channel].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "later", "raw", "gamma"),
    [
        (True, 1.25, -0.7, 0.5 + 1.5 / (1 + math.exp(0.7))),
        (True, 1.0, -0.7, 0.5 + 1.5 / (1 + math.exp(0.7))),
        (False, 1.25, 0.0, 1.25),
        (False, 1.0, -math.log(2), 1.0),
    ],
)
def test_it_starts_as_a_scaled_layer_norm(first: bool, later: float, raw: float, gamma: float) -> None:
    """On the first task gamma is 0.998; on others it is the value asked for."""
    alignment = Alignment(6, first, later)
    torch.testing.assert_close(alignment.raw_gamma, torch.full((6,), raw))
    x = _features().float()
    torch.testing.assert_close(alignment(x), gamma * torch.nn.functional.layer_norm(x, (6,)))
    if first:
        assert gamma == pytest.approx(0.998, abs=5e-4)


def test_scale_and_shift_are_bounded() -> None:
    alignment = Alignment(6, True, 1.25).double()
    x = _features()
    u = torch.nn.functional.layer_norm(x, (6,))
    for raw, gamma, beta in ((-1000.0, 0.5, -2.0), (1000.0, 2.0, 2.0)):
        with torch.no_grad():
            alignment.raw_gamma.fill_(raw)
            alignment.raw_beta.fill_(raw)
        torch.testing.assert_close(alignment(x), gamma * u + beta)


def test_a_task_learns_two_numbers_a_channel() -> None:
    assert {name: tuple(p.shape) for name, p in Alignment(6, True, 1.25).named_parameters()} == {
        "raw_gamma": (6,),
        "raw_beta": (6,),
    }
