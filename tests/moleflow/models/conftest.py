"""FrEIA's own block, as the reference for ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from FrEIA.modules import AllInOneBlock

from moleflow.models.flow import PatchBlock


def _freia_block(ours: PatchBlock) -> AllInOneBlock:
    parameters = ours.block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = AllInOneBlock(
            [(sum(ours.block.splits),)],
            subnet_constructor=lambda *_: parameters.subnet,
            affine_clamping=ours.block.clamp,
            global_affine_type="SOFTPLUS",
        ).to(parameters.w_perm.dtype)
    with torch.no_grad():
        for name in ("global_scale", "global_offset", "w_perm", "w_perm_inv"):
            block.get_parameter(name).copy_(parameters.get_parameter(name))
    return block


@pytest.fixture(scope="session")
def freia_block() -> Callable[[PatchBlock], AllInOneBlock]:
    """Build FrEIA's block with the parameters of one of ours; they share the subnet."""
    return _freia_block
