"""Low-rank experts: a frozen linear layer plus one small update per task."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from moleflow.models.cached_tensor import CachedTensorValue
from moleflow.models.seeded_linear import seeded_linear
from moleflow.models.spatial_lora import SpatialLoraExpert
from moleflow.settings.config import LoraKnobs


class LoraExpert(nn.Module):
    """One task's update of one linear layer: x -> scaling * B A x + bias (Hu et al. 2021).

    The bias is the notes' task bias. A (R, inputs) starts Xavier-uniform, B (outputs, R) and the
    bias (outputs,) start at zero, so a new expert changes nothing. With `init: zero` A starts at
    zero too, and then neither factor ever gets a gradient.

    Args:
        inputs: length of x.
        outputs: length of the update.
        lora: rank R, scaling and start values.
        generator: source of A's start values.
    """

    def __init__(self, inputs: int, outputs: int, lora: LoraKnobs, generator: torch.Generator) -> None:
        super().__init__()
        self.scaling: float | Tensor = lora.effective_scaling
        self.a = nn.Parameter(torch.empty(lora.rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, lora.rank))
        self.bias = nn.Parameter(torch.zeros(outputs)) if lora.task_bias else None
        if lora.init == "xavier":
            nn.init.xavier_uniform_(self.a, generator=generator)
        else:
            nn.init.zeros_(self.a)

    def forward(self, x: Tensor, base: nn.Linear, cache: CachedTensorValue[Tensor]) -> Tensor:
        """Return y (P, outputs) of x (P, inputs) through `base` with this update.

        y has the dtype of x. Without gradients W + s B A comes from `cache`.
        """
        bias = base.bias if self.bias is None else base.bias + self.bias
        if torch.is_grad_enabled():
            # In lanes the scaling is a tensor, a number a lane, which addmm takes no `alpha` from.
            b, scaling = (self.scaling * self.b, 1.0) if isinstance(self.scaling, Tensor) else (self.b, self.scaling)
            y: Tensor = _MergedLinear.apply(x, base.weight, bias, self.a, b, scaling)[0]  # type: ignore[no-untyped-call]
            return y
        sources = base.weight, self.a, self.b
        assert isinstance(self.scaling, float)
        scaling = self.scaling
        merged = cache.get(lambda: _merged(*sources, scaling, x.dtype), sources, x.dtype)
        return torch.addmm(bias.to(x.dtype), x, merged.T)


class _MergedLinear(torch.autograd.Function):
    """y = x (W + s B A)^T + c, in the dtype of x.

    Shapes: x (P, inputs), W (outputs, inputs), c (outputs,), A (R, inputs), B (outputs, R).

    The matrices are added first, so the cost of y and of the gradient of x does not depend on R.
    With G = dL/dy (P, outputs) and V = G^T x = dL/d(W + s B A):
        dL/dx = G (W + s B A),   dL/dW = V,   dL/dA = s B^T V,   dL/dB = s V A^T.
    Where W is frozen, V is never formed: B^T V = (G B)^T x and V A^T = G^T (x A^T) have rank R.
    """

    generate_vmap_rule = True  # Lanes train several flows as one.

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
        merged = _merged(weight, a, b, scaling, x.dtype)
        return torch.addmm(bias.to(x.dtype), x, merged.T), merged

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, _, _, a, b, scaling = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, output[1], a, b)
        ctx.scaling = scaling

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        grad_x = grad @ merged if ctx.needs_input_grad[0] else None
        grad_weight = grad.T @ x if ctx.needs_input_grad[1] else None
        grad_bias = grad.sum(dim=0) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[3]:
            return grad_x, grad_weight, grad_bias, None, None, None
        if grad_weight is not None:
            grad_weight = grad_weight.to(a.dtype)
            grad_a, grad_b = b.T @ grad_weight, grad_weight @ a.T
        else:
            # The large products run in the dtype of x, such as bfloat16; parameters keep theirs.
            low_a, low_b = a.to(x.dtype), b.to(x.dtype)
            grad_a, grad_b = ((grad @ low_b).T @ x).to(a.dtype), (grad.T @ (x @ low_a.T)).to(b.dtype)
        return grad_x, grad_weight, grad_bias, ctx.scaling * grad_a, ctx.scaling * grad_b, None


def _merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """Return W + s B A (outputs, inputs)."""
    return torch.addmm(weight, b, a, alpha=scaling).to(dtype)


class LoRALinear(nn.Module):
    """A linear layer shared by all tasks, with at most one expert per task.

    Attributes:
        active: name of the task whose expert is used; None uses the base layer.
        shape: (H, W) of the current image's patch grid, for experts that depend on the position.
        products: dtype of the matrix products and of the output; None is that of the input.
            Spatial experts compute in the dtype of their parameters.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = seeded_linear(inputs, outputs, generator)
        self.experts = nn.ModuleDict()
        self.active: str | None = None
        self.shape = (1, 1)
        self.products: torch.dtype | None = None
        self._cache: CachedTensorValue[Tensor] = CachedTensorValue()

    def add_expert(self, task: int, lora: LoraKnobs, generator: torch.Generator) -> Self:
        """Give `task` an expert of its own, and return this layer."""
        kind = SpatialLoraExpert if lora.spatial else LoraExpert
        self.experts[str(task)] = kind(self.base.in_features, self.base.out_features, lora, generator)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return y (P, outputs) of x (P, inputs)."""
        expert = None if self.active is None else self.experts[self.active]
        low = x if self.products is None else x.to(self.products)
        if isinstance(expert, LoraExpert):
            y: Tensor = expert(low, self.base, self._cache)
            return y
        y = nn.functional.linear(low, self.base.weight.to(low.dtype), self.base.bias.to(low.dtype))
        return y if expert is None else y + expert(x.to(self.base.weight.dtype), self.shape).to(y.dtype)
