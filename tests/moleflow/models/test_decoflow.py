"""The version decoflow as a whole: its order of parts, and its published numbers of parameters."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch

from moleflow.models.detector import Detector, owner_task
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, base_layers, resolve, version_layer
from moleflow.training.train_task import Randomness

# Of DeCoFlow's "6+2" runs at D = 768 in millions: rank 16 is the paper's count, 64 its scripts'.
PER_TASK = {16: 2_268_672, 32: 2_747_904, 64: 3_706_368}


def _config(base: str = "wrn50", **knobs: Any) -> TrialConfig:
    return resolve([version_layer("decoflow", "test"), *base_layers(base, "decoflow", "test"), Layer("test", knobs)])


def _detector(config: TrialConfig, shape: tuple[int, int, int], tasks: int = 2) -> Detector:
    detector = Detector(config, shape, Randomness(0, "", 0))
    for task in range(tasks):
        detector.add_task(task, Randomness(0, "x" * task, task))
    return detector


def _counts(detector: Detector, task: int) -> dict[str, int]:
    """Learned numbers of a task by part; those of the experts without their task biases."""
    counts: Counter[str] = Counter()
    for name, parameter in detector.trainable(task).items():
        part = re.search(r"(experts|adapters|auxiliary)\.\d+\.(\w+)", name)
        kind, leaf = part.groups() if part else (name.split(".")[0], "")
        counts["task bias" if (kind, leaf) == ("experts", "bias") else kind] += parameter.numel()
    return dict(counts)


@pytest.mark.parametrize("rank", PER_TASK)
def test_parameters_at_the_papers_width(rank: int) -> None:
    detector = _detector(_config(**{"lora.rank": rank}), (1, 1, 768))
    own = {"experts": 6 * rank * 4992, "task bias": 13_824, "adapters": 1_536, "auxiliary": 1_774_080}
    assert _counts(detector, 1) == own
    assert detector.count_parameters(1) == sum(own.values()) == PER_TASK[rank]
    assert _counts(detector, 0) == own | {"flow": 8_921_094, "mixer": 7_681}


def test_parameters_of_the_settings_for_visa() -> None:
    """8.54 million: ten blocks, six auxiliary couplings, rank 64."""
    detector = _detector(_config("decoflow_visa"), (1, 1, 768))
    assert detector.count_parameters(1) == 10 * 64 * 4992 + 10 * 2304 + 1_536 + 3 * 1_774_080 == 8_541_696


def test_parameters_of_the_run_at_152_channels() -> None:
    """Counted with FrEIA's global scale and offset, which its code has and never trains."""
    detector = _detector(_config(**{"lora.rank": 64}), (1, 1, 152))
    assert _counts(detector, 1) == {"experts": 379_392, "task bias": 2_736, "adapters": 304, "auxiliary": 70_224}
    assert detector.count_parameters(1) == 452_656
    trained = _counts(_detector(_config(**{"lora.rank": 64, "global_affine": "trained"}), (1, 1, 152)), 0)
    assert trained["flow"] + trained["mixer"] == 364_503
    fixed = _counts(detector, 0)
    assert fixed["flow"] + fixed["mixer"] == 364_503 - 6 * 2 * 152
    assert _detector(_config(), (1, 1, 152)).count_parameters(1) == 168_112


def test_the_order_of_its_parts() -> None:
    """Position code, alignment, mixer, flow, auxiliary couplings."""
    detector = _detector(_config(), (3, 4, 12)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in detector.named_parameters():
        if not name.endswith("w_perm"):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    features = torch.randn(2, 3, 4, 12, generator=generator)
    aligned = detector.adapters["1"](features + detector.position)
    assert detector.mixer is not None
    mixed = detector.mixer(aligned)
    torch.testing.assert_close(detector.adapt(features, 1), mixed)
    x, log_det = mixed, torch.zeros(2, 3, 4)
    detector.flow.select(1)
    for part in (*detector.flow.blocks, detector.flow.auxiliary["1"]):
        x, of_part = part(x)
        log_det = log_det + of_part
    z, whole = detector(features, 1)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(whole, log_det)
    other, _ = detector(features, 0)
    assert not torch.allclose(other, z)


def test_the_first_task_starts_near_gamma_1_and_later_ones_at_their_knob() -> None:
    detector = _detector(_config(later_gamma=1.0), (1, 1, 12), tasks=3)
    raw = [detector.adapters[str(task)].raw_gamma[0].item() for task in range(3)]
    assert raw == pytest.approx([-0.7, -0.6931472, -0.6931472])


def test_switched_off_parts_leave_no_parameters() -> None:
    off = _config(
        **{"adapter.enabled": False, "mixer.kernel": None, "scale_context": None, "couplings": 0, "lora.enabled": True}
    )
    names = [name for name, _ in _detector(off, (1, 1, 12)).named_parameters()]
    assert not [name for name in names if re.search(r"adapters|mixer|context|auxiliary", name)]
    without_lora = _detector(_config(**{"lora.enabled": False}), (1, 1, 12))
    assert not [name for name, _ in without_lora.named_parameters() if "experts" in name]
    assert {owner_task(name) for name, _ in without_lora.named_parameters()} == {0, 1}
