"""Every coupling and version is invertible, reproducible, and has autograd's log-determinant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moleflow.models.flow import Flow, random_rotation
from moleflow.settings.config import FlowKnobs, LoraKnobs
from moleflow.settings.knobs import resolve, version_layer, version_names

SHAPE = (3, 4, 6)
COUPLINGS = {
    "soft": FlowKnobs(blocks=3),
    "hard": FlowKnobs(blocks=3, permutation="hard"),
    **{f"cpcf-{context}": FlowKnobs(blocks=3, cpcf=True, context=context) for context in ("conv", "attention", "mean")},
    "cpcf-kernel-5": FlowKnobs(blocks=3, cpcf=True, context="mean", context_kernel=5),
    "separate": FlowKnobs(blocks=3, subnets="separate", permutation="hard"),
    **{
        f"separate-context-{kernel}": FlowKnobs(blocks=3, subnets="separate", scale_context=kernel)
        for kernel in (3, 5, 7)
    },
}
LORAS = {"plain": LoraKnobs(rank=3), "spatial": LoraKnobs(rank=3, spatial=True, grid_size=2)}
CASES = {f"{c}-{name}": (flow, lora) for c, flow in COUPLINGS.items() for name, lora in LORAS.items()}
for version in version_names():
    whole = resolve([version_layer(version, "test")])
    CASES[version] = (
        whole.flow.model_copy(update={"blocks": 3}),
        whole.lora.model_copy(update={"rank": 3, "grid_size": 2}),
    )


def _flow(flow: FlowKnobs, lora: LoraKnobs, dtype: torch.dtype, seed: int = 0, width: int = SHAPE[2]) -> Flow:
    """A flow whose expert has an effect, as a trained one would."""
    generator = torch.Generator().manual_seed(seed)
    made = Flow(width, flow, generator, dtype)
    made.add_expert(0, lora, generator)
    made.to(dtype).select(0)
    for layer in made.layers():
        torch.nn.init.normal_(layer.experts["0"].b, generator=generator)
    for name, parameter in made.named_parameters():
        if ".context." in name and not parameter.any():  # A start without effect.
            torch.nn.init.normal_(parameter, generator=generator)
    return made.requires_grad_(False)


def _images(count: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(count, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _map_log_det(flow: Flow, image: torch.Tensor) -> torch.Tensor:
    """log|det| of the autograd Jacobian of the whole map of one image (H, W, D)."""
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x[None])[0][0], image)
    return torch.linalg.slogdet(jacobian.reshape(image.numel(), image.numel())).logabsdet


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_the_inverse_returns_the_input(case: str, dtype: torch.dtype, tolerance: float) -> None:
    flow = _flow(*CASES[case], dtype)
    x = _images(4, dtype)
    z, _ = flow(x)
    assert (flow.inverse(z) - x).abs().max() < tolerance


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_inverse_at_the_published_depth_and_rank_on_standardised_features(
    case: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Scales 1 and 3 of the input: at 10, float32 has no inverse any more, as `Flow` says."""
    config, lora = CASES[case]
    deep = config.model_copy(update={"blocks": 8})
    flow = _flow(deep, lora.model_copy(update={"rank": 32}), dtype, width=96)
    image = torch.randn(1, 4, 4, 96, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for x in (image, 3 * image):
        assert (flow.inverse(flow(x)[0]) - x).abs().max() < tolerance


@pytest.mark.parametrize("case", CASES)
def test_log_det_is_that_of_the_whole_map(case: str) -> None:
    flow = _flow(*CASES[case], torch.float64)
    images = _images(2, torch.float64)
    _, log_det = flow(images)
    for image, patches in zip(images, log_det, strict=True):
        torch.testing.assert_close(patches.sum(), _map_log_det(flow, image), rtol=1e-5, atol=1e-9)


def _sees_neighbours(flow: FlowKnobs) -> bool:
    return flow.cpcf or (flow.subnets == "separate" and flow.scale_context is not None)


@pytest.mark.parametrize("case", [case for case, (flow, _) in CASES.items() if not _sees_neighbours(flow)])
def test_log_det_of_a_patch_is_its_own_where_patches_are_independent(case: str) -> None:
    flow = _flow(*CASES[case], torch.float64)
    image = _images(1, torch.float64)
    _, log_det = flow(image)
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):

            def alone(patch: torch.Tensor, row: int = row, column: int = column) -> torch.Tensor:
                changed = image[0].clone()
                changed[row, column] = patch
                return flow(changed[None])[0][0, row, column]

            jacobian = torch.autograd.functional.jacobian(alone, image[0, row, column])
            torch.testing.assert_close(
                log_det[0, row, column], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-5, atol=1e-9
            )


@pytest.mark.parametrize("context", ["conv", "attention", "mean"])
def test_context_from_all_is_no_flow_and_fails_both_tests(context: str) -> None:
    """The notes' literal form stays selectable: its log_det is an approximation."""
    flow = _flow(FlowKnobs(blocks=3, cpcf=True, context=context, context_from="all"), LORAS["plain"], torch.float64)
    image = _images(1, torch.float64)
    z, log_det = flow(image)
    assert abs(log_det.sum() - _map_log_det(flow, image[0])) > 1e-3 * abs(log_det.sum())
    with pytest.raises(RuntimeError, match="no closed inverse"):
        flow.inverse(z)


@pytest.mark.parametrize("case", ["soft-plain", "soft-spatial", "separate-plain", "v7"])
def test_one_patch_does_not_see_another(case: str) -> None:
    flow = _flow(*CASES[case], torch.float64)
    x = _images(1, torch.float64)
    changed = x.clone()
    changed[0, 1, 2] += 1
    same = torch.ones(SHAPE[:2], dtype=torch.bool)
    same[1, 2] = False
    for before, after in zip(flow(x), flow(changed), strict=True):
        assert torch.equal(before[0][same], after[0][same])
        assert not torch.equal(before[0][~same], after[0][~same])


@pytest.mark.parametrize(
    "case", ["cpcf-conv-plain", "cpcf-attention-plain", "cpcf-mean-plain", "separate-context-3-plain"]
)
def test_cross_patch_coupling_sees_its_neighbours_and_only_them(case: str) -> None:
    flow, lora = CASES[case]
    one = _flow(flow.model_copy(update={"blocks": 1}), lora, torch.float64)
    x = _images(1, torch.float64)
    changed = x.clone()
    changed[0, 0, 0] += 1
    differs = (one(x)[0] != one(changed)[0]).any(dim=-1)[0]
    expected = torch.zeros(SHAPE[:2], dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(differs, expected)


@pytest.mark.parametrize("case", ["soft-plain", "cpcf-conv-spatial"])
def test_the_seed_decides_and_global_generators_stay_untouched(case: str) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (_flow(*CASES[case], torch.float32, seed).state_dict() for seed in (7, 7, 8))
    assert torch.equal(before_torch, torch.get_rng_state())
    assert np.array_equal(before_numpy, np.random.get_state()[1])
    assert all(torch.equal(one[name], two[name]) for name in one)
    rotations = [name for name in one if name.endswith("w_perm")]
    assert len(rotations) == 3
    assert all(not torch.equal(one[name], other[name]) for name in rotations)


def test_a_random_rotation_is_orthogonal_with_determinant_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        q = random_rotation(7, generator)
        torch.testing.assert_close(q @ q.T, torch.eye(7, dtype=torch.float64))
        assert torch.linalg.det(q) > 0


@pytest.mark.parametrize("lora", LORAS)
def test_an_expert_acts_only_when_selected_and_starts_without_effect(lora: str) -> None:
    generator = torch.Generator().manual_seed(0)
    flow = Flow(SHAPE[2], FlowKnobs(blocks=2), generator)
    x = _images(2, torch.float32)
    bare, _ = flow(x)
    flow.add_expert(1, LORAS[lora], generator)
    flow.select(1)
    assert torch.equal(flow(x)[0], bare)
    for layer in flow.layers():
        torch.nn.init.ones_(layer.experts["1"].b)
    assert not torch.equal(flow(x)[0], bare)
    flow.select(0)
    assert torch.equal(flow(x)[0], bare)


def test_a_hard_permutation_only_reorders_channels() -> None:
    config = FlowKnobs(blocks=1, permutation="hard")
    flow = _flow(config, LORAS["plain"], torch.float64)
    rows = flow.state_dict()["blocks.0.block.w_perm"]
    assert sorted(rows.argmax(dim=1).tolist()) == list(range(SHAPE[2]))
    assert rows.sum() == SHAPE[2]
    assert set(rows.unique().tolist()) == {0.0, 1.0}


def test_rotations_are_drawn_uniformly() -> None:
    """Haar: every entry has mean 0 and variance 1/D, the first one included."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_rotation(4, generator) for _ in range(2000)])
    assert drawn.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(drawn.var(dim=0), torch.full((4, 4), 0.25).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize(("ratio", "hidden"), [(2.0, 10), (0.5, 2), (0.01, 1)])
def test_the_subnets_hidden_width_is_a_multiple_of_its_input(ratio: float, hidden: int) -> None:
    """At D = 9 the passive half, which the subnet sees, is 5 wide and the other 4."""
    flow = Flow(9, FlowKnobs(blocks=1, hidden_ratio=ratio), torch.Generator())
    shapes = [tuple(layer.base.weight.shape) for layer in flow.layers()]
    assert shapes == [(hidden, 5), (8, hidden)]
