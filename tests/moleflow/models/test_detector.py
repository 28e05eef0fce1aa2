"""The parameters that train on each task, the ones that stay unchanged, and the flow's input."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from moleflow.cache.stage_state import state_digest
from moleflow.models.detector import Detector, owner_task, position_code
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer, version_names
from moleflow.training.losses import patch_nll, training_loss
from moleflow.training.train_task import Randomness, train_task

SHAPE = (4, 4, 12)
# Each version, and the other forms of what it learns with.
FORMS: dict[str, tuple[str, dict[str, object]]] = {
    **{version: (version, {}) for version in version_names()},
    "v1 with a live adapter": ("v1", {"output_init": "random"}),
    "v4 with attention": ("v4", {"context": "attention"}),
    "v4 as the notes have it": ("v4", {"context_from": "all", "lora.init": "zero"}),
    "decoflow without alignment": ("decoflow", {"adapter.enabled": False}),
    "decoflow without LoRA": ("decoflow", {"lora.enabled": False}),
    "v7 per_dim": ("v7", {"focal_form": "per_dim"}),
    "v7 relative": ("v7", {"focal_form": "relative", "focal_detach": True}),
}
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Trained:
    """A detector after some tasks, with its whole state before and after each."""

    config: TrialConfig
    detector: Detector
    before: list[State]
    after: list[State]


def _config(version: str, **knobs: object) -> TrialConfig:
    # Without weight decay: it moves even a parameter whose gradient is exactly zero.
    small = {
        "flow.blocks": 2,
        "lora.rank": 2,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "warmup_epochs": 0,
        "weight_decay": 0.0,
    }
    return resolve([version_layer(version, "test"), Layer("test", small | knobs)])


def _features(seed: int) -> torch.Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def _detector(config: TrialConfig, tasks: int) -> Detector:
    """An untrained detector of so many tasks."""
    detector = Detector(config, SHAPE, Randomness(0, "", 0))
    for task in range(tasks):
        detector.add_task(task, Randomness(0, "x" * task, task))
    return detector


def _train(config: TrialConfig, tasks: int) -> Trained:
    trained = Trained(config, Detector(config, SHAPE, Randomness(0, "", 0)), [], [])
    detector = trained.detector
    for task in range(tasks):
        randomness = Randomness(0, "x" * task, task)
        detector.add_task(task, randomness)
        trained.before.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
        train_task(detector, _features(task), task, config, randomness, lambda epoch: None)
        trained.after.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    return trained


@cache
def _trained(form: str) -> Trained:
    """Three trained tasks of a form; tests share it and change nothing in it."""
    version, knobs = FORMS[form]
    return _train(_config(version, **knobs), 3)


def _learns(form: str, task: int, name: str) -> bool:
    """The base flow trains on task 0 only, and each task's own parts on that task."""
    part = re.search(r"(experts|adapters|auxiliary)\.(\d+)\.(\w+)", name)
    if part is None:
        fixed = ("global_scale", "global_offset") if form.startswith("decoflow") else ()
        return task == 0 and not name.endswith(("w_perm", "w_perm_inv", *fixed))
    kind, owner, parameter = part.groups()
    dead = {
        "v1": kind == "adapters",  # Zero output behind a raw zero gate.
        "v2": kind == "adapters",
        "v4 as the notes have it": parameter in ("a", "b"),  # Both factors are zero.
    }
    return int(owner) == task and not dead.get(form, False)


@pytest.mark.parametrize("form", FORMS)
def test_exactly_the_named_parameters_change(form: str) -> None:
    trained = _trained(form)
    for task in range(3):
        for name in trained.before[task]:
            changed = not torch.equal(trained.before[task][name], trained.after[task][name])
            assert changed == _learns(form, task, name) or name.startswith("statistics."), f"task {task}: {name}"


@pytest.mark.parametrize("form", FORMS)
def test_exactly_the_named_parameters_get_a_gradient(form: str) -> None:
    """Asked of a trained detector: before the first step, a factor behind a zero one has none."""
    config, detector = _trained(form).config, _trained(form).detector
    for task in range(3):
        detector.zero_grad(set_to_none=True)
        assert list(detector.trainable(task)) == [n for n, p in detector.named_parameters() if p.requires_grad]
        z, log_det = detector(_features(task), task)
        assert not form.startswith("v7") or (patch_nll(z, log_det) > 0).any(), "such patches alone have a gradient"
        training_loss(z, log_det, config.loss, _features(task))[0].backward()
        for name, parameter in detector.named_parameters():
            learns = parameter.grad is not None and bool(parameter.grad.any())
            assert learns == _learns(form, task, name), f"task {task}: {name}"
    detector.requires_grad_(False)


@pytest.mark.parametrize("form", version_names())
def test_earlier_tasks_are_bit_identical_after_later_ones(form: str) -> None:
    trained = _trained(form)
    final = trained.detector.state_dict()
    for task in range(2):
        assert all(torch.equal(trained.after[task][name], final[name]) for name in trained.after[task])
    alone = _detector(trained.config, 1)
    alone.load_state_dict(trained.after[0])
    with torch.no_grad():
        for part, part_alone in zip(trained.detector(_features(0), 0), alone(_features(0), 0), strict=True):
            assert torch.equal(part, part_alone)


def test_task_0_of_v1_has_no_expert_and_no_adapter() -> None:
    detector = _detector(_config("v1"), 2)
    assert sorted(detector.adapters) == ["1"]
    assert all(sorted(layer.experts) == ["1"] for layer in detector.flow.layers())


def test_task_0_of_v3_has_both_and_its_adapter_keeps_nine_tenths() -> None:
    detector = _detector(_config("v3"), 2)
    assert [detector.adapters[task].identity for task in ("0", "1")] == [0.9, 0.0]
    assert all(sorted(layer.experts) == ["0", "1"] for layer in detector.flow.layers())


def test_weight_decay_moves_the_weights_of_a_dead_adapter_and_not_its_output() -> None:
    """So equal state digests are no test of a dead form; its flag says so."""
    trained = _train(_config("v1", weight_decay=0.01), 2)
    dead = {name: tensor for name, tensor in trained.before[1].items() if name.startswith("adapters.1.")}
    assert state_digest(dead) != state_digest({name: trained.after[1][name] for name in dead})
    for name, tensor in dead.items():
        if name.startswith("adapters.1.inner."):
            shrunk = trained.after[1][name] / tensor
            assert 0.9 < shrunk.min() <= shrunk.max() < 1
            torch.testing.assert_close(shrunk, shrunk.mean().expand_as(shrunk))
        else:
            assert not tensor.any()
            assert not trained.after[1][name].any()
    with torch.no_grad():
        norm = torch.nn.functional.instance_norm(_features(1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(trained.detector.adapters["1"](_features(1)), norm)
    assert "weight decay alone moves its weights" in " ".join(trained.config.flags())


def test_weight_decay_leaves_the_zero_factors_of_a_dead_expert_unchanged() -> None:
    final = _train(_config("v3", weight_decay=0.01, **{"lora.init": "zero"}), 2).after[1]
    factors = [tensor for name, tensor in final.items() if re.search(r"experts\.\d\.[ab]$", name)]
    assert len(factors) == 2 * 2 * 2 * 2  # Blocks, layers, tasks, factors.
    assert not any(factor.any() for factor in factors)


def test_dropout_of_the_attention_is_off_once_it_is_frozen() -> None:
    """Another dropout changes task 0, and not a task 1 that follows the same task 0."""
    first = _trained("v6").detector
    more = _config("v6", dropout=0.9)
    other = _train(more, 1).detector
    assert other.attention.dropout_generator is None
    assert state_digest(other.task_state(0)) != state_digest(first.task_state(0))
    detector = _detector(more, 2)
    detector.load_task_state(0, first.task_state(0))
    train_task(detector, _features(1), 1, more, Randomness(0, "x", 1), lambda epoch: None)
    assert state_digest(detector.task_state(1)) == state_digest(first.task_state(1))


def test_a_task_state_loads_into_a_fresh_detector() -> None:
    trained = _trained("v3").detector
    fresh = Detector(_config("v3"), SHAPE, Randomness(99, "", 0))
    for task in range(2):
        fresh.add_task(task, Randomness(99, "", task))
        fresh.load_task_state(task, trained.task_state(task))
    with torch.no_grad():
        for task in range(2):
            assert torch.equal(fresh(_features(5), task)[0], trained(_features(5), task)[0])


def test_a_state_of_other_names_or_shapes_is_refused() -> None:
    detector = _detector(_config("v3"), 2)
    wrong_shape = {name: torch.zeros(7) for name in detector.task_state(0)}
    for state in (detector.task_state(1), wrong_shape):
        with pytest.raises(RuntimeError, match="task 0 does not fit"):
            detector.load_task_state(0, state)


@pytest.mark.parametrize(("standardise", "source"), [("task0", 0), ("per_task", 1)])
def test_standardised_features_have_zero_mean_and_unit_variance(standardise: str, source: int) -> None:
    detector = _detector(_config("v3", standardise=standardise, position=False, **{"adapter.enabled": False}), 2)
    for task in range(2):
        detector.measure(task, (task + 2) * _features(task))
    flat = detector.adapt((source + 2) * _features(source), 1).reshape(-1, SHAPE[2])
    torch.testing.assert_close(flat.mean(dim=0), torch.zeros(SHAPE[2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(dim=0), torch.ones(SHAPE[2]), atol=1e-4, rtol=0)


def test_statistics_by_hand_and_their_smallest_standard_deviation() -> None:
    """Patches 1, 3 in one channel and 5, 5 in the others: sd sqrt(2), and 1e-6 in place of 0."""
    detector = _detector(_config("v3", standardise="per_task"), 1)
    features = torch.full((2, 1, 1, 12), 5.0)
    features[:, 0, 0, 0] = torch.tensor([1.0, 3.0])
    detector.measure(0, features)
    state = detector.task_state(0)
    assert state["statistics.0.mean"].tolist() == [2.0] + [5.0] * 11
    assert state["statistics.0.std"].tolist() == pytest.approx([math.sqrt(2)] + [1e-6] * 11)


def test_the_flows_input_is_the_features_plus_the_scaled_position_code() -> None:
    detector = _detector(_config("v1", **{"features.position_scale": 3.0}), 1)
    torch.testing.assert_close(detector.adapt(_features(0), 0), _features(0) + 3 * position_code(*SHAPE))
    without = _detector(_config("v1", position=False), 1)
    assert torch.equal(without.adapt(_features(0), 0), _features(0))


def test_the_position_code_by_hand() -> None:
    """Vaswani et al. 2017: sin and cos of p / 10000^(c/n), here n = 4 and so 1 and 1/100."""
    code = position_code(2, 3, 8)
    row = [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]
    column = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    assert code[1, 2].tolist() == pytest.approx(row + column, abs=1e-7)
    assert code[0, 0].tolist() == [0, 1, 0, 1] * 2
    # An odd width: two channels for the row, three for the column; 10000^(-2/3) = 0.0021544.
    odd = position_code(2, 2, 5)[1, 1].tolist()
    assert odd == pytest.approx([math.sin(1), math.cos(1)] * 2 + [math.sin(0.00215443469)], abs=1e-7)


def test_columns_first_swaps_the_halves_of_the_position_code() -> None:
    """The notes' order: of 5 channels, 2 code the column 2 and 3 the row 1."""
    code = position_code(2, 3, 5, columns_first=True)
    assert code.shape == (2, 3, 5)
    expected = [math.sin(2), math.cos(2), math.sin(1), math.cos(1), math.sin(0.00215443469)]
    assert code[1, 2].tolist() == pytest.approx(expected, abs=1e-7)
    detector = _detector(_config("v1", position_order="column_row"), 1)
    torch.testing.assert_close(
        detector.adapt(_features(0), 0), _features(0) + position_code(*SHAPE, columns_first=True)
    )


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_fixed_global_affine_map_stays_at_scale_one_and_offset_zero(version: str) -> None:
    """FrEIA's scale is 0.1 softplus(raw) with beta 0.5, that is 0.2 log(1 + exp(raw / 2))."""
    found = {}
    for affine in ("trained", "fixed"):
        config = _config(version, global_affine=affine, weight_decay=0.1)
        randomness = Randomness(0, "", 0)
        detector = _detector(config, 1)
        train_task(detector, _features(0), 0, config, randomness, lambda epoch: None)
        named = {name.split(".")[-1]: p for name, p in detector.named_parameters() if "blocks.0" in name}
        scale = 0.2 * torch.log1p(torch.exp(named["global_scale"].double() / 2))
        found[affine] = scale.flatten(), named["global_offset"].flatten(), detector.count_parameters(0)
    scale, offset, count = found["fixed"]
    torch.testing.assert_close(scale, torch.ones(12, dtype=torch.float64), atol=1e-6, rtol=0)
    assert not offset.any()
    assert not torch.allclose(found["trained"][0], scale, atol=1e-4)
    assert found["trained"][1].any()
    assert found["trained"][2] - count == 2 * 2 * 12  # Scale and offset of D = 12 in two blocks.


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("flow.blocks.0.block.subnet.0.experts.12.a", 12),
        ("adapters.3.gate", 3),
        ("statistics.1.mean", 1),
        ("flow.blocks.1.block.subnet.2.base.weight", 0),
        ("attention.gate", 0),
        ("mixer.weight", 0),
        ("flow.auxiliary.2.layers.0.scale.0.weight", 2),
        ("flow.blocks.0.scale.2.experts.4.b", 4),
        ("flow.blocks.0.context.weight", 0),
    ],
)
def test_a_parameter_belongs_to_the_task_in_its_name(name: str, task: int) -> None:
    assert owner_task(name) == task


def test_parameters_are_counted_by_task() -> None:
    """v1 at D = 12 and 2 blocks.

    Each block's subnet is 6 -> 12 -> 12 and has 84 + 156 numbers; scale and offset have 24.
    A task's expert of rank 2 has 2 (6 + 12) + 12 and 2 (12 + 12) + 12 numbers a block, its adapter
    12 * 3 + 3, 3 * 12 + 12 and a gate.
    """
    detector = _detector(_config("v1"), 2)
    assert detector.count_parameters(0) == 2 * (84 + 156 + 24)
    assert detector.count_parameters(1) == 2 * (48 + 60) + 39 + 48 + 1


def test_products_are_set_in_every_layer() -> None:
    detector = _detector(_config("v3"), 1)
    detector.set_products(torch.bfloat16)
    assert {layer.products for layer in detector.flow.layers()} == {torch.bfloat16}
