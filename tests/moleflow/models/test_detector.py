"""What trains on which task, what stays bit-identical, and the input adapters."""

from __future__ import annotations

import re

import pytest
import torch

from moleflow.cache.stage_state import state_digest
from moleflow.models.adapters import InputAdapter
from moleflow.models.detector import Detector, position_code
from moleflow.settings.config import AdapterKnobs, TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer, version_names
from moleflow.training.losses import patch_nll, training_loss
from moleflow.training.train_task import Randomness, train_task

SHAPE = (4, 4, 12)
VERSIONS = version_names()
# Each version, and the other forms of what it learns with.
FORMS: dict[str, tuple[str, dict[str, object]]] = {
    **{version: (version, {}) for version in VERSIONS},
    "v1 with a live adapter": ("v1", {"output_init": "random"}),
    "v4 with attention": ("v4", {"context": "attention"}),
    "v4 as the notes have it": ("v4", {"context_from": "all", "lora.init": "zero"}),
    "v7 per_dim": ("v7", {"focal_form": "per_dim"}),
    "v7 relative": ("v7", {"focal_form": "relative", "focal_detach": True}),
}


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


def _expected(form: str, task: int, name: str) -> bool:
    """METHOD's table of what trains: the base on task 0 alone, then each task's own parts."""
    own = re.search(r"(experts|adapters)\.(\d+)\.(\w+)", name)
    if own is None:
        return task == 0 and not name.endswith(("w_perm", "w_perm_inv"))
    kind, of, part = own.groups()
    dead = {
        "v1": kind == "adapters",  # zero output behind a raw zero gate
        "v2": kind == "adapters",
        "v4 as the notes have it": part in ("a", "b"),  # both factors zero
    }
    return int(of) == task and not dead.get(form, False)


@pytest.mark.parametrize("form", FORMS)
def test_exactly_the_named_parameters_change(form: str) -> None:
    version, knobs = FORMS[form]
    _, before, after = _trained(_config(version, **knobs), 3)
    for task in range(3):
        for name in before[task]:
            changed = not torch.equal(before[task][name], after[task][name])
            assert changed == _expected(form, task, name), f"task {task}: {name}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", range(3))
def test_exactly_the_named_parameters_get_a_gradient(form: str, task: int) -> None:
    version, knobs = FORMS[form]
    config = _config(version, **knobs)
    # After some steps: before the first one, a live factor behind a zero one has no gradient yet.
    detector, _, _ = _trained(config, task + 1)
    detector.zero_grad(set_to_none=True)
    detector.trainable(task)
    z, log_det = detector(_features(task), task)
    assert version != "v7" or (patch_nll(z, log_det) > 0).any(), "in the joint form only such patches have a gradient"
    training_loss(z, log_det, config.loss, _features(task))[0].backward()
    for name, parameter in detector.named_parameters():
        if _expected(form, task, name):
            assert parameter.grad is not None and parameter.grad.any(), name
        else:
            assert parameter.grad is None or not parameter.grad.any(), name


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


def test_weight_decay_moves_the_weights_of_a_dead_adapter_and_nothing_that_it_does() -> None:
    """So equal state digests are no test of a dead form; its flag says so."""
    config = _config("v1", weight_decay=0.01)
    detector, before, after = _trained(config, 2)
    dead = {name: before[1][name] for name in before[1] if name.startswith("adapters.1.")}
    assert state_digest(dead) != state_digest({name: after[1][name] for name in dead})
    for name, tensor in dead.items():
        if name.startswith("adapters.1.inner."):
            shrunk = after[1][name] / tensor
            assert 0.9 < shrunk.min() <= shrunk.max() < 1
            torch.testing.assert_close(shrunk, shrunk.mean().expand_as(shrunk))
        else:
            assert not tensor.any()
            assert not after[1][name].any()
    with torch.no_grad():
        norm_alone = torch.nn.functional.instance_norm(_features(1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(detector.adapters["1"](_features(1)), norm_alone)
    assert "weight decay alone moves its weights" in " ".join(config.flags())


def test_weight_decay_leaves_the_zero_factors_of_a_dead_expert_where_they_are() -> None:
    _, _, after = _trained(_config("v3", weight_decay=0.01, **{"lora.init": "zero"}), 2)
    factors = [tensor for name, tensor in after[1].items() if re.search(r"experts\.\d\.[ab]$", name)]
    assert len(factors) == 2 * 2 * 2 * 2  # blocks, layers, tasks, factors
    assert not any(factor.any() for factor in factors)


def test_dropout_of_the_attention_is_off_once_it_is_frozen() -> None:
    """Task 0 learns otherwise with another dropout; task 1, from the same task 0, does not."""
    some, more = (_config("v6", dropout=share) for share in (0.1, 0.9))
    first, _, _ = _trained(some, 1)
    assert state_digest(_trained(more, 1)[0].task_state(0)) != state_digest(first.task_state(0))
    learned = []
    for config in (some, more):
        detector = Detector(config, SHAPE, Randomness(0, "", 0))
        for task in range(2):
            detector.add_task(task, Randomness(0, "x" * task, task))
        detector.load_task_state(0, first.task_state(0))
        train_task(detector, _features(1), 1, config, Randomness(0, "x", 1), lambda epoch: None)
        learned.append(state_digest(detector.task_state(1)))
    assert learned[0] == learned[1]


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
    adapter = InputAdapter(12, AdapterKnobs(), 0.0, torch.Generator())
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
