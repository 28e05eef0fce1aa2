"""Time one training step and the scoring of one image beside their matrix products alone, and
beside FrEIA's block as it comes.

    python benchmarks/step.py [--device cuda] [--repeats 9]

Two shapes: that of a ViT-S/14 (D = 384, 16x16 patches) and of efficientnet_lite0 (D = 152, 14x14);
16 images a step, 8 blocks, rank 32. Features are random numbers: what they are changes no time.
Cases: v1's base on task 0, its experts on task 1, and v7 (focal, experts and adapter from the
start) on task 0. A step is forward, loss, backward, gradient clipping and AdamP.

`products` are the matrix products that the model cannot do without: forward, gradient of the input
where something before it trains, and gradient of the weights where they train; for an expert on a
frozen base those of rank R that its gradient takes, and no other. `as it comes` runs FrEIA's own
forward, experts as base(x) + s B(A x), timm's AdamP. All three run in turns in one process, on one
thread; medians, on the CPU of processor time (which other work on the machine inflates less), on a
GPU of elapsed time. `bf16` is the step with `training.products: bfloat16`; it is left out on a CPU
with AVX2 alone, which takes ten times as long.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from FrEIA.modules import AllInOneBlock
from torch import Tensor, nn

from moleflow.environment import open_environment
from moleflow.features.timm_import import import_timm
from moleflow.models.adapters import InputAdapter
from moleflow.models.detector import Detector
from moleflow.models.flow import Flow, PatchBlock
from moleflow.models.lora import LoraExpert, LoRALinear
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.train_task import Randomness, optimizer_of, train_step
from orchestrator.doctor.machine import SLOW_BFLOAT16

IMAGES = 16
SHAPES = {"ViT-S/14-like": (16, 16, 384), "efficientnet_lite0-like": (14, 14, 152)}
CASES = {"v1 task 0": ("v1", 0), "v1 task 1": ("v1", 1), "v7 task 0": ("v7", 0)}
Run = Callable[[], object]


class PlainLinear(nn.Module):
    """A layer and its expert as the formula stands: base(x) + s B(A x) + bias."""

    def __init__(self, layer: LoRALinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """y (P, outputs) for x (P, inputs)."""
        y: Tensor = self.layer.base(x)
        if self.layer.active is None:
            return y
        expert = self.layer.experts[self.layer.active]
        assert isinstance(expert, LoraExpert)
        update = nn.functional.linear(nn.functional.linear(x, expert.a), expert.b) * expert.scaling
        return y + (update if expert.bias is None else update + expert.bias)


class PlainBlock(nn.Module):
    """FrEIA's AllInOneBlock, run by FrEIA."""

    def __init__(self, block: PatchBlock) -> None:
        super().__init__()
        assert isinstance(block.block.subnet, nn.Sequential)
        layers = (PlainLinear(part) if isinstance(part, LoRALinear) else nn.ReLU() for part in block.block.subnet)
        subnet = nn.Sequential(*layers)
        self.block = AllInOneBlock(
            [(sum(block.splits),)],
            subnet_constructor=lambda *_: subnet,
            affine_clamping=block.clamp,
            global_affine_type="SOFTPLUS",
        )
        with torch.no_grad():
            for name in ("global_scale", "global_offset", "w_perm", "w_perm_inv"):
                self.block.get_parameter(name).copy_(block.block.get_parameter(name))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, H, W, D) and log_det (B, H, W) of x (B, H, W, D)."""
        (z,), log_det = self.block([x.reshape(-1, x.shape[-1])])
        return z.reshape(x.shape), log_det.reshape(x.shape[:-1])


@dataclass(frozen=True)
class Model:
    """A detector ready to be trained on a task or, `frozen`, to score with it."""

    config: TrialConfig
    detector: Detector
    task: int

    @classmethod
    def made(cls, case: str, shape: tuple[int, int, int], device: torch.device, plain: bool = False) -> Model:
        """The model of a case; `plain` with FrEIA's block as it comes."""
        version, task = CASES[case]
        config = resolve([version_layer(version, "this benchmark"), Layer("this benchmark", {"batch_size": IMAGES})])
        detector = Detector(config, shape, Randomness(0, "", 0))
        for number in range(task + 1):
            detector.add_task(number, Randomness(0, "", number))
        if plain:
            blocks = [PlainBlock(block) for block in detector.flow.blocks if isinstance(block, PatchBlock)]
            detector.flow.blocks = nn.ModuleList(blocks)
        detector.to(device)
        return cls(config, detector, task)

    def step(self, images: Tensor, plain: bool = False, products: torch.dtype | None = None) -> Run:
        """One training step on images (B, H, W, D)."""
        parameters, knobs = list(self.detector.trainable(self.task).values()), self.config.training
        self.detector.set_products(products)
        optimizer = optimizer_of(parameters, knobs)
        if plain:
            import_timm()
            theirs = importlib.import_module("timm.optim.adamp").AdamP
            optimizer = theirs(parameters, lr=knobs.learning_rate, weight_decay=knobs.weight_decay)
        return lambda: train_step(self.detector, images, self.task, self.config, optimizer)

    def score(self, image: Tensor) -> Run:
        """One image (1, H, W, D) through the frozen flow."""
        self.detector.requires_grad_(False).eval()

        @torch.no_grad()
        def run() -> object:
            return self.detector(image, self.task)

        return run


def products(model: Model, patches: int, train: bool) -> Run:
    """The matrix products of a step over so many patches, or those of a forward pass, each on
    operands of its own.
    """
    detector, task = model.detector, model.task
    trainable = set(detector.trainable(task)) if train else set()
    device = detector.position.device
    pairs: list[tuple[Tensor, Tensor]] = []

    def add(*dimensions: tuple[int, int, int]) -> None:
        pairs.extend((torch.randn(m, k, device=device), torch.randn(k, n, device=device)) for m, k, n in dimensions)

    def linear(inputs: int, outputs: int, of_input: bool, of_weight: bool) -> None:
        add((patches, inputs, outputs))
        if train and of_input:
            add((patches, outputs, inputs))
        if of_weight:
            add((outputs, patches, inputs))

    own = str(task)
    trained_before = any(name.startswith("adapters.") for name in trainable)
    if own in detector.adapters:
        adapter = detector.adapters[own]
        assert isinstance(adapter, InputAdapter)
        hidden = adapter.inner.out_features
        linear(detector.width, hidden, adapter.gamma is not None or adapter.norm_weight is not None, train)
        linear(hidden, detector.width, True, train)
    assert isinstance(detector.flow, Flow)
    base_trains = any(name.endswith("base.weight") for name in trainable)
    for number, layer in enumerate(detector.flow.layers()):
        inputs, outputs = layer.base.in_features, layer.base.out_features
        linear(inputs, outputs, number > 0 or trained_before, base_trains)
        if train and own in layer.experts:
            rank = model.config.lora.rank
            if base_trains:
                add((rank, outputs, inputs), (outputs, inputs, rank))
            else:
                add(
                    (patches, inputs, rank), (patches, outputs, rank), (outputs, patches, rank), (rank, patches, inputs)
                )
        if number % 2:  # After a block's second layer comes its permutation.
            linear(detector.width, detector.width, True, False)

    def run() -> object:
        return [torch.mm(a, b) for a, b in pairs]

    return run


def medians(runs: dict[str, Run], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, run in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            seconds = _timed(run, device)
            if turn > 1:  # The first ones draw memory.
                found[name].append(seconds)
    return {name: statistics.median(times) for name, times in found.items()}


def _timed(run: Run, device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def report(device: torch.device, repeats: int) -> None:
    """Print a row a case and shape."""
    print(
        "                                        products   step  as it comes   bf16 |  step/products  as it comes/products"
    )
    for name, shape in SHAPES.items():
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(IMAGES, *shape, generator=draws).to(device)
        patches = shape[0] * shape[1]
        for case in CASES:
            ours, plain, rough = (Model.made(case, shape, device, plain) for plain in (False, True, False))
            step = {
                "products": products(ours, IMAGES * patches, train=True),
                "step": ours.step(images),
                "as it comes": plain.step(images, plain=True),
            }
            if device.type == "cuda" or torch.backends.cpu.get_cpu_capability() != SLOW_BFLOAT16:
                step["bf16"] = rough.step(images, products=torch.bfloat16)
            _row(f"{name}, {case}: step", medians(step, repeats, device))
            score = {
                "products": products(ours, patches, train=False),
                "step": ours.score(images[:1]),
                "as it comes": plain.score(images[:1]),
            }
            _row(f"{name}, {case}: one image", medians(score, 5 * repeats, device))


def _row(title: str, seconds: dict[str, float]) -> None:
    bf16 = f"{1e3 * seconds['bf16']:7.1f}" if "bf16" in seconds else "      -"
    own, theirs = (seconds[name] / seconds["products"] for name in ("step", "as it comes"))
    times = "  ".join(f"{1e3 * seconds[name]:8.1f}" for name in ("products", "step", "as it comes"))
    print(f"{title:48s} {times} {bf16} ms | {own:5.2f} {theirs:5.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    report(open_environment(given.device).device, given.repeats)
