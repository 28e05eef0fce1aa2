"""Mistakes of users: exit code 2, one line that names the remedy, and nothing written."""

from __future__ import annotations

import re
import shutil

import pytest

from moleflow.settings.knobs import version_names


@pytest.fixture
def refused(place, command, contents):
    """The function that runs a command, which must be refused, and returns its message."""

    def run(*words, code=2):
        before = contents(place)
        ended = command(*words)
        assert ended.code == code
        assert ended.out == ""
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1
        assert "Traceback" not in ended.err
        assert contents(place) == before
        assert not (place / "results").exists()
        return ended.err

    return run


def test_a_misspelled_knob(refused, edit):
    edit(grid={"focal_gama": [0, 2]})
    assert "unknown knob 'focal_gama'. Did you mean 'focal_gamma'?" in refused("sweep.yaml")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: &name [*name]\n", "line 1: *name stands inside &name"),
        ("name: " + "[" * 10_000, "line 1: is nested too deeply, allowed: 50 levels"),
        ("#" * 10_000_000, "has 10,000,000 bytes, allowed: 1,000,000 characters"),
    ],
)
def test_a_small_file_that_would_fill_the_memory(refused, place, text, part):
    (place / "sweep.yaml").write_text(text)
    assert f"sweep.yaml{', ' if part.startswith('line') else ': '}{part}" in refused("sweep.yaml")


TOO_LARGE = 2**63


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1, TOO_LARGE, 2]},
        {"seeds": TOO_LARGE},
        {"grid": {"top_k": [3, TOO_LARGE]}},
        {"grid": None, "zip": {"top_k": [3, TOO_LARGE]}},
        {"grid": None, "list": [{"top_k": TOO_LARGE}]},
        {"grid": None, "random": {"count": 2, "knobs": {"top_k": {"integer": [1, TOO_LARGE]}}}},
        {"grid": None, "random": {"count": 2, "seed": TOO_LARGE, "knobs": {"top_k": {"integer": [1, 9]}}}},
        {"grid": None, "search": {"trials": 3, "space": {"top_k": {"integer": [1, TOO_LARGE]}}}},
        {"grid": None, "search": {"trials": TOO_LARGE, "space": {"top_k": {"integer": [1, 9]}}}},
        {"base": {"extends": "base.yaml", "weights_seed": TOO_LARGE}},
        {"resources": {"time_min": TOO_LARGE}},
        {"retries": -TOO_LARGE - 1},
        {"exclude": [{"top_k": TOO_LARGE}]},
    ],
)
def test_a_whole_number_beyond_64_bits(refused, edit, changes):
    """A result could not be stored, or a worker would fail, only after the training."""
    edit(**changes, report=None)
    told = "line [0-9]+: given -?922337203685477580[89], allowed: whole numbers from -9223372036854775808 to 922"
    assert re.search(f"sweep.yaml, {told}", refused("sweep.yaml"))


def test_a_whole_number_beyond_64_bits_in_a_base_or_an_option(refused, place):
    said = f"given {TOO_LARGE}, allowed: whole numbers from"
    assert said in refused("sweep.yaml", "--set", f"top_k={TOO_LARGE}")
    assert said in refused("sweep.yaml", "--set", f"backbone={{layers: [{TOO_LARGE}]}}")
    wanted = f"--seed: given '{TOO_LARGE}', allowed: a whole number from 0 to {TOO_LARGE - 1}"
    assert wanted in refused("trial", "--version", "v7", "--seed", TOO_LARGE)
    (place / "base.yaml").write_text(f"training: {{epochs: {TOO_LARGE}}}\n")
    assert f"base.yaml, line 1: {said}" in refused("sweep.yaml")


def test_a_whole_number_that_a_search_cannot_compute_with(refused, edit):
    search = {"trials": 3, "space": {"top_k": {"integer": [1, 2**53 + 1]}}}
    edit(grid=None, report=None, search=search)
    said = "search.space: scoring.top_k: integer: given [1, 9007199254740993], allowed: whole numbers up to 9007199254740992"
    assert said in refused("sweep.yaml")
    edit(grid=None, report=None, search=search | {"space": {"top_k": {"integer": [1, 9]}}, "seed": 2**32})
    assert "search.seed: given 4294967296, allowed: a whole number 0..4294967295" in refused("sweep.yaml")


def test_a_misspelled_key_of_the_file(refused, edit):
    edit(sedes=3)
    assert "unknown key 'sedes'" in refused("sweep.yaml")


@pytest.mark.parametrize(
    "changes", [{"grid": {"focal_gamma": ["two"]}}, {"base": {"extends": "base.yaml", "focal_gamma": "two"}}]
)
def test_a_word_in_the_place_of_a_number(refused, edit, changes):
    edit(**changes, report=None)
    said = refused("sweep.yaml")
    assert "loss.focal_gamma: given 'two', allowed: a number >= 0" in said


def test_a_word_in_the_place_of_a_number_on_the_command_line(refused):
    assert "training.epochs: given 'two', allowed: a whole number >= 1" in refused("sweep.yaml", "--set", "epochs=two")


def test_an_empty_axis(refused, edit):
    edit(grid={"focal_gamma": []}, report=None)
    assert "loss.focal_gamma: the axis is empty; give it at least one value" in refused("sweep.yaml")


def test_two_axes_over_one_knob(refused, edit):
    edit(zip={"loss.focal_gamma": [0, 2], "nll_scale": ["sum", "per_dim"]})
    assert "two axes over one knob: loss.focal_gamma is in grid and zip; keep one of them" in refused("sweep.yaml")


def test_set_of_an_axis(refused):
    assert "loss.focal_gamma is an axis of this sweep; edit the axis in sweep.yaml" in refused(
        "sweep.yaml", "--set", "focal_gamma=1"
    )


def test_a_missing_sweep_file(refused):
    assert refused("none.yaml") == "error: none.yaml: no such file; YAML files in this folder: base.yaml, sweep.yaml\n"


def test_a_folder_in_the_place_of_the_sweep_file(refused):
    assert "images: is a folder; a YAML file is needed" in refused("run", "images")
    assert "for results: moleflow-sweep report images (or status)" in refused("images")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "odd.yaml: is empty; a mapping of keys to values is needed"),
        (b"name: x\n\tgrid: {}\n", "odd.yaml, line 2: a tab; YAML is indented with spaces"),
        (b"\x89PNG\xa6", "odd.yaml, line 1: is not a text in utf-8 (byte 0x89); save the YAML file as UTF-8"),
    ],
)
def test_a_file_of_something_else(place, refused, content, said):
    (place / "odd.yaml").write_bytes(content)
    assert said in refused("odd.yaml")


def test_a_profile_that_is_not_there(refused):
    said = refused("sweep.yaml", "--backend", "slurm", "--profile", "nope.yaml")
    assert "--profile: nope.yaml: no such file; slurm/profiles/example.yaml explains" in said


@pytest.mark.parametrize("more", [(), ("--detach",)])
def test_slurm_where_there_is_none(refused, place, monkeypatch, more):
    monkeypatch.setenv("PATH", str(place))
    said = refused("sweep.yaml", "--backend", "slurm", *more)
    assert said == (
        "error: --backend: given slurm, but sbatch is not found here; type the command on a SLURM login node, "
        "or take --backend local\n"
    )
    assert refused("prefetch", "sweep.yaml", "--backend", "slurm") == said


def test_a_finished_sweep_is_looked_at_where_there_is_no_slurm(finished, command, monkeypatch):
    monkeypatch.setenv("PATH", str(finished))
    assert command("sweep.yaml", "--backend", "slurm").code == 0


@pytest.mark.parametrize(
    ("content", "said"), [("partitoin: gpu", "unknown key 'partitoin'"), ("- partition", "a mapping")]
)
def test_a_profile_with_a_mistake(refused, place, content, said):
    (place / "bad.yaml").write_text(content)
    assert said in refused("sweep.yaml", "--backend", "slurm", "--profile", "bad.yaml")


@pytest.mark.parametrize("address", ["nonsense", "nonsense:123", "127.0.0.1:1", "127.0.0.1:99999", "local"])
def test_a_ray_cluster_that_is_not_there(refused, address):
    pytest.importorskip("ray", reason="no Ray: pip install -e '.[ray]'")
    said = refused("sweep.yaml", "--backend", "ray", "--address", address)
    assert f"--address: given '{address}', but no Ray cluster can be joined there" in said


def test_a_search_that_starts_from_nothing(refused, edit):
    edit(
        grid=None,
        report=None,
        search={"space": {"focal_gamma": {"uniform": [0, 3]}}, "trials": 2, "start_from": ["nowhere"]},
    )
    said = "error: sweep.yaml: search.start_from: nowhere: no results there; give folders that a run printed as 'results'\n"
    assert refused("sweep.yaml") == said
    assert refused("plan", "sweep.yaml") == said


def test_a_budget_that_is_no_size(refused, monkeypatch):
    monkeypatch.setenv("MOLEFLOW_CACHE_BUDGET", "foo")
    assert "MOLEFLOW_CACHE_BUDGET: given 'foo', allowed: a number with a unit" in refused("sweep.yaml")
    assert "MOLEFLOW_CACHE_BUDGET: given 'foo'" in refused("sweep.yaml", "--dry-run")


@pytest.mark.parametrize(
    ("set_", "said"),
    [
        ("layers=[2,99]", "backbone.layers: given 99, but efficientnet_lite0 has the layers 0 to 4"),
        ("model=efficientnet_lit0", "timm has no model 'efficientnet_lit0'. Did you mean 'efficientnet_lite0'?"),
        ("aggregate=mean", "backbone.aggregate: given 'mean', but layers 1, 2 are 24, 40 wide"),
        ("weights=base.yaml", "base.yaml: no safetensors or torch weight file that can be read"),
    ],
)
@pytest.mark.parametrize("words", [("sweep.yaml",), ("sweep.yaml", "--dry-run"), ("plan", "sweep.yaml")])
def test_a_backbone_that_cannot_be_built(refused, set_, said, words):
    message = refused(*words, "--set", set_)
    assert said in message
    assert "InvalidInput" not in message


def test_weights_that_cannot_be_fetched(refused, monkeypatch, tmp_path_factory):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ("--set", "model=resnet18.a1_in1k", "--set", "weights=pretrained", "--set", "layers=[1]")
    said = refused("sweep.yaml", *words)
    assert (
        "timm's weights of resnet18.a1_in1k cannot be fetched (no network, and not in the cache); go online once"
        in said
    )
    assert refused("sweep.yaml", "--dry-run", *words) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"grid": {"focal_gamma": [0, 2], "grid_size": [2, 4]}, "when": {"grid_size": {"spatial": True}}},
            "when.lora.grid_size: lora.spatial: given true, but its only values are: false; so the axis would never apply",
        ),
        (
            {
                "grid": {"focal_gamma": [0, 2], "focal_form": ["joint", "relative"]},
                "when": {"focal_form": {"focal_gamma": "> 3"}},
            },
            "when.loss.focal_form: loss.focal_gamma: given > 3, but its only values are: 0, 2",
        ),
        (
            {"exclude": [{"focal_gamma": 5}]},
            "exclude, entry 1: loss.focal_gamma: given 5, but its only values are: 0, 2",
        ),
        (
            {"exclude": [{"focal_gamma": [2, 5]}]},
            "exclude, entry 1: loss.focal_gamma: given 5, but its only values are: 0, 2",
        ),
        ({"name": "x" * 101}, "a name of at most 100 letters"),
        ({"retries": 1000}, "retries: given 1000, allowed: a whole number 0..100"),
        (
            {"base": {"extends": "base.yaml", "epochs": 10**9}},
            "training.epochs: given 1000000000, allowed: a whole number",
        ),
    ],
)
def test_what_would_be_a_slip_of_the_pen(refused, edit, changes, said):
    edit(**({"report": None} | changes))
    assert said in refused("sweep.yaml")


def test_conditions_that_hold_for_some_version_or_value(command, edit):
    edit(
        version=None,
        grid={"version": ["v3", "v4"], "grid_size": [2, 4], "focal_gamma": [0, 2]},
        when={"grid_size": {"spatial": True}, "focal_gamma": {"version": "v3"}},
        exclude=[{"grid_size": 4, "focal_gamma": 0}],
        report=None,
    )
    assert command("plan", "sweep.yaml").code == 0


@pytest.mark.parametrize("option", ["--base", "--cache", "--out", "--data", "--storage"])
def test_an_option_that_is_given_nothing(refused, option):
    said = f"error: {option}: given ''; give a name or path, or leave it out\n"
    assert refused("sweep.yaml", option, "") == said
    assert refused("plan", "sweep.yaml", f"{option}=") == said


@pytest.mark.parametrize("more", ["--print-sbatch", "--detach"])
def test_a_dry_run_that_would_submit(refused, more):
    assert "--dry-run: runs in this process" in refused("sweep.yaml", "--dry-run", "--backend", "slurm", more)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cache", "--cache", "base.yaml"), "--cache: base.yaml is a file; give a folder"),
        (("doctor", "--cache", "base.yaml"), "--cache: base.yaml is a file; give a folder"),
        (("cache", "--evict"), "--evict: "),
        (("cache", "--evict", "--budget", "none"), "--evict: "),
        (
            ("cache", "featres", "--clear"),
            "given 'featres', allowed: all | features | stages | defects. Did you mean 'features'?",
        ),
    ],
)
def test_a_cache_that_cannot_be_shown_or_cleared(refused, words, said):
    assert said in refused(*words)


@pytest.mark.parametrize("command_", [("report", "{}"), ("export", "{}")])
def test_tables_about_images_that_nobody_held_out(finished, command, contents, command_):
    before = contents(finished)
    ended = command(*(word.format("results/small") for word in command_), "--split", "validation")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: --split: given validation, but no planned trial of results/small has validation images; take --split test, "
        "or set data.validation_fraction and run again\n"
    )
    assert contents(finished) == before


@pytest.mark.parametrize("words", [("report", "DIR"), ("export", "DIR"), ("compare", "DIR", "DIR")])
@pytest.mark.parametrize(("option", "allowed"), [("--split", "test | validation"), ("--format", "csv")])
def test_a_word_that_a_report_does_not_know(refused, words, option, allowed):
    said = refused(*words, option, "trains")
    assert f"{option}: given 'trains', allowed: " in said
    assert allowed in said


def test_a_split_of_published_rows(refused):
    assert "--split: is for a results folder" in refused("report", "--published", "--split", "validation")


def test_claims_of_a_folder_twice(finished, command):
    ended = command("claims", "results/small", "results/../results/small")
    assert ended.code == 2
    assert "results/small is given twice; give each folder once" in ended.err


def test_no_image_by_an_images_name(refused, place, images):
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    good = place / "images/cloth/train/good"
    (good / "0.png").mkdir()
    assert "good/0.png: is a folder, with the name of an image" in refused("sweep.yaml")
    (good / "0.png").rmdir()
    (good / "0.png").symlink_to("nowhere.png")
    assert "good/0.png: is a link to nothing, with the name of an image" in refused("sweep.yaml")


def test_an_impossible_combination(refused, edit):
    edit(base={"extends": "base.yaml", "data.tasks": ["bolt", "bolt"]})
    assert "tasks: 'bolt' is given twice; name each class once" in refused("sweep.yaml")


def test_a_data_folder_that_is_not_there(refused):
    assert "--data: nowhere: no such folder" in refused("sweep.yaml", "--data", "nowhere")


def test_a_data_folder_that_is_not_mvtec_ad(refused, place):
    (place / "photos" / "holidays").mkdir(parents=True)
    said = refused("sweep.yaml", "--data", "photos")
    assert "not an MVTec AD folder: looked for <class>/train/good; folders there: holidays" in said


def test_a_class_that_is_not_on_disk(refused):
    assert "no class 'boltt'" in (said := refused("sweep.yaml", "--set", "tasks=[boltt, cloth]"))
    assert "classes there: bolt, cloth. Did you mean 'bolt'?" in said


def test_a_broken_image(refused, place, images):
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    broken = place / "images/cloth/train/good/003.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    assert "images/cloth/train/good/003.png" in refused("sweep.yaml")


def test_a_version_that_is_not_there(refused, edit):
    edit(version="v77")
    said = f"unknown version 'v77'; allowed: {', '.join(version_names())}. Did you mean 'v7'?"
    assert said in refused("sweep.yaml")
    assert said in refused("trial", "--version", "v77")
    edit(version=None, grid={"version": ["v3", "v77"]}, report=None)
    assert said in refused("sweep.yaml")


def test_an_unknown_base(refused):
    assert "unknown base 'demmo'" in (said := refused("sweep.yaml", "--base", "demmo"))
    assert "Did you mean 'demo'?" in said


def test_a_tag_in_the_yaml(refused, place):
    (place / "sweep.yaml").write_text("name: evil\nversion: !!python/object/apply:os.system ['touch evil']\n")
    assert "tags are not allowed here, write plain YAML values" in refused("sweep.yaml")


def test_ten_million_trials(refused, edit):
    axis = list(range(1, 101))
    edit(
        grid={"lora.rank": axis, "flow.blocks": axis[:10], "training.epochs": axis, "data.validation_seed": axis},
        seeds=1,
        report=None,
    )
    said = refused("sweep.yaml")
    assert "up to 10,000,000 trials" in said
    assert "allow it with --yes" in said
    refused("plan", "sweep.yaml")


def test_the_folder_of_another_sweep(finished, command, contents, edit):
    edit(name="other")
    before = contents(finished)
    ended = command("sweep.yaml", "--out", "results/small")
    assert (ended.code, ended.out) == (2, "")
    assert "results/small: holds the sweep 'small', not 'other'; give another folder with --out" in ended.err
    assert contents(finished) == before


def test_a_folder_with_something_else_in_it(refused, place):
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter1.tex").write_text("Once upon a time")
    assert "thesis: is not empty and holds no sweep; give another folder with --out" in refused(
        "sweep.yaml", "--out", "thesis"
    )


def test_a_file_in_the_place_of_the_folder(refused):
    assert "base.yaml: is a file, but results need a folder" in refused("sweep.yaml", "--out", "base.yaml")


@pytest.mark.parametrize(("option", "said"), [("--out", "--out"), ("--cache", "--cache or MOLEFLOW_CACHE")])
def test_a_folder_that_cannot_be_written(refused, option, said):
    message = refused("sweep.yaml", option, "base.yaml/below")
    assert "base.yaml" in message
    assert "cannot be written" in message
    assert f"give another folder with {said}" in message


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("--backend", "locl", "given 'locl', allowed: inline | local | slurm | ray. Did you mean 'local'?"),
        ("--device", "gpu", "given 'gpu', allowed: auto | cpu | cuda. Did you mean 'cuda'?"),
    ],
)
def test_an_unknown_choice(refused, option, given, said):
    assert f"{option}: {said}" in refused("sweep.yaml", option, given)


def test_cuda_without_a_gpu(refused, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "--device: given 'cuda', but no GPU is visible here; allowed: auto | cpu" in refused(
        "sweep.yaml", "--device", "cuda"
    )


def test_a_misspelled_command(refused):
    assert "'plann' is neither a command" in (said := refused("plann", "sweep.yaml"))
    assert "Did you mean 'plan'?" in said


def test_an_empty_word(refused):
    assert refused("") == "error: given ''; give a sweep file or a command\n"


def test_a_report_of_a_folder_without_a_sweep(refused):
    assert "images: holds no sweep (sweep.json is missing)" in refused("report", "images")
    assert "sweep.yaml: is a file; give the folder that a run printed as 'results'" in refused("status", "sweep.yaml")
    assert "--format: given 'pdf', allowed: markdown | csv | latex" in refused("report", "images", "--format", "pdf")


SEARCH = {"grid": None, "report": None}


def searching(**more):
    """Changes that make the sweep a search."""
    return SEARCH | {"search": {"space": {"focal_gamma": {"uniform": [0, 2]}}, "trials": 2} | more}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"version": 4.1},
            "version: given 4.1, allowed: v1, v2, v3, v4, v4.1, v5, v6, v7, decoflow. Did you mean 'v4.1'?",
        ),
        ({"version": "V7"}, "Did you mean 'v7'?"),
        ({"base": {"seed": 3}}, "base: seed does not belong in a base; give the sweep file `seeds: [3]`"),
        ({"base": {"version": "v3"}}, "base: version does not belong in a base; give the sweep file `version: v3`"),
        ({"base": "bass.yaml"}, "sweep.yaml: base: bass.yaml: no such file. Did you mean 'base.yaml'?"),
        (
            {"base": "sweep.yaml"},
            "base: sweep.yaml is a sweep file; give a base: decoflow_visa, demo, efficientnet, published,",
        ),
        ({"data": "nowhere"}, "sweep.yaml: data: nowhere: no such folder; give the folder that holds"),
        (searching(sampler="tpee"), "search.sampler: given 'tpee', allowed: random | tpe |"),
        (searching(sampler="tpee"), "Did you mean 'tpe'?"),
        (searching(pruner="medan"), "Did you mean 'median'?"),
        (searching(trials=None, trial=2), "unknown key 'search.trial'; allowed: space, trials,"),
        (searching(trials=None, trial=2), "Did you mean 'trials'?"),
        (
            {"random": {"counts": 2, "knobs": {}}},
            "unknown key 'random.counts'; allowed: count, seed, knobs. Did you mean 'count'?",
        ),
        ({"early_stopping": {"rul": "asha"}}, "Did you mean 'rule'?"),
        (
            searching(constraints={"foo": "> 1"}),
            "search.constraints.foo: given '> 1', allowed: a number, as in {seconds: 60} (at most) or {image_auroc: 0.9} (at least)\n",
        ),
        (
            searching(objectives={"image_auroc": "max"}),
            "search.objectives.image_auroc: given 'max', allowed: maximize | minimize. Did you mean 'maximize'?",
        ),
        (
            searching() | {"report": {"baseline": {"focal_gamma": 0}}},
            "report.baseline: a search draws loss.focal_gamma from a range, so that no configuration has exactly 0; make it a choice",
        ),
        ({"when": {"focal_form": {"focal_gamma": 1}}}, "not an axis of this sweep; its axes: loss.focal_gamma\n"),
        (
            {"when": {"focal_gamma": {"epochs": "=> 1"}}},
            "when.focal_gamma: training.epochs: given '=> 1'; allowed: a value, [values], or > >= < <= and a number",
        ),
        ({"when": {"focal_gamma": {"epochs": "=> 1"}}}, "Did you mean '>= 1'?"),
        ({"when": {"focal_gamma": {"epochs": "== 1"}}}, "Did you mean '1'?"),
        ({"exclude": [{"focal_gamma": 0}, {}]}, "exclude, entry 2: given {}, allowed: {knob: value"),
        ({"exclude": [3]}, "exclude, entry 1: given 3, allowed: {knob: value"),
        (
            {"base": {"focal_gamma": 1, "loss.focal_gamma": 2}},
            "loss.focal_gamma is given twice (as 'focal_gamma' and as 'loss.focal_gamma'); keep one of them",
        ),
        (
            {"grid": {"tasks": [["bolt", "bolt"]]}, "report": None},
            "tasks: 'bolt' is given twice; name each class once",
        ),
        ({"grid": {"focal_gamma": [None]}, "report": None}, "given null, allowed: a number >= 0\n"),
        ({"grid": {"focal_gamma": [float("nan")]}, "report": None}, "given .nan, allowed: a number >= 0\n"),
        ({"grid": {"focal_gamma": [[True, {"a": 1}]]}, "report": None}, "given [true, {a: 1}], allowed"),
        ({"seeds": {"a": None}}, "seeds: given {a: null}, allowed: a list"),
    ],
)
def test_a_mistake_in_the_file(refused, edit, changes, said):
    edit(**changes)
    assert said in refused("plan", "sweep.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["trial", "--version", "v7", "--set", "version=v3"],
            "--set version=v3: 'version' is an option, no knob; give --version v3",
        ),
        (["trial", "--version", "v7", "--set", "seed=1"], "'seed' is an option, no knob; give --seed 1"),
        (["sweep.yaml", "--device", "gpu"], "--device: given 'gpu', allowed: auto | cpu | cuda. Did you mean 'cuda'?"),
        (
            ["sweep.yaml", "--base", "sweep.yaml"],
            "--base: sweep.yaml is a sweep file; give a base: decoflow_visa, demo, efficientnet,",
        ),
        (["sweep.yaml", "--data", "nowhere"], "--data: nowhere: no such folder"),
        (["sweep.yaml", "--set", "loss=3"], "loss is a group of knobs; set one of them: loss."),
        (
            ["sweep.yaml", "--set", "tasks=bolt,cloth"],
            "one task of several classes, as in --set 'tasks=[leather, grid]'",
        ),
        (
            ["sweep.yaml", "--set", "tasks=[zebra]"],
            "classes there: bolt, cloth; give tasks: [bolt, cloth] under base in the sweep file, or --set 'tasks=[bolt, cloth]'",
        ),
        (["sweep.yaml", "--set", "x"], "--set x: no '='; write knob=value, as in --set epochs=5"),
        (["sweep.yaml", "--set", "=3"], "--set =3: no knob before '='; write knob=value, as in --set epochs=5"),
        (
            ["sweep.yaml", "--set", "seeds=3"],
            "--set seeds=3: 'seeds' is a key of sweep files, no knob; set it in one",
        ),
        (["sweep.yaml", "--set", "base=demo"], "--set base=demo: 'base' is an option, no knob; give --base demo"),
        (
            ["plan", "sweep.yaml", "--seeds", "3"],
            "plan: no option '--seeds'; 'seeds' is a key of sweep files, set it in one",
        ),
        (["plan", "sweep.yaml", "--set", "out=x"], "--set out=x: 'out' is an option, no knob; give --out x"),
        (["sweep.yaml", "--set", "zzz=3"], "unknown knob 'zzz'; `moleflow-sweep knobs` lists them all"),
        (["report", "nodir"], "nodir: no such folder; give a results folder"),
        (["report", "image"], "image: no such folder. Did you mean 'images'?"),
        (
            ["sweep.yaml", "--set", "val_fraction=0.2"],
            "unknown knob 'val_fraction'. Did you mean 'validation_fraction'?",
        ),
        (["score", "results", "images"], ". Did you mean 'predict'?"),
        (["dashboard", "nodir"], "nodir: no such folder; give a results folder"),
        (["dashboard", "base.yaml"], "base.yaml: is a file; give the folder that a run printed as 'results'"),
        (["verify", "images/report.csv"], "only a report in Markdown can be verified; give images/report.md"),
        (["sweep.yaml", "--workers", "9999"], "--workers: given '9999', allowed: a whole number from 1 to 1024"),
        (["sweep.yaml", "--threads", "9999"], "--threads: given '9999', allowed: a whole number from 1 to 1024"),
    ],
)
def test_a_mistake_on_the_command_line(refused, words, said):
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "{}",
            "damaged/sweep.json: is damaged (no 'name'); put it back as it was, or run the sweep again into another folder",
        ),
        ("{", "damaged/sweep.json: is damaged (no JSON as a sweep writes it"),
        (
            '{"name": "d", "title": "d", "baseline": {}, "trials": [], "dataset": "d"}',
            "damaged: its results are gone (no folder parts/); run the sweep again",
        ),
    ],
)
def test_a_damaged_results_folder(refused, place, content, said):
    (place / "damaged").mkdir()
    (place / "damaged" / "sweep.json").write_text(content)
    assert said in refused("report", "damaged")
