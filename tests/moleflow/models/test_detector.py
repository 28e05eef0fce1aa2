"""What trains on which task, what stays bit-identical, and the input adapters."""

from __future__ import annotations

import re

import pytest
import torch

from moleflow.config import Adapter, TrialConfig
from moleflow.knobs import Layer, resolve, version_layer, version_names
from moleflow.models.adapters import InputAdapter
from moleflow.models.detector import Detector, position_code
from moleflow.training import Randomness, train_task

SHAPE = (4, 4, 12)
VERSIONS = version_names()


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
        "focal_form": "relative",
    }
    return resolve([version_layer(version, "test"), Layer("test", small | knobs)])


def _features(seed: int) -> torch.Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def _trained(
    config: TrialConfig, tasks: int
) -> tuple[Detector, list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """A detector after `tasks` tasks, with the whole state before and after each."""
    detector = Detector(config, SHAPE, Randomness(0, "", 0))
    before, after = [], []
    for task in range(tasks):
        randomness = Randomness(0, "x" * task, task)
        detector.add_task(task, randomness)
        detector.measure(task, _features(task))
        before.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
        train_task(detector, _features(task), task, config, randomness, lambda epoch: None)
        after.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    return detector, before, after


def _expected(version: str, task: int, name: str) -> bool:
    """METHOD's table of what trains: the base on task 0 alone, then each task's own parts."""
    own = re.search(r"(experts|adapters)\.(\d+)\.", name)
    if own is None:
        return task == 0 and not name.endswith(("w_perm", "w_perm_inv"))
    dead = version in ("v1", "v2") and own.group(1) == "adapters"  # zero output behind a raw zero gate
    return int(own.group(2)) == task and not dead


@pytest.mark.parametrize("version", VERSIONS)
def test_exactly_the_named_parameters_change(version: str) -> None:
    _, before, after = _trained(_config(version), 3)
    for task in range(3):
        for name in before[task]:
            changed = not torch.equal(before[task][name], after[task][name])
            assert changed == _expected(version, task, name), f"task {task}: {name}"


@pytest.mark.parametrize("version", VERSIONS)
def test_earlier_tasks_are_bit_identical_after_later_ones(version: str) -> None:
    detector, _, after = _trained(_config(version), 3)
    final = detector.state_dict()
    for task in range(2):
        assert all(torch.equal(after[task][name], final[name]) for name in after[task])
    with torch.no_grad():
        z, log_det = detector(_features(0), 0)
    alone, _, _ = _trained(_config(version), 1)
    with torch.no_grad():
        z_alone, log_det_alone = alone(_features(0), 0)
    assert torch.equal(z, z_alone)
    assert torch.equal(log_det, log_det_alone)


def test_v1_task_0_has_no_expert_and_no_adapter() -> None:
    detector, _, _ = _trained(_config("v1"), 2)
    assert sorted(detector.adapters) == ["1"]
    assert all(sorted(layer.experts) == ["1"] for layer in detector.flow.layers())


def test_dead_adapter_comes_alive_with_a_random_output_layer() -> None:
    _, before, after = _trained(_config("v1", output_init="random"), 2)
    changed = {name for name in after[1] if not torch.equal(before[1][name], after[1][name])}
    assert {"adapters.1.gate", "adapters.1.inner.weight", "adapters.1.outer.weight"} <= changed


def test_task_state_round_trips_into_a_fresh_detector() -> None:
    config = _config("v3", standardise="per_task")
    detector, _, _ = _trained(config, 2)
    fresh = Detector(config, SHAPE, Randomness(99, "", 0))
    for task in range(2):
        fresh.add_task(task, Randomness(99, "", task))
        fresh.load_task_state(task, detector.task_state(task))
    with torch.no_grad():
        for task in range(2):
            assert torch.equal(fresh(_features(5), task)[0], detector(_features(5), task)[0])
    with pytest.raises(RuntimeError, match="does not fit"):
        fresh.load_task_state(0, detector.task_state(1))


@pytest.mark.parametrize(("standardise", "own"), [("task0", 0), ("per_task", 1)])
def test_standardised_features_have_zero_mean_and_unit_variance(standardise: str, own: int) -> None:
    config = _config("v3", standardise=standardise, position=False, **{"adapter.enabled": False})
    detector, _, _ = _trained(config, 2)
    adapted = detector.adapt(_features(own), 1).reshape(-1, SHAPE[2])
    torch.testing.assert_close(adapted.mean(dim=0), torch.zeros(SHAPE[2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(adapted.std(dim=0), torch.ones(SHAPE[2]), atol=1e-4, rtol=0)


def test_published_adapter_starts_as_the_instance_norm_alone() -> None:
    adapter = InputAdapter(12, Adapter(), 0.0, torch.Generator())
    x = _features(0)
    expected = torch.nn.functional.instance_norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(adapter(x), expected)


def test_film_adapter_on_task_0_is_nine_tenths_identity() -> None:
    adapter = InputAdapter(12, _config("v3").adapter, 0.9, torch.Generator())
    x = _features(0)
    torch.testing.assert_close(adapter(x), 0.9 * x + 0.1 * torch.nn.functional.layer_norm(x, (12,)))


def test_position_code_tells_places_apart_and_stays_in_range() -> None:
    code = position_code(3, 5, 16)
    assert code.shape == (3, 5, 16)
    assert code.abs().max() <= 1
    assert len(torch.unique(code.reshape(15, 16), dim=0)) == 15
    assert torch.equal(code[0, 2, 8:], code[2, 2, 8:])
    assert torch.equal(code[1, 0, :8], code[1, 4, :8])
