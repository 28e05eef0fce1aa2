import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moleflow.errors import InvalidInput
from moleflow.settings.config import digest
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import Sweep, load_sweep, make_sweep

REAL = Path("/images")


def make(document: dict[str, Any], **options: Any) -> Sweep:
    return make_sweep({"name": "s", "version": "v7", **document}, "s.yaml", Path(), **options)


def refused(document: dict[str, Any], **options: Any) -> str:
    with pytest.raises(InvalidInput) as error:
        make(document, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def write(folder: Path, text: str, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    text = """
    name: whole
    question: Which?
    version: v3
    base: {extends: vit_b16, training: {epochs: 3}}
    grid: {focal_gamma: [0, 1e-1]}
    zip: {lora.rank: [4, 8], lora.alpha: [1, 2]}
    list: [{center_weight: 0}, {center_weight: 0.1, position: false}]
    random: {count: 2, seed: 3, knobs: {lr: {loguniform: [1e-5, 1e-3]}}}
    seeds: [3, 5]
    report: {baseline: {focal_gamma: 0}}
    resources: {gpus: 0.5, cpus: 2, mem_gb: 1.5, time_min: 5, trials_per_gpu: 2}
    retries: 0
    data: ../images
    """
    sweep = load_sweep(write(tmp_path, text))
    assert sweep.name == "whole"
    assert sweep.knobs == (
        "loss.focal_gamma", "lora.rank", "lora.alpha", "loss.center_weight", "features.position", "training.learning_rate",
    )  # fmt: skip
    assert [len(axis) for axis in sweep.axes] == [2, 2, 2, 2]
    assert sweep.seeds == (3, 5)
    assert sweep.baseline == {"loss.focal_gamma": 0.0}
    assert sweep.resources.gpus == 0.5
    assert sweep.retries == 0
    assert sweep.data_root == tmp_path / "../images"
    assert sweep.note == ""
    assert sweep.settings("v3")["training.epochs"] == 3
    assert sweep.settings("v3")["backbone.model"].startswith("vit_base")
    assert sweep.settings("v3")["adapter.film"] is True


@pytest.mark.parametrize(
    ("document", "parts"),
    [
        ({"grid": {"focal_gama": [1]}}, ["grid", "focal_gama", "Did you mean 'focal_gamma'?"]),
        ({"grid": {"focal_gamma": [0, "two"]}}, ["loss.focal_gamma", "'two'", "a number >= 0"]),
        ({"grid": {"focal_form": ["jiont"]}}, ["loss.focal_form", "joint | per_dim | relative", "Did you mean 'joint'?"]),
        ({"grid": {"focal_gamma": []}}, ["loss.focal_gamma", "the axis is empty"]),
        ({"grid": {"focal_gamma": 2}}, ["loss.focal_gamma", "given 2", "a list of values"]),
        ({"grid": {"focal_gamma": [1, 1.0]}}, ["loss.focal_gamma", "given twice"]),
        ({"grid": {"focal_gamma": [1], "loss.focal_gamma": [2]}}, ["loss.focal_gamma", "given twice", "keep one"]),
        ({"grid": {"focal_gamma": [1]}, "zip": {"loss": {"focal_gamma": [2]}}},
         ["two axes over one knob: loss.focal_gamma", "grid and zip"]),
        ({"zip": {"rank": [1, 2], "alpha": [1]}}, ["lora.rank has 2", "lora.alpha has 1"]),
        ({"zip": {"rank": [1, 1], "alpha": [2, 2]}}, ["zip: entry 2 repeats"]),
        ({"zip": {"rank": []}}, ["the axis is empty"]),
        ({"list": []}, ["list: given []"]),
        ({"list": [{"rank": 1}, 3]}, ["list, entry 2", "given 3"]),
        ({"list": [{"rank": 1}, {"lora.rank": 1}]}, ["list: entry 2 repeats"]),
        ({"grid": {"seed": [0, 1]}}, ["seed is no axis", "seeds:"]),
        ({"grid": {"version": ["v3", "v33"]}}, ["unknown version 'v33'", "Did you mean 'v3'?"]),
        ({"version": "v9"}, ["unknown version 'v9'", "v1, v2, v3, v4, v4.1, v5, v6, v7"]),
        ({"version": None}, ["version: is missing"]),
        ({"version": 7}, ["version: given 7, allowed: v1, v2, v3"]),
        ({"grid": {"rank": [1, 2]}, "exclude": [{"rank": [2, 5]}]}, ["exclude, entry 1: lora.rank: given 5", "only values are: 1, 2"]),
        ({"search": {"space": {"rank": {"integer": [1, 2]}}, "trials": 1, "final_seeds": [1, 1]}}, ["search.final_seeds: the seed 1"]),
        ({"version": None, "list": [{"version": "v3"}, {"rank": 3}]}, ["version: is missing"]),
        ({"version": 7}, ["version: given 7"]),
        ({"base": "vit_b6"}, ["unknown base 'vit_b6'", "Did you mean 'vit_b16'?"]),
        ({"base": "missing.yaml"}, ["missing.yaml", "no such file"]),
        ({"base": {"extends": 3}}, ["base.extends", "given 3"]),
        ({"base": {"focal_gama": 3}}, ["base", "focal_gama", "Did you mean"]),
        ({"base": {"epochs": 0}}, ["s.yaml: base: training.epochs: given 0, allowed: a whole number >= 1"]),
        ({"base": {"version": "v3"}}, ["version does not belong in a base"]),
        ({"base": {"seed": 3}}, ["seed does not belong in a base"]),
        ({"grids": {}}, ["unknown key 'grids'", "Did you mean 'grid'?"]),
        ({"focal_gamma": 2}, ["unknown key 'focal_gamma'", "a knob", "under base"]),
        ({"resources": {"gpu": 1}}, ["unknown key 'resources.gpu'", "Did you mean 'gpus'?"]),
        ({"resources": {"cpus": 1.5}}, ["resources.cpus: given 1.5", "a whole number 1..100000"]),
        ({"resources": 3}, ["resources: given 3", "gpus, cpus, mem_gb"]),
        ({"random": {"count": 0, "knobs": {}}}, ["random.count: given 0"]),
        ({"random": {"knobs": {}}}, ["random.count: is missing"]),
        ({"random": {"count": 1, "knobs": {}}}, ["names no knob; give one"]),
        ({"random": {"count": 1, "knobs": {"rank": {"unifrom": [1, 2]}}}}, ["lora.rank", "Did you mean 'uniform'?"]),
        ({"random": {"count": 1, "knobs": {"rank": {"uniform": [1, 2]}}}}, ["uniform [1, 2]: lora.rank: given 1.0", "whole number"]),
        ({"random": {"count": 1, "knobs": {"lr": {"loguniform": [0, 1]}}}}, ["allowed: [a, b] with 0 < a < b"]),
        ({"random": {"count": 1, "knobs": {"lr": {"uniform": [2, 1]}}}}, ["a < b"]),
        ({"random": {"count": 1, "knobs": {"rank": {"integer": [0, 4]}}}}, ["lora.rank: given 0", ">= 1"]),
        ({"seeds": "five"}, ["seeds: given 'five'", "how many"]),
        ({"seeds": []}, ["seeds: given []"]),
        ({"seeds": 0}, ["seeds: given 0"]),
        ({"seeds": [1, 2, 1]}, ["the seed 1 is given twice"]),
        ({"seeds": [True]}, ["seeds: given [true]"]),
        ({"name": "../x"}, ["name: given '../x'"]),
        ({"name": ".."}, ["name: given '..'"]),
        ({"name": 7}, ["name: given 7", "quotes"]),
        ({"grid": {"rank": [1]}, "when": {"alpha": {"rank": 1}}}, ["lora.alpha is not an axis", "its axes: lora.rank"]),
        ({"grid": {"rank": [1]}, "when": {"rank": {"lora.rank": 1}}}, ["circle"]),
        ({"grid": {"rank": [1], "alpha": [1]}, "when": {"rank": {"alpha": 1}, "alpha": {"rank": 1}}}, ["circle"]),
        ({"grid": {"rank": [1]}, "when": {"rank": {"focal_form": "jiont"}}}, ["when.rank", "Did you mean 'joint'?"]),
        ({"grid": {"rank": [1]}, "when": {"rank": {"focal_gamma": "> x"}}}, ["'> x'", "needs a number"]),
        ({"grid": {"rank": [1]}, "when": {"rank": {}}}, ["when.rank", "given {}"]),
        ({"grid": {"rank": [1]}, "exclude": [{"alpha": 1}]}, ["exclude", "none of lora.alpha is an axis"]),
        ({"grid": {"rank": [1]}, "exclude": [3]}, ["exclude", "given 3"]),
        ({"report": {"baseline": "v3"}}, ["report.baseline", "given 'v3', allowed: {knob: value}", "such as {version: v3}"]),
        ({"grid": {"rank": [1]}, "report": {"baseline": {"rnk": 1}}}, ["report.baseline", "Did you mean 'rank'?"]),
        ({"grid": {"rank": [1]}, "report": {"baseline": {"alpha": 1}}}, ["report.baseline", "lora.alpha is not an axis"]),
        ({"grid": {"focal_form": ["joint", "relative"]}, "report": {"baseline": {"focal_form": "per_dim"}}},
         ["report.baseline", "the axis has: joint, relative"]),
        ({"grid": {"version": ["v1", "v3"]}, "report": {"baseline": {"version": "v33"}}}, ["the axis has: v1, v3", "Did you mean 'v3'?"]),
        ({"without_data": {"base": "demoo"}}, ["without_data", "unknown base 'demoo'", "Did you mean 'demo'?"]),
        ({"grid": {"cpcf_use_attention": [True]}}, ["cpcf_use_attention", "set flow.context to attention"]),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line(document: dict[str, Any], parts: list[str]) -> None:
    message = refused(document)
    for part in parts:
        assert part in message, message


def test_a_missing_name() -> None:
    with pytest.raises(InvalidInput, match=r"s\.yaml: name: is missing"):
        make_sweep({}, "s.yaml", Path())


def test_files_that_are_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        load_sweep(tmp_path / "s.yaml")
    with pytest.raises(InvalidInput, match="tags are not allowed"):
        load_sweep(write(tmp_path, "name: !!python/object:os.system {}"))
    with pytest.raises(InvalidInput, match="'seeds' is given twice"):
        load_sweep(write(tmp_path, "name: x\nseeds: 1\nseeds: 2\n"))
    with pytest.raises(InvalidInput, match="mapping"):
        load_sweep(write(tmp_path, "- 1"))


def test_set_wins_over_everything() -> None:
    sweep = make(
        {"base": {"epochs": 3, "focal_gamma": 1}},
        sets=["epochs=9", "loss={focal_gamma: 0.5}", "tasks=[a, 7]"],
        data_root=REAL,
    )
    settings = sweep.settings("v7")
    assert (settings["training.epochs"], settings["loss.focal_gamma"], settings["data.tasks"]) == (9, 0.5, ("a", "7"))


def test_set_can_replace_the_version() -> None:
    sweep = make({}, sets=["version=v1"], data_root=REAL)
    assert sweep.version == "v1"
    assert sweep.settings("v1")["adapter.film"] is False


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["rank=4"], ["lora.rank is an axis", "edit the axis"]),
        (["rnk=4"], ["--set rnk=4", "Did you mean 'rank'?"]),
        (["focal_gamma=two"], ["--set focal_gamma=two", "given 'two'", "a number >= 0"]),
        (["focal_gamma"], ["no '='; write knob=value"]),
        (["=2"], ["no knob before '='; write knob=value"]),
        (["focal_gamma=1", "loss.focal_gamma=2"], ["set twice"]),
        (["seed=1"], ["`seeds`"]),
        (["version=v33"], ["unknown version 'v33'"]),
        (["focal_gamma=!!python/object:x {}"], ["tags are not allowed"]),
    ],
)
def test_set_mistakes(sets: list[str], parts: list[str]) -> None:
    message = refused({"grid": {"rank": [1, 2]}}, sets=sets)
    for part in parts:
        assert part in message


def test_set_changes_a_key_of_the_resources() -> None:
    document = {"resources": {"gpus": 0, "mem_gb": 8}}
    assert make(document, sets=["resources.gpus=1"]).resources == Resources(gpus=1, mem_gb=8)
    whole = ["resources={gpus: 0.5, time_min: auto}", "resources.trials_per_gpu=auto", "epochs=3"]
    sweep = make(document, sets=whole)
    assert sweep.resources == Resources(gpus=0.5, mem_gb=8, time_min="auto", trials_per_gpu="auto")
    assert sweep.settings("v7")["training.epochs"] == 3


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["resources.gpu=1"], "--set resources.gpu=1: unknown key 'resources.gpu'; allowed: gpus, cpus, "),
        (["resources.gpus=-1"], "--set resources.gpus=-1: resources.gpus: given -1, allowed: a number 0..1000"),
        (["resources.time_min=soon"], "resources.time_min: given 'soon', allowed: a whole number 1..1000000"),
        (["resources=3"], "--set resources=3: give one key of it, as in --set resources.gpus=1"),
        (["resources.gpus=1", "resources={gpus: 2}"], "resources.gpus is set twice; keep one of them"),
        (["resources.stall_min=500"], "--set resources.stall_min=500: resources.stall_min: given 500, but "),
        (["resources.gpus"], "--set resources.gpus: no '='; write knob=value"),
    ],
)
def test_mistakes_in_setting_resources(sets: list[str], said: str) -> None:
    assert said in refused({}, sets=sets)


def test_an_auto_that_nothing_has_resolved_sets_no_limit_and_shares_no_gpu() -> None:
    resources = make({"resources": {"time_min": "auto", "trials_per_gpu": "auto", "stall_min": 300}}).resources
    assert (resources.limit_min, resources.sharing) == (0, 1)


def test_the_version_may_be_an_axis_alone() -> None:
    sweep = make({"version": None, "grid": {"version": ["v1", "v7"]}}, data_root=REAL)
    assert list(sweep.layers) == ["v1", "v7"]
    assert sweep.settings("v1")["loss.focal_gamma"] == 0
    assert sweep.settings("v7")["loss.focal_gamma"] == 2
    refusal = refused({"grid": {"version": ["v1"]}}, sets=["version=v3"])
    assert "is an axis" in refusal


def test_a_base_may_have_settings_for_one_version() -> None:
    sweep = make({"base": "published", "grid": {"version": ["v2", "v5"]}}, data_root=REAL)
    assert sweep.settings("v2")["data.image_size"] == 518
    assert sweep.settings("v5")["data.image_size"] == 224


def test_the_data_root_is_found_in_order(tmp_path: Path) -> None:
    file = write(tmp_path, "name: x\nversion: v1\ndata: here\n")
    bare = write(tmp_path, "name: x\nversion: v1\n", "bare.yaml")
    environment = {"MOLEFLOW_DATA": "/elsewhere"}
    assert load_sweep(file, data_root=REAL, environment=environment).data_root == REAL
    assert load_sweep(file, environment=environment).data_root == tmp_path / "here"
    assert load_sweep(bare, environment=environment).data_root == Path("/elsewhere")
    assert load_sweep(bare, environment={"MOLEFLOW_DATA": ""}).data_root is None
    assert load_sweep(file, data_root=REAL, environment=environment).data_source == "--data"
    assert load_sweep(file, environment=environment).data_source == f"{file}: data"
    assert load_sweep(bare, environment=environment).data_source == "MOLEFLOW_DATA"
    assert load_sweep(bare).data_root is None


def test_paths_may_name_variables_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "fast"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make({"data": "$SCRATCH/mvtec"}).data_root == tmp_path / "fast/mvtec"
    assert make({"data": "~/mvtec"}).data_root == tmp_path / "mvtec"
    (tmp_path / "fast").mkdir()
    (tmp_path / "fast/own.yaml").write_text("{extends: ~/parent.yaml, focal_gamma: 1}")
    (tmp_path / "parent.yaml").write_text("epochs: 3")
    settings = make({"base": "${SCRATCH}/own.yaml"}, data_root=REAL).settings("v7")
    assert (settings["training.epochs"], settings["loss.focal_gamma"]) == (3, 1)
    for keys, key in (({"data": "$NOPE/a"}, "data"), ({"base": "$NOPE/b.yaml"}, "base")):
        with pytest.raises(InvalidInput, match=rf"{key}: \$NOPE/.*: the environment variable NOPE is not set here"):
            make(keys)


def test_names_that_yaml_reads_as_something_else_are_to_be_quoted() -> None:
    for tasks in ([False, "bolt"], ["bolt", 1e3], [["bolt", None]]):
        with pytest.raises(InvalidInput, match="in quotes, as in"):
            make({"base": {"tasks": tasks}}, data_root=REAL)
    with pytest.raises(InvalidInput, match=r"question: given true, .* YAML reads yes, on and true as true"):
        make({"question": True})


def test_there_is_one_zero(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: x\nversion: v7\ngrid: {focal_gamma: [-0.0, 0]}\n")
    with pytest.raises(InvalidInput, match="focal_gamma: the value 0 is given twice"):
        load_sweep(file, data_root=REAL)


def test_the_environment_is_read_only_if_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEFLOW_DATA", "/elsewhere")
    assert make({}).data_root is None


def test_paths_of_bases_are_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "bases").mkdir()
    write(tmp_path / "bases", "extends: second.yaml\nepochs: 3", "first.yaml")
    write(tmp_path / "bases", "rank: 5\nepochs: 4", "second.yaml")
    file = write(tmp_path / "sweeps", "name: x\nversion: v1\nbase: ../bases/first.yaml\n")
    own = load_sweep(file, data_root=REAL).settings("v1")
    assert (own["training.epochs"], own["lora.rank"]) == (3, 5)
    monkeypatch.chdir(tmp_path)
    asked = load_sweep(file, base="bases/second.yaml", data_root=REAL)
    assert asked.settings("v1")["training.epochs"] == 4
    assert asked.name == "x-second"


def test_equal_sweeps_have_equal_specs() -> None:
    first = make({"grid": {"focal_gamma": [0, 2]}, "seeds": 2, "data": "a"})
    same = make({"grid": {"loss": {"focal_gamma": [0.0, 2.0]}}, "seeds": [0, 1], "data": "b"})
    assert digest(first.spec()) == digest(same.spec())
    changes: list[dict[str, Any]] = [
        {"grid": {"focal_gamma": [0, 1]}}, {"seeds": 3}, {"base": {"epochs": 2}}, {"version": "v5"},
        {"exclude": [{"focal_gamma": 2}]}, {"report": {"baseline": {"focal_gamma": 0}}}, {"retries": 2},
    ]  # fmt: skip
    others = [make({"grid": {"focal_gamma": [0, 2]}, "seeds": 2, "data": "a", **change}) for change in changes]
    assert len({digest(sweep.spec()) for sweep in [first, *others]}) == 1 + len(others)
    assert make({"seeds": 2}, sets=["epochs=3"]).spec() != make({"seeds": 2}).spec()


def test_no_heavy_package_is_imported() -> None:
    code = (
        "import sys, orchestrator.sweep.sweep, orchestrator.sweep.expansion, orchestrator.sweep.trial, orchestrator.sweep.json_schema\n"
        "print([m for m in ('torch', 'ray', 'submitit', 'optuna', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SEARCH = {"space": {"learning_rate": {"loguniform": [1e-4, 1e-1]}}, "trials": 5, "final_seeds": [7, 8]}


def test_a_search_is_a_sample_of_its_space_on_validation_images() -> None:
    sweep = make({"search": SEARCH, "base": "vit_b16", "seeds": 5}, data_root=REAL)
    assert [len(axis) for axis in sweep.axes] == [16]
    assert sweep.settings("v7")["data.validation_fraction"] == 0.2
    assert sweep.settings("v7")["data.validation_anomalies"] == "synthetic"
    assert sweep.final_seeds == (7, 8)
    own = make({"search": SEARCH, "base": {"validation_fraction": 0.4}}, data_root=REAL)
    assert own.settings("v7")["data.validation_fraction"] == 0.4, "the base wins"


def test_seeds_that_replace_the_files_test_the_finalists_too() -> None:
    assert make({"search": SEARCH, "base": "vit_b16", "seeds": 5}).final_seeds == (0, 1)
    assert make({"base": "vit_b16", "seeds": 3}, data_root=REAL).final_seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("keys", "stops"),
    [
        ({}, False),
        ({"search": SEARCH}, False),
        ({"search": {**SEARCH, "pruner": "asha"}}, True),
        ({"early_stopping": {"rule": "asha"}}, True),
    ],
)
def test_trials_may_be_stopped_early(keys: dict[str, Any], stops: bool) -> None:
    assert make(keys, data_root=REAL).stops_early is stops


def test_the_spec_holds_the_whole_sweep() -> None:
    keys: dict[str, Any] = {
        "grid": {"rank": [1, 2]},
        "random": {"count": 2, "seed": 4, "knobs": {"lr": {"uniform": [0.1, 0.2]}}},
        "when": {"rank": {"focal_gamma": ">= 1"}},
        "exclude": [{"rank": [1, 2], "version": "v7"}],
        "report": {"baseline": {"rank": 1}},
        "early_stopping": {"rule": "median"},
        "seeds": [3],
        "question": " Why? ",
    }
    spec = make(keys, data_root=REAL).spec()
    draws = {"training.learning_rate": ["uniform", (0.1, 0.2)]}
    assert spec["parts"] == [
        {"rows": [{"lora.rank": 1}, {"lora.rank": 2}]},
        {"count": 2, "seed": 4, "distributions": draws},
    ]
    assert spec["when"] == {"lora.rank": {"loss.focal_gamma": [">=", (1,)]}}
    assert spec["exclude"] == [{"lora.rank": ["in", (1, 2)], "version": ["in", ("v7",)]}]
    assert (spec["baseline"], spec["seeds"], spec["question"]) == ({"lora.rank": 1}, [3], "Why?")
    assert spec["early_stopping"] == {"rule": "median", "grace_tasks": 1, "metric": "image_auroc"}
    assert (spec["name"], spec["version"], spec["base"], spec["retries"]) == ("s", "v7", "the defaults", 1)
    assert "search" not in spec


def test_the_resources_of_a_trial_by_default() -> None:
    resources = make({}).resources.model_dump()
    assert resources == {"gpus": None, "cpus": 1, "mem_gb": 4, "time_min": 240, "stall_min": 60, "trials_per_gpu": 1}


@pytest.mark.parametrize(("stall_min", "time_min"), [(30, 30), (30.5, 30), (240, 240), (1e6, 240)])
def test_a_stall_that_no_attempt_lives_to_see_is_refused(stall_min: float, time_min: int) -> None:
    said = refused({"resources": {"stall_min": stall_min, "time_min": time_min}})
    assert said.startswith(
        f"s.yaml: resources.stall_min: given {stall_min:g}, but resources.time_min = {time_min} ends"
    )
    assert said.endswith(f"give less than {time_min}, or 0 for no limit")


def test_a_short_time_limit_needs_no_stall_min() -> None:
    make({"resources": {"time_min": 30}})
    make({"resources": {"time_min": 30, "stall_min": 0}})
    make({"resources": {"time_min": 30, "stall_min": 29.5}})


def test_the_settings_of_a_search_by_default() -> None:
    search = make({"search": {"space": SEARCH["space"], "trials": 5}}).search
    assert search is not None
    settings = search.model_dump(exclude={"space", "trials"})
    assert settings == {
        "hours": None, "sampler": "tpe", "pruner": "none", "seed": 0, "objectives": {"image_auroc": "maximize"},
        "constraints": {}, "parallel": None, "start_from": [], "published": False, "finalists": 1, "final_seeds": None,
    }  # fmt: skip


HUGE = 2**63 - 1
SIZES = (
    "backbone.projection",
    "lora.rank",
    "adapter.hidden",
    "attention.hidden",
    "training.batch_size",
    "training.epochs",
)


@pytest.mark.parametrize("path", SIZES)
def test_sizes_that_no_memory_holds_are_refused(path: str) -> None:
    assert f"grid: {path}: given {HUGE}, allowed: " in refused({"grid": {path: [HUGE]}})


@pytest.mark.parametrize(
    ("key", "document"),
    [
        ("retries", {"retries": -1}), ("retries", {"retries": 101}), ("seeds", {"seeds": -1}), ("seeds", {"seeds": 100_001}),
        ("seeds", {"seeds": [-1]}), ("resources.gpus", {"resources": {"gpus": -1}}), ("resources.cpus", {"resources": {"cpus": 0}}),
        ("resources.mem_gb", {"resources": {"mem_gb": 0}}), ("resources.time_min", {"resources": {"time_min": 0}}),
        ("resources.trials_per_gpu", {"resources": {"trials_per_gpu": 0}}),
        ("random.seed", {"random": {"count": 1, "seed": -1, "knobs": {}}}),
        ("search.parallel", {"search": {**SEARCH, "parallel": 0}}), ("search.hours", {"search": {**SEARCH, "hours": 0}}),
        ("search.seed", {"search": {**SEARCH, "seed": -1}}), ("search.finalists", {"search": {**SEARCH, "finalists": -1}}),
        ("search.objectives", {"search": {**SEARCH, "objectives": {}}}), ("search.space", {"search": {**SEARCH, "space": {}}}),
        ("early_stopping.grace_tasks", {"early_stopping": {"rule": "asha", "grace_tasks": 0}}),
        ("early_stopping.grace_tasks", {"early_stopping": {"rule": "asha", "grace_tasks": HUGE}}),
        *((f"resources.{key}", {"resources": {key: HUGE}}) for key in ("gpus", "cpus", "mem_gb", "time_min", "trials_per_gpu")),
        *((f"search.{key}", {"search": {**SEARCH, key: HUGE}}) for key in ("trials", "hours", "parallel", "finalists", "seed")),
        ("random.count", {"random": {"count": HUGE, "knobs": {}}}),
    ],
)  # fmt: skip
def test_numbers_outside_their_bounds_are_refused(key: str, document: dict[str, Any]) -> None:
    assert f"s.yaml: {key}: given " in refused(document)


def test_numbers_at_their_bounds_are_allowed() -> None:
    make({"retries": 0, "seeds": [0], "resources": {"gpus": 0, "cpus": 1, "time_min": 1, "trials_per_gpu": 1}})
    make({"retries": 100, "seeds": 1, "early_stopping": {"rule": "asha", "grace_tasks": 1}})
    make({"search": {**SEARCH, "parallel": 1, "seed": 0, "finalists": 0, "trials": 1}})
