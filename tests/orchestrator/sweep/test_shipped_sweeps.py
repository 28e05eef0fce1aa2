from pathlib import Path

import pytest

from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.task_list import classes_of_task
from moleflow.settings.yaml_reader import read_mapping
from orchestrator.search.space import Space
from orchestrator.sweep.expansion import expand, trials_of
from orchestrator.sweep.sweep import load_sweep
from orchestrator.sweep.trial import Inputs, label

SWEEPS = Path(__file__).parents[3] / "sweeps"
FILES = sorted(SWEEPS.glob("*.yaml"))
TABLES = [path for path in FILES if "search" not in read_mapping(path)]
EMBEDDED = ("leather", "grid", "transistor")
DECOFLOW = ("decoflow", "decoflow_ablation", "tail_weight")  # Sweeps on the settings of DeCoFlow's authors.


def test_there_are_sweeps() -> None:
    assert {path.stem for path in FILES} >= {"v7_gamma", "versions", "lora_scaling", "center_weight", "mvtec15"}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_sweep_loads_and_expands_with_and_without_data(path: Path) -> None:
    real = load_sweep(path, data_root=Path("/images"))
    assert real.name == path.stem, "a sweep is found by its name"
    assert real.question.endswith("?")
    assert path.read_text().startswith("# "), "a comment says which question the sweep answers"
    assert real.baseline
    assert len(real.seeds) >= 3, "seed noise needs seeds"
    assert len(expand(real).variants) > 1

    without = load_sweep(path)
    assert without.name == f"{path.stem}-demo"
    assert without.note.startswith("no data root given")
    assert without.knobs == real.knobs, "the same question"
    assert load_sweep(path, base="demo").spec() == without.spec()
    inputs = Inputs(dict.fromkeys(EMBEDDED, "digest"), "weights", "embedded")
    assert 2 <= len(trials_of(without, expand(without).variants, lambda _: inputs)) <= 16, "a first look takes minutes"


def test_the_search_starts_from_the_notes_own_settings() -> None:
    sweep = load_sweep(SWEEPS / "search_v3.yaml", data_root=Path("/images"))
    inputs = Inputs(dict.fromkeys(EMBEDDED, "digest"), "weights", "images")
    space = Space(sweep, lambda config: inputs)
    (first,) = space.trials(space.base())
    assert (first.config.training.epochs, first.config.training.learning_rate) == (40, 1e-4)
    assert first.config.data.evaluate == "validation"
    assert space.parameters(space.base()).keys() == space.base().keys(), "the start lies in the space"
    tested = space.test_trials(space.base())
    assert [trial.config.seed for trial in tested] == [0, 1, 2]
    assert {trial.config.data.evaluate for trial in tested} == {"all"}
    assert len(expand(load_sweep(SWEEPS / "search_v3.yaml")).variants) > 1


MEASURED_FOOTING = "v7_stopped_nll"
"""Stops at an NLL that was measured with efficientnet_lite0, so it runs on that."""


@pytest.mark.parametrize(
    "path", [p for p in TABLES if p.stem not in (*DECOFLOW, MEASURED_FOOTING)], ids=lambda path: path.stem
)
def test_every_sweep_of_the_notes_versions_uses_their_own_settings(path: Path) -> None:
    for variant in expand(load_sweep(path, data_root=Path("/images"))).variants:
        config = variant.config
        if path.stem != "backbone":
            assert config.backbone.model == "vit_base_patch16_224.augreg2_in21k_ft_in1k"
            assert config.data.image_size == 224
        assert (config.training.epochs, config.training.learning_rate) == (40, 1e-4)
        assert (
            config.data.tasks[:3] == EMBEDDED
            or (path.stem == "task_order" and set(config.data.tasks) == set(EMBEDDED))
            or (path.stem == "scenarios" and len(config.data.classes) == 15)
        )


def test_v7_is_compared_with_a_v3_that_stops_where_v7_ended() -> None:
    found = configurations(MEASURED_FOOTING)
    assert [(of.version, of.loss.focal_gamma, of.training.stop_at_nll) for of in found] == [
        ("v3", 0.0, None),
        ("v3", 0.0, -16.0),
        ("v7", 2.0, None),
    ]
    plain, stopped, _ = found
    training = stopped.training.model_copy(update={"stop_at_nll": None})
    assert stopped.model_copy(update={"training": training}) == plain


def test_the_demo_has_five_variants_and_two_seeds() -> None:
    sweep = load_sweep(SWEEPS / "v7_gamma.yaml", base="demo")
    assert [label(variant.factors) for variant in expand(sweep).variants] == [
        "focal_gamma=0",
        "focal_gamma=1 focal_form=joint",
        "focal_gamma=1 focal_form=relative",
        "focal_gamma=2 focal_form=joint",
        "focal_gamma=2 focal_form=relative",
    ]
    assert sweep.seeds == (0, 1)


def configurations(name: str) -> list[TrialConfig]:
    return [variant.config for variant in expand(load_sweep(SWEEPS / f"{name}.yaml", data_root=Path("/i"))).variants]


@pytest.fixture(scope="module")
def versions() -> dict[str, TrialConfig]:
    """{version: its configuration} in the sweep of versions."""
    return {config.version: config for config in configurations("versions")}


@pytest.mark.parametrize("name", ["v7_gamma", "center_weight"])
def test_the_first_variants_of_gamma_and_centre_weight_are_v3(name: str, versions: dict[str, TrialConfig]) -> None:
    first = configurations(name)[0]
    assert first.model_copy(update={"version": "v3"}) == versions["v3"]


def test_v2s_ablation_starts_at_v1_and_ends_at_v2(versions: dict[str, TrialConfig]) -> None:
    ablation = configurations("v2_ablation")
    assert [config.lora.effective_scaling for config in ablation] == [1 / 64, 1 / 64, 1 / 32, 1 / 32]
    assert ablation[0] == versions["v1"]
    assert ablation[3].model_copy(update={"version": "v2"}) == versions["v2"]


def test_v3s_ablation_undoes_each_of_its_five_changes(versions: dict[str, TrialConfig]) -> None:
    first, *others = configurations("v3_ablation")
    assert first == versions["v3"]
    v3 = flatten_config(first)
    changed = [{path for path, value in flatten_config(other).items() if value != v3[path]} for other in others]
    assert changed == [
        {"adapter.norm"},
        {"adapter.film"},
        {"adapter.gate", "adapter.gate_init"},
        {"adapter.hidden"},
        {"adapter.task0"},
    ]


def test_v4s_ablation_starts_at_v3_and_ends_at_v4(versions: dict[str, TrialConfig]) -> None:
    ablation = configurations("v4_ablation")
    assert ablation[0].model_copy(update={"version": "v3"}) == versions["v3"]
    assert ablation[-1] == versions["v4"]


@pytest.mark.parametrize("name", DECOFLOW)
def test_sweeps_of_decoflow_use_its_authors_settings(name: str) -> None:
    for config in configurations(name):
        assert (config.backbone.model, config.backbone.layers) == ("wide_resnet50_2", (2, 3))
        assert (config.backbone.pooled_width, config.flow.blocks, config.flow.permutation) == (768, 6, "hard")
        assert (config.training.epochs, config.training.learning_rate, config.training.schedule_by) == (
            60,
            3e-4,
            "epoch",
        )
        assert (config.scoring.image_score, config.scoring.top_k) == ("top_k", 3)
        assert len(config.data.tasks) == 15
        assert list(config.data.tasks) == sorted(config.data.tasks)


def test_decoflow_is_compared_with_v3_and_v7_on_one_footing() -> None:
    v3, v7, decoflow = (flatten_config(config) for config in configurations("decoflow"))
    assert [settings["version"] for settings in (v3, v7, decoflow)] == ["v3", "v7", "decoflow"]
    changed = {path.partition(".")[0] for path, value in decoflow.items() if value != v3[path]}
    assert changed == {"version", "lora", "adapter", "flow", "mixer", "auxiliary", "loss"}


def test_decoflows_ablation_takes_away_one_part_at_a_time() -> None:
    first, *others = configurations("decoflow_ablation")
    (version,) = [config for config in configurations("decoflow") if config.version == "decoflow"]
    assert first == version
    whole = flatten_config(first)
    changed = [{path: v for path, v in flatten_config(other).items() if v != whole[path]} for other in others]
    assert changed == [
        {"loss.tail_weight": 0.0},
        {"adapter.enabled": False},
        {"mixer.kernel": None},
        {"flow.scale_context": None},
        {"auxiliary.couplings": 0},
        {"lora.enabled": False},
    ]


def test_fifteen_classes() -> None:
    tasks = load_sweep(SWEEPS / "mvtec15.yaml", data_root=Path("/i")).settings("v3")["data.tasks"]
    assert len(set(tasks)) == 15


def test_the_scenarios_are_14_1_and_10_5_and_5_times_3_of_the_same_classes() -> None:
    found = [config.data for config in configurations("scenarios") if config.version == "v3"]
    assert [[len(classes_of_task(task)) for task in data.tasks] for data in found] == [[14, 1], [10, 5], [3] * 5]
    (classes,) = {data.classes for data in found}
    assert list(classes) == sorted(classes)
    assert set(classes) == set(load_sweep(SWEEPS / "mvtec15.yaml", data_root=Path("/i")).settings("v3")["data.tasks"])


def test_the_scenarios_of_the_embedded_images_learn_two_classes_at_once() -> None:
    tasks = {variant.config.data.tasks for variant in expand(load_sweep(SWEEPS / "scenarios.yaml")).variants}
    assert tasks == {(("leather", "grid"), "transistor"), ("leather", ("grid", "transistor"))}


def test_the_example_of_the_documentation_is_the_sweep(tmp_path: Path) -> None:
    text = (SWEEPS.parent / "docs" / "sweep-file.md").read_text()
    example = tmp_path / "v7_gamma.yaml"
    example.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    shown, own = (load_sweep(path, data_root=Path("/images")) for path in (example, SWEEPS / "v7_gamma.yaml"))
    assert expand(shown) == expand(own)
    assert set(read_mapping(example)) < set(read_mapping(SWEEPS / "v7_gamma.yaml"))
