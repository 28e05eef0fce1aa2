"""Learning rates, batches, randomness, resumed training and divergence."""

from __future__ import annotations

import math
import traceback
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from moleflow.cache.stage_state import Checkpoint, Epoch, state_digest
from moleflow.errors import Diverged
from moleflow.models.detector import Detector
from moleflow.settings.config import TrainingKnobs, TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer, version_names
from moleflow.training import adamp
from moleflow.training.adamp import AdamP
from moleflow.training.train_task import Randomness, learning_rate, optimizer_of, train_step, train_task

SHAPE = (3, 3, 8)


def _config(version: str = "v3", **knobs: object) -> TrialConfig:
    small = {"flow.blocks": 2, "lora.rank": 2, "epochs": 3, "batch_size": 4}
    return resolve([version_layer(version, "test"), Layer("test", small | knobs)])


def _run(
    config: TrialConfig, features: torch.Tensor
) -> tuple[dict[str, torch.Tensor], list[Epoch], dict[str, torch.Tensor]]:
    randomness = Randomness(config.seed, "", 0)
    detector = Detector(config, SHAPE, randomness)
    detector.add_task(0, randomness)
    reached = train_task(detector, features, 0, config, randomness, lambda epoch: None)
    return detector.task_state(0), list(reached.epochs), reached.optimizer


def _features(count: int = 10) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


# Peak 1, final fraction 1/10, two epochs of three steps. t = 0, 1/5 ... 1 in the cosine of task 0;
# on task 1 three steps of warm-up, then t = 0, 1/2, 1.
COSINE = [1.0, 0.9140576475, 0.6890576475, 0.4109423525, 0.1859423525, 0.1]
WARM_UP = [0.25, 0.5, 0.75, 1.0, 0.55, 0.1]


@pytest.mark.parametrize(
    ("task", "knobs", "rates"),
    [
        (0, {}, COSINE),
        (1, {}, WARM_UP),
        (2, {"warmup_epochs": 5}, WARM_UP),  # Half of all steps at most.
        (1, {"warmup_epochs": 0}, COSINE),
        (0, {"schedule": "constant"}, [1.0] * 6),
        (1, {"schedule": "constant"}, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
        (0, {"learning_rate": 0.01}, [0.01 * rate for rate in COSINE]),
    ],
)
def test_the_learning_rate_of_each_step(task: int, knobs: dict[str, Any], rates: list[float]) -> None:
    knobs = {"epochs": 2, "learning_rate": 1.0, "final_fraction": 0.1, "warmup_epochs": 1} | knobs
    settings = TrainingKnobs(**knobs)
    assert [learning_rate(settings, task, step, 3) for step in range(6)] == pytest.approx(rates)


def test_an_odd_number_of_steps_warms_up_in_the_smaller_half() -> None:
    knobs = TrainingKnobs(epochs=1, learning_rate=1.0, final_fraction=0.1, warmup_epochs=5)
    assert [learning_rate(knobs, 1, step, 3) for step in range(3)] == pytest.approx([0.5, 1.0, 0.1])


@pytest.mark.parametrize(("task", "epochs", "warmup"), [(0, 40, 2), (1, 40, 2), (2, 7, 2), (1, 5, 0), (1, 4, 9)])
def test_the_learning_rate_by_epoch_is_that_of_torchs_schedulers(task: int, epochs: int, warmup: int) -> None:
    """Warm-up epochs at 1/W, 2/W, … of the peak, then CosineAnnealingLR, each stepped by epoch."""
    knobs = TrainingKnobs(
        epochs=epochs, warmup_epochs=warmup, learning_rate=0.2, final_fraction=0.01, schedule_by="epoch"
    )
    count = min(warmup, epochs // 2) if task > 0 else 0
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs - count, eta_min=0.002)
    expected = [0.2 * (n + 1) / count for n in range(count)]
    for _ in range(epochs - count):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    rates = [learning_rate(knobs, task, step, 3) for step in range(3 * epochs)]
    assert rates[::3] == rates[1::3] == rates[2::3]
    assert rates[::3] == pytest.approx(expected)
    if count == 2:
        assert rates[:9:3] == pytest.approx([0.1, 0.2, 0.2])


def test_a_constant_rate_by_epoch_has_the_warm_up_alone() -> None:
    knobs = TrainingKnobs(epochs=4, warmup_epochs=2, learning_rate=1.0, schedule="constant", schedule_by="epoch")
    assert [learning_rate(knobs, 1, step, 2) for step in range(8)] == [0.5, 0.5] + [1.0] * 6
    assert [learning_rate(knobs, 0, step, 2) for step in range(8)] == [1.0] * 8


@pytest.mark.parametrize(("task", "rates"), [(0, COSINE), (1, WARM_UP)])
def test_training_uses_the_rate_of_each_step(task: int, rates: list[float]) -> None:
    config = _config(epochs=2, batch_size=3, learning_rate=1e-3, final_fraction=0.1, warmup_epochs=1, optimizer="adamw")
    used: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    try:
        detector = _prepared(config, task, None)
        trained = train_task(detector, _features(), task, config, Randomness(0, "", task), lambda epoch: None)
    finally:
        handle.remove()
    assert used == pytest.approx([1e-3 * rate for rate in rates])
    assert [epoch.lr for epoch in trained.epochs] == [used[2], used[5]]


def _batches(task: int = 0, lineage: str = "", **knobs: object) -> list[list[int]]:
    """The images of each batch of three epochs of ten images, told apart by their features."""
    config = _config(adapter={"enabled": False}, learning_rate=1e-9, **knobs)
    features = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, *SHAPE).clone()
    detector = _prepared(config, task, None)
    batches: list[list[int]] = []
    detector.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0][:, 0, 0, 0].int().tolist()))
    train_task(detector, features, task, config, Randomness(config.seed, lineage, task), lambda epoch: None)
    return batches


def test_each_epoch_shuffles_the_images_anew() -> None:
    batches = _batches(drop_last=False)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [
        batches[0] + batches[1] + batches[2],
        batches[3] + batches[4] + batches[5],
        batches[6] + batches[7] + batches[8],
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in [*epochs, list(range(10))]}) == 4
    assert [len(batch) for batch in _batches(drop_last=True)] == [4, 4] * 3


def test_seed_lineage_and_task_decide_the_order_of_the_images() -> None:
    first = _batches()
    assert _batches() == first
    for other in (_batches(seed=1), _batches(lineage="other"), _batches(task=1)):
        assert other != first


def test_an_epoch_records_the_means_over_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter([(1.0, 10.0, 100.0), (4.0, 20.0, 500.0)])
    monkeypatch.setattr(
        "moleflow.training.train_task.train_step", lambda *_: tuple(torch.tensor(value) for value in next(results))
    )
    _, epochs, _ = _run(_config(epochs=1), _features(8))
    assert [(epoch.loss, epoch.nll, epoch.grad_norm) for epoch in epochs] == [(2.5, 15.0, 300.0)]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_step_clips_the_norm_of_the_whole_gradient(clip: float | None) -> None:
    """With plain gradient descent at rate 1, the parameters move by the clipped gradient."""
    config = _config(gradient_clip=clip)
    detector = _prepared(config, 0, None)
    parameters = detector.trainable(0)
    before = [parameter.detach().clone() for parameter in parameters.values()]
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
    _, _, norm = train_step(detector, _features(4), 0, config, optimizer)
    moved = [(p.detach() - old).square().sum() for p, old in zip(parameters.values(), before, strict=True)]
    distance = torch.stack(moved).sum().sqrt().item()
    assert norm.item() > 0.6
    assert distance == pytest.approx(norm.item() if clip is None else clip, rel=1e-3)


@pytest.mark.parametrize(("name", "kind"), [("adamp", AdamP), ("adamw", torch.optim.AdamW)])
def test_the_knobs_choose_the_optimizer(name: str, kind: type) -> None:
    knobs = TrainingKnobs(optimizer=name, learning_rate=0.25, weight_decay=0.125)
    optimizer = optimizer_of([torch.nn.Parameter(torch.ones(2))], knobs)
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.25, 0.125)


@pytest.mark.parametrize("optimizer", ["adamp", "adamw"])
def test_same_seed_same_digits_another_seed_others(optimizer: str) -> None:
    first, epochs, _ = _run(_config(optimizer=optimizer), _features())
    torch.manual_seed(12345)
    second, _, _ = _run(_config(optimizer=optimizer), _features())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _, _ = _run(_config(optimizer=optimizer, seed=1), _features())
    assert not torch.equal(
        first["flow.blocks.0.block.subnet.0.base.weight"], other["flow.blocks.0.block.subnet.0.base.weight"]
    )
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize(("version", "task"), [("v3", 0), ("v3", 1), ("v4", 0)])
def test_products_in_bfloat16_train_near_the_same_and_leave_scores_in_float32(version: str, task: int) -> None:
    """Trained parameters stay float32 too; 2^-8 is how far bfloat16 rounds."""
    losses = {}
    for products in ("float32", "bfloat16"):
        config = _config(version, **{"training.products": products})
        base = train_task(_prepared(config, 0, None), _features(), 0, config, Randomness(0, "", 0), lambda epoch: None)
        detector = _prepared(config, task, base.state)
        reached = train_task(detector, _features(), task, config, Randomness(0, "", task), lambda epoch: None)
        losses[products] = [epoch.loss for epoch in reached.epochs]
        assert {layer.products for layer in detector.flow.layers()} == {None}
        assert {tensor.dtype for tensor in reached.state.values()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2**-8)


def test_tf32_is_allowed_while_training_alone_and_changes_nothing_on_a_cpu() -> None:
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    config = _config(**{"training.products": "tf32"})
    seen: list[tuple[bool, ...]] = []

    def train(stop: bool) -> Checkpoint:
        def look(epoch: Epoch) -> None:
            seen.append(tuple(switch.allow_tf32 for switch in switches))
            if stop:
                raise KeyboardInterrupt

        return train_task(_prepared(config, 0, None), _features(), 0, config, Randomness(0, "", 0), look)

    for switch in switches:
        switch.allow_tf32 = False  # As `open_environment` leaves them.
    reached = train(stop=False)
    assert seen == [(True, True)] * 3
    with pytest.raises(KeyboardInterrupt):
        train(stop=True)
    assert [switch.allow_tf32 for switch in switches] == [False, False]
    plain, _, _ = _run(_config(), _features())
    assert state_digest(reached.state) == state_digest(plain)


class _Reads(TorchFunctionMode):
    """Notes each call from Python that takes numbers from tensors to the host."""

    NAMES = frozenset({"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in self.NAMES:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class _OperatorsThatRead(TorchDispatchMode):
    """Notes each operator whose result, or its shape, needs numbers on the host."""

    NAMES = frozenset({"_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        # The result of an index by a mask has as many elements as the mask has true ones.
        masked = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if masked or name in self.NAMES:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamp", "adamw"])
@pytest.mark.parametrize("version", version_names())
def test_a_step_reads_nothing_from_the_device(version: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamP takes the path of a GPU here; its own test shows that the two paths are equal."""
    monkeypatch.setattr(adamp, "project_by_host", adamp.project_on_device)
    config = _config(version, optimizer=optimizer)
    for task in (0, 1):
        detector = _prepared(config, task, None)
        trained = optimizer_of(detector.trainable(task).values(), config.training)
        images, order = _features(), torch.arange(10)
        with _Reads() as calls, _OperatorsThatRead() as operators:
            train_step(detector, images[order[2:6]], task, config, trained)
        assert (calls.found, operators.found) == ([], [])


def test_a_read_would_be_noticed() -> None:
    with _Reads() as calls, _OperatorsThatRead() as operators:
        torch.ones(2).tolist()
        torch.ones(1).item()
        torch.ones(2)[torch.ones(2) > 0]
    assert calls.found == ["tolist", "item"]
    assert operators.found == ["_local_scalar_dense", "index"]


def test_drop_last_leaves_out_the_incomplete_batch() -> None:
    _, _, dropped = _run(_config(drop_last=True), _features(10))
    _, _, kept = _run(_config(drop_last=False), _features(10))
    steps = {name.split("/")[-1]: int(value) for name, value in dropped.items() if name.endswith("/step")}
    assert steps == {"step": 3 * 2}
    assert {int(value) for name, value in kept.items() if name.endswith("/step")} == {3 * 3}


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    _, epochs, _ = _run(_config(batch_size=64), _features(5))
    assert len(epochs) == 3


def _prepared(config: TrialConfig, task: int, base: dict[str, torch.Tensor] | None) -> Detector:
    """A detector as it is before `task` is trained; `base` is the state of task 0, if trained."""
    for number in range(task + 1):
        randomness = Randomness(config.seed, "", number)
        if number == 0:
            detector = Detector(config, SHAPE, randomness)
        detector.add_task(number, randomness)
        if number < task and base is not None:
            detector.load_task_state(number, base)
    return detector


def _same(first: Checkpoint, second: Checkpoint) -> bool:
    figures = [[replace(epoch, seconds=0.0) for epoch in one.epochs] for one in (first, second)]
    digests = [(state_digest(one.state), state_digest(one.optimizer)) for one in (first, second)]
    return figures[0] == figures[1] and digests[0] == digests[1]


@pytest.mark.parametrize(
    ("version", "task", "optimizer"), [("v3", 0, "adamp"), ("v3", 1, "adamw"), ("v4", 0, "adamw"), ("v6", 0, "adamp")]
)
def test_training_that_is_interrupted_anywhere_resumes_to_the_same_digits(
    version: str, task: int, optimizer: str, interruption: Any
) -> None:
    config = _config(version, optimizer=optimizer, **{"features.standardise": "per_task"})
    base = train_task(_prepared(config, 0, None), _features(), 0, config, Randomness(0, "", 0), lambda epoch: None)
    randomness = Randomness(0, "", task)
    detector = _prepared(config, task, base.state)
    with interruption() as counter:
        expected = train_task(detector, _features(), task, config, randomness, lambda epoch: None)
    assert state_digest(detector.task_state(task)) == state_digest(expected.state)
    where, begun = set(), set()
    for part in range(1, 8):
        kept: list[Checkpoint | None] = [None]
        cut_off = _prepared(config, task, base.state)
        # It may come while a `no_grad` ends, and this process continues.
        with (
            torch.enable_grad(),
            pytest.raises(interruption.Interrupted) as stopped,
            interruption(counter.calls * part // 8),
        ):
            train_task(cut_off, _features(), task, config, randomness, lambda epoch: None, on_checkpoint=kept.append)
        where |= {frame.name for frame in traceback.extract_tb(stopped.value.__traceback__)}
        epochs: list[Epoch] = []
        detector = _prepared(config, task, base.state)
        resumed = train_task(detector, _features(), task, config, randomness, epochs.append, kept[-1])
        assert [epoch.epoch for epoch in epochs] == [1, 2, 3][len(kept) - 1 :]
        assert _same(resumed, expected)
        assert state_digest(detector.task_state(task)) == state_digest(expected.state)
        begun.add(epochs[0].epoch)
    assert begun == {1, 2, 3}
    assert "step" in where


def test_later_epochs_do_not_change_an_earlier_checkpoint() -> None:
    config, randomness = _config(), Randomness(0, "", 0)
    kept: list[Checkpoint] = []
    digests: list[str] = []

    def keep(reached: Checkpoint) -> None:
        kept.append(reached)
        digests.append(state_digest(reached.state) + state_digest(reached.optimizer))

    train_task(_prepared(config, 0, None), _features(), 0, config, randomness, lambda epoch: None, on_checkpoint=keep)
    train_task(_prepared(config, 0, None), _features(), 0, config, randomness, lambda epoch: None, kept[0], keep)
    assert [state_digest(one.state) + state_digest(one.optimizer) for one in kept] == digests
    assert digests[3:] == digests[1:3]
    assert len(set(digests)) == 3


def test_training_that_resumes_from_the_last_epoch_trains_nothing() -> None:
    config, randomness = _config(), Randomness(0, "", 0)
    whole = train_task(_prepared(config, 0, None), _features(), 0, config, randomness, lambda epoch: None)
    detector, kept, told = _prepared(config, 0, None), [], []
    again = train_task(detector, _features(), 0, config, randomness, told.append, whole, kept.append)
    assert again is whole
    assert (kept, told) == ([], [])
    assert state_digest(detector.task_state(0)) == state_digest(whole.state)


def test_divergence_names_the_task_and_the_epoch() -> None:
    with pytest.raises(Diverged, match=r"task 0 \(leather\): the loss became .* in epoch \d of 3"):
        _run(_config(learning_rate=1e30, optimizer="adamw", gradient_clip=None), _features())


@pytest.mark.parametrize(("loss", "diverges"), [(0.9e10, False), (1.1e10, True), (-1.1e10, True)])
def test_a_finite_loss_beyond_1e10_is_divergence(loss: float, diverges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow.training.train_task.train_step", lambda *_: (torch.tensor(loss),) * 3)
    if diverges:
        with pytest.raises(Diverged, match="in epoch 1 of 1"):
            _run(_config(epochs=1), _features())
    else:
        _run(_config(epochs=1), _features())


def test_generators_are_named_and_independent() -> None:
    one = Randomness(0, "p", 1)
    assert torch.equal(torch.rand(4, generator=one("a")), torch.rand(4, generator=one("a")))
    draws = {
        float(torch.rand(1, generator=randomness(name)))
        for randomness in (one, Randomness(1, "p", 1), Randomness(0, "q", 1), Randomness(0, "p", 2))
        for name in ("a", "b")
    }
    assert len(draws) == 8
    assert all(math.isfinite(draw) for draw in draws)
