"""The frozen backbone: images in, one grid of patch features out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from moleflow.environment import Environment
from moleflow.errors import InvalidInput, WeightsUnavailable, did_you_mean
from moleflow.features.timm_import import import_timm
from moleflow.features.weights import PACKAGE, PRETRAINED, RANDOM, weights_file
from moleflow.settings.config import BackboneKnobs, TrialConfig

timm = import_timm()

# On the CPU the kernels, and so the last bits, depend on the number of images in a batch. One at a
# time makes a feature a function of its image alone. On a GPU a batch has a fixed size, filled with
# zeros.
_BATCH = {"cpu": 1, "cuda": 32}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and standard deviation of ImageNet's pixels by channel, at a range of 0 to 1."""


class FrozenBackbone:
    """A timm model without its head, never trained.

    Each chosen layer is resized to one grid (averaged down, or enlarged bilinearly), optionally
    averaged over a window of patches and projected by a fixed random map. Then the layers become
    one vector a patch: their mean, or side by side in the order of the configuration.

    With `pooled_width` a layer is first embedded on its own grid (`patch_embedding`), and the first
    layer of the configuration gives the grid: PatchCore's features (Roth et al. 2022).

    Args:
        config: the trial.
        environment: where features are computed.

    Attributes:
        width: features a patch, D.
        grid: patches a side, H = W.

    Raises:
        InvalidInput: unknown model or layer, weights that are missing or do not fit, or layers that
            cannot be averaged.
    """

    def __init__(self, config: TrialConfig, environment: Environment) -> None:
        self._config = config.backbone
        self._size = config.data.image_size
        self._device = environment.device
        self._batch = _BATCH[environment.device_kind]
        # Building draws from torch's global generator, whose state has to stay as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.weights_seed)
            self._model: Any = _build(self._config, self._size)
        self._model.eval().requires_grad_(False).to(self._device)
        statistics = IMAGENET if self._config.normalisation == "imagenet" else self._model.pretrained_cfg
        self._mean = torch.tensor(statistics["mean"], device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(statistics["std"], device=self._device).view(1, 3, 1, 1)
        self._order = _layer_order(self._config, len(self._model.feature_info))

        maps = self._layers(np.zeros((1, self._size, self._size, 3), dtype=np.uint8))
        first_or_coarsest = maps[0] if self._config.pooled_width else min(maps, key=lambda layer: layer.shape[-1])
        self.grid: int = self._config.grid or first_or_coarsest.shape[-1]
        widths = [self._config.pooled_width or layer.shape[1] for layer in maps]
        self._projections = _projections(self._config, widths, self._device)
        if self._config.projection is not None:
            widths = [self._config.projection] * len(widths)
        if self._config.aggregate == "mean" and len(set(widths)) > 1:
            given = f"layers {', '.join(map(str, self._config.layers))} are {', '.join(map(str, widths))} wide"
            raise InvalidInput(
                f"backbone.aggregate: given 'mean', but {given}; take aggregate: concat, or set backbone.projection"
            )
        self.width: int = widths[0] if self._config.aggregate == "mean" else sum(widths)

    @torch.no_grad()
    def extract(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Patch features of RGB images.

        Args:
            images: uint8 (N, S, S, 3) with S the configuration's image size.

        Returns:
            float32 (N, H, W, D) on the CPU.
        """
        shape = (self._size, self._size, 3)
        if images.shape[1:] != shape or images.dtype != np.uint8:
            raise ValueError(
                f"images: given {images.dtype} {images.shape}, allowed: uint8 (N, {', '.join(map(str, shape))})"
            )
        out = torch.empty(len(images), self.grid, self.grid, self.width)
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            filled = np.zeros((self._batch, *shape), dtype=np.uint8)
            filled[: len(part)] = part
            out[start : start + len(part)] = self._features(filled)[: len(part)].cpu()
        return out

    def _features(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """(B, H, W, D) of one batch."""
        layers = []
        for position, layer in enumerate(self._layers(images)):
            if self._config.pooled_width is not None:
                layer = patch_embedding(layer, self._config.pooled_width)
            grid = _to_grid(layer, self.grid)
            if self._config.neighbourhood > 1:
                side = self._config.neighbourhood
                # Patches outside the image are left out of the mean. As zeros they would dim the
                # border.
                grid = F.avg_pool2d(grid, side, stride=1, padding=side // 2, count_include_pad=False)
            vectors = grid.permute(0, 2, 3, 1)
            layers.append(self._projections[position](vectors) if self._projections else vectors)
        return torch.stack(layers).mean(dim=0) if self._config.aggregate == "mean" else torch.cat(layers, dim=-1)

    @torch.no_grad()
    def _layers(self, images: npt.NDArray[np.uint8]) -> list[torch.Tensor]:
        """The maps (B, C, h, w) of the chosen layers as configured, without final norm."""
        pixels = torch.tensor(images, device=self._device).permute(0, 3, 1, 2).float() / 255
        ascending = sorted(self._config.layers)
        # The model removes its own prefix tokens (class, registers).
        maps: list[torch.Tensor] = self._model.forward_intermediates(
            (pixels - self._mean) / self._std,
            indices=ascending,
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return [maps[i] for i in self._order]


def _layer_order(config: BackboneKnobs, count: int) -> list[int]:
    """The position of each configured layer among the sorted ones."""
    for layer in config.layers:
        if not 0 <= layer < count:
            raise InvalidInput(
                f"backbone.layers: given {layer}, but {config.model} has the layers 0 to {count - 1}; choose among them"
            )
    if len(set(config.layers)) != len(config.layers):
        raise InvalidInput(f"backbone.layers: given {list(config.layers)}; name each layer once")
    return [sorted(config.layers).index(layer) for layer in config.layers]


def _to_grid(layer: torch.Tensor, grid: int) -> torch.Tensor:
    """A map (B, C, h, w) as (B, C, grid, grid)."""
    if layer.shape[-1] == grid:
        return layer
    if layer.shape[-1] > grid:
        return F.adaptive_avg_pool2d(layer, grid)
    return F.interpolate(layer, size=(grid, grid), mode="bilinear", align_corners=False)


def patch_embedding(layer: torch.Tensor, width: int) -> torch.Tensor:
    """Return PatchCore's embedding (B, width, h, w) of a layer's map (B, C, h, w).

    The 3x3 window around a place, with zeros outside the map, is a vector of C * 9 numbers, with
    the 9 numbers of a channel side by side. Adaptive average pooling makes `width` numbers of it:
    the means of `width` bins, which overlap where C * 9 is no multiple of `width`, and repeat where
    it is smaller.
    """
    batch, _, rows, columns = layer.shape
    windows = F.unfold(layer, kernel_size=3, padding=1).transpose(1, 2)  # (B, h * w, C * 9)
    pooled = F.adaptive_avg_pool1d(windows, width)
    return pooled.transpose(1, 2).reshape(batch, width, rows, columns)


Projection = Callable[[torch.Tensor], torch.Tensor]


def _projections(config: BackboneKnobs, widths: list[int], device: torch.device) -> list[Projection]:
    """One fixed linear map (..., in) -> (..., out) a layer; [] without projection.

    normal: weights from N(0, 1/in), without bias. uniform: weights and bias uniform in
    +-1/sqrt(in), so of variance 1/(3 in), as torch's nn.Linear starts.
    """
    if config.projection is None:
        return []
    generator = torch.Generator().manual_seed(config.projection_seed)
    return [_projection(width, config.projection, config.projection_init, generator, device) for width in widths]


def _projection(inputs: int, outputs: int, init: str, generator: torch.Generator, device: torch.device) -> Projection:
    if init == "normal":
        matrix = (torch.randn(inputs, outputs, generator=generator) / inputs**0.5).to(device)
        return lambda vectors: vectors @ matrix
    bound = inputs**-0.5
    weight, bias = (
        torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device)
        for shape in ((outputs, inputs), (outputs,))
    )
    return lambda vectors: F.linear(vectors, weight, bias)


def _build(config: BackboneKnobs, image_size: int) -> Any:
    """The model with its weights on the CPU."""
    statistics = _model_facts(config.model)
    options: dict[str, Any] = {"num_classes": 0}
    if statistics["fixed_input_size"]:
        options["img_size"] = image_size  # Position codes are resampled to it.
    path = weights_file(config)
    if path is not None:
        # The model's own filter renames and resamples tensors. Without a classifier of another size
        # timm then loads strictly, so a file that does not fit is an error.
        options["pretrained_cfg_overlay"] = {
            "state_dict": _read_state(path, config, statistics),
            "num_classes": 0,
            "label_offset": 0,
            "custom_load": False,
        }
    try:
        model = timm.create_model(config.model, pretrained=config.weights != RANDOM, **options)
    except Exception as error:  # timm, its models and the download libraries raise anything.
        kind = WeightsUnavailable if path is None and config.weights == PRETRAINED else InvalidInput
        raise kind(_explain(config, image_size, path, error)) from error
    model.pretrained_cfg.pop("state_dict", None)  # A second copy of the weights.
    if getattr(model, "forward_intermediates", None) is None:
        raise InvalidInput(f"backbone.model: timm's {config.model} does not return its inner layers; use another model")
    patch = max(layer["reduction"] for layer in model.feature_info)
    if statistics["fixed_input_size"] and image_size % patch:
        near = max(1, image_size // patch) * patch
        raise InvalidInput(
            f"data.image_size: given {image_size}, but {config.model} needs a multiple of {patch}; set {near}"
        )
    return model


def _model_facts(name: str) -> dict[str, Any]:
    """Timm's record of a model: input statistics, fixed size or not, names of the classifier.

    Raises:
        InvalidInput: timm has no such model, or no such weights for it.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        # The name with its tag is nearer to what was meant than the architecture alone.
        hint = did_you_mean(name, timm.list_pretrained()) if tag else ""
        hint = hint or did_you_mean(architecture.rpartition("/")[2], timm.list_models())
        other = "; only timm's own models can be used" if "/" in name else "; timm.list_models() lists them all"
        raise InvalidInput(f"backbone.model: timm has no model '{name}'{hint or other}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        allowed = ", ".join(sorted(tagged)) or f"{architecture} alone"
        raise InvalidInput(
            f"backbone.model: timm has no weights '{name}'; allowed: {allowed}{did_you_mean(name, tagged)}"
        )
    record = timm.get_pretrained_cfg(name)
    if record is None:
        raise InvalidInput(
            f"backbone.model: timm does not say how images are normalised for {name}; take another model"
        )
    facts: dict[str, Any] = record.to_dict()
    return {"fixed_input_size": False, "classifier": None} | facts


def _read_state(path: Path, config: BackboneKnobs, statistics: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The file's weights as float32, without the classifier."""
    try:
        state: dict[str, torch.Tensor] = timm.models.load_state_dict(
            str(path)
        )  # safetensors, or torch without pickled code
    except Exception as error:  # Neither format says which errors a damaged file raises.
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(
            f"backbone.weights: {path}: no safetensors or torch weight file that can be read ({reason})"
        ) from None
    if config.weights == PACKAGE:
        state = _package_state(state, config)
    heads = statistics["classifier"] or ()
    heads = (heads,) if isinstance(heads, str) else heads  # Some models have two.
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if not name.startswith(tuple(f"{head}." for head in heads))
    }


def _package_state(state: dict[str, torch.Tensor], config: BackboneKnobs) -> dict[str, torch.Tensor]:
    """The package's weights under timm's names; both list the same tensors in the same order."""
    if config.model.partition(".")[0] != "efficientnet_lite0":
        raise InvalidInput(
            f"backbone.weights: '{PACKAGE}' fits backbone.model efficientnet_lite0, given '{config.model}'"
        )
    names = timm.create_model("efficientnet_lite0").state_dict()
    counters = "num_batches_tracked"
    wanted = [name for name in names if not name.endswith(counters)]
    values = [value for name, value in state.items() if not name.endswith(counters)]
    return dict(zip(wanted, values, strict=True))


def _explain(config: BackboneKnobs, image_size: int, path: Path | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if path is not None:
        return f"backbone.weights: {path} does not fit {config.model} at {image_size} pixels: {reason}"
    if config.weights == PRETRAINED:
        remedy = (
            "go online once (moleflow-sweep prefetch FILE), give a downloaded file as backbone.weights, or use "
            "--base efficientnet, whose weights come with the install"
        )
        if type(error).__name__ == "LocalEntryNotFoundError":  # The hub's own text has no remedy.
            reason = "no network, and not in the cache"
        return f"backbone.weights: timm's weights of {config.model} cannot be fetched ({reason[:120]}); {remedy}"
    return f"backbone.model: timm cannot build {config.model} for {image_size} pixels: {reason}"
