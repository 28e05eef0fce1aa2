"""The phases that each knob reaches, and a proof by training that it reaches no other."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from moleflow.cache.stage_state import state_digest
from moleflow.models.detector import Detector
from moleflow.models.memory_bank import MemoryBank
from moleflow.settings.config import TrialConfig, digest, reach
from moleflow.settings.knobs import Layer, fields, resolve, version_layer, version_names
from moleflow.training.train_task import Randomness, train_task

# Of every knob: a value that is neither the default nor any version's; the phases that it reaches
# (features reach training too); and the settings that this needs. With `OFF` it reaches nothing.
NOTHING = ""  # a label, or named by the digest of what it points at
RESIDUAL = {"adapter.form": "residual"}
KNOBS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "version": ("another", NOTHING, {}),
    "seed": (7, "training", {}),
    "data.tasks": (("x", "y"), NOTHING, {}),
    "data.image_size": (96, "features training", {}),
    "data.mask_size": (96, "scoring", {}),
    "data.interpolation": ("bicubic", "features training", {}),
    "data.value_range": ("content", "features training", {}),
    "data.validation_fraction": (0.5, "scoring training", {}),
    "data.validation_seed": (3, "training", {"data.validation_fraction": 0.25}),
    "data.validation_anomalies": ("synthetic", "scoring", {"data.validation_fraction": 0.25}),
    "data.validation_real_share": (
        0.5,
        "scoring",
        {"data.validation_fraction": 0.25, "data.validation_anomalies": "real"},
    ),
    "data.evaluate": ("test", "scoring", {"data.validation_fraction": 0.25}),
    "data.train_images": (5, "training", {}),
    "data.test_images": (5, "scoring", {}),
    "data.layout": ("visa", NOTHING, {}),
    "data.normal_names": (("good", "ok"), NOTHING, {}),
    "backbone.model": ("resnet18", "features training", {}),
    "backbone.weights": ("weights.safetensors", NOTHING, {}),
    "backbone.weights_seed": (3, "features training", {"backbone.weights": "random"}),
    "backbone.layers": ((2, 3), "features training", {}),
    "backbone.aggregate": ("concat", "features training", {}),
    "backbone.grid": (7, "features training", {}),
    "backbone.neighbourhood": (3, "features training", {}),
    "backbone.projection": (32, "features training", {}),
    "backbone.projection_seed": (3, "features training", {"backbone.projection": 64}),
    "backbone.projection_init": ("uniform", "features training", {"backbone.projection": 64}),
    "backbone.normalisation": ("imagenet", "features training", {}),
    "backbone.pooled_width": (128, "features training", {}),
    "backbone.storage": ("float16", "features training", {}),
    "features.standardise": ("task0", "training", {}),
    "features.position": (False, "training", {}),
    "features.position_scale": (0.5, "training", {"features.position": True}),
    "features.position_order": ("column_row", "training", {"features.position": True}),
    "flow.blocks": (3, "training", {}),
    "flow.clamp": (1.5, "training", {}),
    "flow.hidden_ratio": (1.0, "training", {}),
    "flow.permutation": (None, "training", {"flow.cpcf": False}),
    "flow.global_affine": (None, "training", {}),
    "flow.cpcf": (None, "training", {}),
    "flow.context": ("attention", "training", {"flow.cpcf": True}),
    "flow.context_kernel": (5, "training", {"flow.cpcf": True}),
    "flow.context_gate": (0.5, "training", {"flow.cpcf": True, "flow.context": "mean"}),
    "flow.context_from": ("all", "training", {"flow.cpcf": True}),
    "flow.subnets": (None, "training", {"flow.cpcf": False}),
    "flow.scale_context": (3, "training", {"flow.cpcf": False, "flow.subnets": "separate"}),
    "lora.enabled": (None, "training", {}),
    "lora.rank": (3, "training", {}),
    "lora.alpha": (3.0, "training", {"lora.scaling": "alpha/rank"}),
    "lora.scaling": (0.75, "training", {}),
    "lora.task0": (None, "training", {}),
    "lora.task_bias": (False, "training", {}),
    "lora.spatial": (None, "training", {}),
    "lora.grid_size": (3, "training", {"lora.spatial": True}),
    "lora.init": ("zero", "training", {}),
    "adapter.enabled": (False, "training", {}),
    "adapter.task0": (None, "training", {}),
    "adapter.form": (None, "training", {}),
    "adapter.later_gamma": (1.0, "training", {"adapter.form": "alignment"}),
    "adapter.task0_identity": (0.5, "training", {"adapter.task0": True} | RESIDUAL),
    "adapter.norm": ("none", "training", RESIDUAL),
    "adapter.film": (None, "training", RESIDUAL),
    "adapter.gate": (None, "training", RESIDUAL),
    "adapter.gate_init": (0.25, "training", RESIDUAL),
    "adapter.hidden": (5, "training", RESIDUAL),
    "adapter.mlp_layers": (3, "training", RESIDUAL),
    "adapter.output_init": ("random", "training", RESIDUAL),
    "adapter.gamma_dims": (4, "training", {"adapter.film": True, "optimizer": "adamp"} | RESIDUAL),
    "attention.enabled": (None, "training", {}),
    "attention.hidden": (64, "training", {"attention.enabled": True}),
    "attention.dropout": (0.3, "training", {"attention.enabled": True}),
    "mixer.kernel": (5, "training", {}),
    "auxiliary.couplings": (3, "training", {}),
    "auxiliary.hidden_share": (0.25, "training", {"auxiliary.couplings": 2}),
    "auxiliary.limit": (1.0, "training", {"auxiliary.couplings": 2}),
    "loss.nll_scale": ("per_dim", "training", {}),
    "loss.log_det": ("image_mean", "training", {"loss.focal_gamma": 1.0}),
    "loss.patch_reduction": ("sum", "training", {}),
    "loss.focal_gamma": (1.5, "training", {}),
    "loss.focal_form": ("relative", "training", {"loss.focal_gamma": 1.0}),
    "loss.focal_detach": (True, "training", {"loss.focal_gamma": 1.0}),
    "loss.tail_weight": (0.3, "training", {}),
    "loss.tail_share": (0.5, "training", {"loss.tail_weight": 0.5}),
    "loss.log_det_weight": (0.01, "training", {}),
    "loss.center_weight": (0.07, "training", {}),
    "loss.center_on": ("features", "training", {"loss.center_weight": 0.05}),
    "training.epochs": (3, "training", {}),
    "training.batch_size": (3, "training", {}),
    "training.learning_rate": (2e-3, "training", {}),
    "training.optimizer": (None, "training", {}),
    "training.weight_decay": (0.5, "training", {}),
    "training.schedule": ("constant", "training", {}),
    "training.final_fraction": (0.5, "training", {"training.schedule": "cosine"}),
    "training.warmup_epochs": (1, "training", {}),
    "training.schedule_by": ("epoch", "training", {}),
    "training.stop_at_nll": (1e6, "training", {"epochs": 2}),
    "training.lanes": (2, "training", {}),
    "training.gradient_clip": (0.1, "training", {}),
    "training.drop_last": (False, "training", {}),
    "training.products": ("bfloat16", "training", {}),
    "training.compile": (True, "training", {}),
    "scoring.image_score": ("max", "scoring", {}),
    "scoring.quantile": (0.5, "scoring", {"scoring.image_score": "quantile"}),
    "scoring.top_k": (5, "scoring", {"scoring.image_score": "top_k"}),
    "scoring.smoothing": (2.0, "scoring", {}),
    "scoring.log_det": ("image_mean", "scoring", {}),
    "router.kind": ("gaussian", NOTHING, {}),  # the only one there is
    "router.shrinkage": (0.5, "scoring", {}),
    "bank.enabled": (None, "training", {}),
    "bank.patches": (5, "training", {"bank.enabled": True}),
    "bank.pick": ("coreset", "training", {"bank.enabled": True}),
}
OFF: dict[str, dict[str, Any]] = {
    "data.validation_seed": {"data.validation_fraction": 0.0},
    "data.validation_anomalies": {"data.validation_fraction": 0.25, "data.evaluate": "test"},
    "data.validation_real_share": {"data.validation_fraction": 0.25, "data.validation_anomalies": "synthetic"},
    "data.evaluate": {"data.validation_fraction": 0.0},
    "data.test_images": {"data.evaluate": "validation", "data.validation_fraction": 0.25},
    "backbone.weights_seed": {"backbone.weights": "pretrained"},
    **{f"backbone.{name}": {"backbone.projection": None} for name in ("projection_seed", "projection_init")},
    **{f"features.{name}": {"features.position": False} for name in ("position_scale", "position_order")},
    "lora.alpha": {"lora.scaling": 0.25},
    "adapter.task0_identity": {"adapter.task0": False},
    "adapter.later_gamma": RESIDUAL,
    **{
        f"adapter.{name}": {"adapter.enabled": False}
        for name in ("task0", "norm", "film", "gate", "gate_init", "hidden", "output_init")
    },
    "adapter.mlp_layers": {"adapter.enabled": False},
    "adapter.gamma_dims": {"adapter.film": False},
    "flow.permutation": {"flow.cpcf": True},
    **{f"flow.{name}": {"flow.cpcf": False} for name in ("context", "context_kernel", "context_from")},
    "flow.context_gate": {"flow.cpcf": True, "flow.context": "conv"},
    "flow.subnets": {"flow.cpcf": True},
    "flow.scale_context": {"flow.subnets": "joint"},
    "lora.grid_size": {"lora.spatial": False},
    **{
        f"lora.{name}": {"lora.enabled": False} for name in ("rank", "scaling", "task0", "task_bias", "spatial", "init")
    },
    "auxiliary.hidden_share": {"auxiliary.couplings": 0},
    "auxiliary.limit": {"auxiliary.couplings": 0},
    "loss.tail_share": {"loss.tail_weight": 0.0},
    **{f"attention.{name}": {"attention.enabled": False} for name in ("hidden", "dropout")},
    "loss.focal_form": {"loss.focal_gamma": 0.0},
    "loss.focal_detach": {"loss.focal_gamma": 0.0},
    "loss.center_on": {"loss.center_weight": 0.0},
    "training.final_fraction": {"training.schedule": "constant"},
    "training.schedule_by": {"training.schedule": "constant", "warmup_epochs": 0},
    "scoring.quantile": {"scoring.image_score": "max"},
    "scoring.top_k": {"scoring.image_score": "quantile"},
    **{f"bank.{name}": {"bank.enabled": False} for name in ("patches", "pick")},
}
PAIRS = (
    ("raw", "sigmoid"),
    ("adamp", "adamw"),
    ("soft", "hard"),
    ("trained", "fixed"),
    ("joint", "separate"),
    ("residual", "alignment"),
)
SWITCHES = dict(PAIRS) | {second: first for first, second in PAIRS}
TASKS = range(3)
SMALL = {
    "flow.blocks": 2,
    "lora.rank": 2,
    "epochs": 2,
    "batch_size": 4,
    "warmup_epochs": 0,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
}


def config(version: str, **knobs: Any) -> TrialConfig:
    return resolve([version_layer(version, "test"), Layer("test", knobs)])


def flipped(start: TrialConfig, knob: str) -> TrialConfig:
    """`start` with one knob at another value; None in the table flips a switch."""
    section, _, name = knob.rpartition(".")
    nested = start.model_dump()
    place = nested[section] if section else nested
    other = KNOBS[knob][0]
    if other is None:
        other = (not place[name]) if isinstance(place[name], bool) else SWITCHES[place[name]]
    place[name] = other
    return TrialConfig.model_validate(nested)


def phases(first: TrialConfig, second: TrialConfig) -> str:
    """The phases whose reach tells the two apart."""
    found = [phase for phase in ("features", "scoring") if reach(first, phase) != reach(second, phase)]
    if any(reach(first, "training", task) != reach(second, "training", task) for task in TASKS):
        found.append("training")
    return " ".join(sorted(found))


def test_the_table_knows_every_knob() -> None:
    assert KNOBS.keys() == fields().keys()


@pytest.mark.parametrize("knob", KNOBS)
def test_a_knob_reaches_its_phases_and_no_other_in_any_version(knob: str) -> None:
    _, expected, needs = KNOBS[knob]
    for version in version_names():
        start = config(version, **needs)
        assert phases(start, flipped(start, knob)) == expected, version


@pytest.mark.parametrize("knob", OFF)
def test_a_knob_that_another_one_switches_off_reaches_nothing(knob: str) -> None:
    start = config("v3", **(KNOBS[knob][2] | OFF[knob]))
    assert phases(start, flipped(start, knob)) == NOTHING


@pytest.mark.parametrize("name", ["task0_identity", "norm", "film", "gate", "gate_init", "hidden", "output_init"])
def test_the_residual_adapters_knobs_reach_nothing_where_features_are_aligned(name: str) -> None:
    start = config("decoflow")
    assert start.adapter.form == "alignment"
    assert phases(start, flipped(start, f"adapter.{name}")) == NOTHING


@pytest.mark.parametrize("anomalies", ["synthetic", "real"])
def test_validation_anomalies_are_drawn_by_the_seed_of_the_split(anomalies: str) -> None:
    start = config("v3", validation_fraction=0.25, validation_anomalies=anomalies)
    assert phases(start, flipped(start, "data.validation_seed")) == "scoring training"


def test_real_anomalies_are_taken_from_the_test_even_where_validation_is_not_scored() -> None:
    start = config("v3", validation_fraction=0.25, evaluate="test")
    assert (
        phases(start, config("v3", validation_fraction=0.25, evaluate="test", validation_anomalies="real")) == "scoring"
    )


def test_a_value_that_changes_no_number_is_no_setting_of_its_own() -> None:
    by_rule = config("v3", **{"lora.rank": 4, "lora.alpha": 1.0, "lora.scaling": "alpha/rank"})
    for same in ({"lora.scaling": 0.25}, {"lora.scaling": "alpha/(2*rank)", "lora.alpha": 2.0}):
        assert phases(by_rule, config("v3", **({"lora.rank": 4} | same))) == NOTHING


@pytest.mark.parametrize(
    ("version", "knobs", "recorded"),
    [
        ("v1", {}, "77bec849fceb"),
        ("v3", {}, "4fb09cf6f45d"),
        ("v4", {"focal_gamma": 1}, "2e81678a146d"),
        ("v4.1", {"projection": 64}, "6e804296db14"),
        ("v6", {"schedule": "constant"}, "05a70fe90199"),
    ],
)
def test_an_added_knob_changes_no_recorded_key_at_its_default(
    version: str, knobs: dict[str, Any], recorded: str
) -> None:
    """Keys of stored features, stages and scores derive from these settings and the code."""
    found = config(version, **knobs)
    training = (reach(found, "training", task) for task in (0, 1))
    assert digest([reach(found, "features"), *training, reach(found, "scoring")])[:12] == recorded


def later_only(version: str, knob: str) -> bool:
    """True if a knob reaches training of later tasks, but not of task 0."""
    start = config(version, **KNOBS[knob][2])
    differs = [reach(start, "training", task) != reach(flipped(start, knob), "training", task) for task in TASKS]
    assert differs[1] == differs[2]
    return differs[1] and not differs[0]


@pytest.mark.parametrize("version", version_names())
def test_experts_and_adapters_reach_the_tasks_that_have_them(version: str) -> None:
    start = config(version)
    for knob in ("lora.rank", "lora.scaling", "lora.task_bias"):
        assert later_only(version, knob) is not start.lora.task0
    for knob in ("adapter.norm", "adapter.gate_init", "adapter.hidden", "adapter.output_init", "adapter.film"):
        assert later_only(version, knob) is not start.adapter.task0
    assert later_only(version, "training.warmup_epochs")


def test_the_later_start_of_gamma_reaches_later_tasks_alone() -> None:
    assert later_only("decoflow", "adapter.later_gamma")


def test_task0_switches_and_identity_reach_task_0_alone() -> None:
    for knob in ("lora.task0", "adapter.task0_identity"):
        start = config("v3")
        differs = [reach(start, "training", task) != reach(flipped(start, knob), "training", task) for task in TASKS]
        assert differs == [True, False, False]


# ---- the other direction: what reach leaves out does not change a trained number -----------------


@cache
def trained(settings: TrialConfig) -> tuple[str, ...]:
    """Digest of what each of three tasks learns from fixed features (6, 3, 3, 8)."""
    found = []
    bank = MemoryBank(settings.bank, torch.device("cpu"))
    detector = Detector(settings, (3, 3, 8), Randomness(settings.seed, "", 0))
    for task in TASKS:
        randomness = Randomness(settings.seed, "", task)
        features = torch.randn(6, 3, 3, 8, generator=torch.Generator().manual_seed(task)) + task
        if settings.bank.enabled:
            found.append(state_digest(bank.fill(features, randomness("bank"))))
            continue
        detector.add_task(task, randomness)
        detector.measure(task, features)
        train_task(detector, features, task, settings, randomness, lambda epoch: None)
        found.append(state_digest(detector.task_state(task)))
    return tuple(found)


def unreached(start: TrialConfig, other: TrialConfig) -> int:
    """Number of tasks, from the first on, that the difference between the two does not reach."""
    same = [reach(start, "training", task) == reach(other, "training", task) for task in TASKS]
    return [*same, False].index(False)


@pytest.mark.parametrize("version", [pytest.param("v1", marks=pytest.mark.process), "v3"])
def test_what_does_not_reach_a_task_leaves_its_training_as_it_was(version: str) -> None:
    compared = 0
    for knob in KNOBS:
        for switches in (KNOBS[knob][2], OFF.get(knob)):
            if switches is None:
                continue
            start = config(version, **(SMALL | switches))
            other = flipped(start, knob)
            count = unreached(start, other)
            if count:
                assert trained(start)[:count] == trained(other)[:count], knob
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("version", [pytest.param("v1", marks=pytest.mark.process), "v3"])
def test_what_reaches_training_alone_changes_a_trained_number(version: str) -> None:
    """So that the comparison above could fail."""
    # These choose images, which the features here stand for already. Lanes are not `train_task`'s.
    choice = ("data.validation_fraction", "data.validation_seed", "data.train_images", "training.lanes")
    compiled = ("training.compile",)  # Its digits may be equal; test_compilation.py trains with it.
    for knob, (_, expected, needs) in KNOBS.items():
        if expected == "training" and knob not in choice + compiled:
            start = config(version, **(SMALL | needs))
            assert trained(start) != trained(flipped(start, knob)), knob


def test_a_centre_loss_on_the_features_trains_to_the_bits_of_none() -> None:
    """The notes' first v5. It stays in the key, so its digests show that it changes nothing."""
    v3, on_features = config("v3", **SMALL), config("v5", **SMALL, center_on="features")
    assert phases(v3, on_features) == "training"
    assert trained(on_features) == trained(v3)
    assert trained(config("v5", **SMALL)) != trained(v3)
    focal = {"focal_gamma": 2.0, "focal_form": "relative"}
    assert trained(config("v5", **SMALL, **focal, center_on="features")) == trained(config("v3", **SMALL, **focal))
