"""The command reproduce: the rows it runs, their cost in advance, resuming, and the verdicts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from moleflow.environment import open_environment
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knobs import base_layers, resolve, version_layer
from orchestrator.driver.reproduce import not_run_lines
from orchestrator.driver.rows_to_run import rows_to_run
from orchestrator.execution.step_cost import measure_step_cost
from orchestrator.reports.published import FOLDER, NOT_RECORDED, PublishedRows, read_rows
from orchestrator.reports.reproduction import RepeatedRun, compare_with_published, reproduction_tables
from orchestrator.results.store import ResultStore

ROWS: dict[str, Any] = {
    "about": "Rows of our own.",
    "dataset": "images",
    "base": "base.yaml",
    "tolerance": {"image_auroc": 0.001, "pixel_auroc": 0.001},
    "tasks": ["bolt", "cloth"],
    "settings": {"data.tasks": ["bolt", "cloth"], "training.epochs": 1, "seed": 0},
    "runs": [
        {"name": "one", "version": "v1", "source": "A.", "settings": {}, "means": {}},
        {"name": "two", "version": "v3", "source": "B.", "settings": {"loss.patch_reduction": "sum"}, "means": {}},
        {
            "name": "unknown",
            "version": "v2",
            "source": "C.",
            "settings": {"lora.rank": NOT_RECORDED},
            "means": {"image_auroc": "0.5000"},
        },
        {"name": "later", "version": "v99", "source": "D.", "settings": {}, "means": {"image_auroc": "0.9000"}},
        {"name": "lost", "version": "v1", "source": "E.", "settings": {"seed": NOT_RECORDED}, "means": {}},
    ],
}
WORDS = ("reproduce", "--rows", "rows.yaml", "--data", "images", "--backend", "inline")


@pytest.fixture
def class_folders(tmp_path):
    """A folder with some classes of MVTec AD by name; nothing reads their images."""
    for name in ("leather", "grid", "transistor"):
        (tmp_path / name / "train" / "good").mkdir(parents=True)
        (tmp_path / name / "train" / "good" / "0.png").touch()
    return tmp_path


def write(place: Path, one: dict[str, str], two: dict[str, str]) -> None:
    rows = ROWS | {"runs": [dict(run) for run in ROWS["runs"]]}
    rows["runs"][0]["means"], rows["runs"][1]["means"] = one, two
    (place / "rows.yaml").write_text(yaml.safe_dump(rows))


def verdicts(text: str) -> dict[str, str]:
    table = text.split("## ")[1]
    return {m[1]: m[2] for m in re.finditer(r"^\| (\w+) \|.*\| ([^|]+) \|$", table, re.M) if m[1] != "Row"}


def test_rows_are_run_resumed_and_judged(place, command):
    write(place, {"image_auroc": "0.0000"}, {"image_auroc": "0.5000"})
    told = command(*WORDS, "--estimate")
    assert told.code == 0
    assert "rows:     3 rows of published-rows, 3 trials to run" in told.out
    assert (
        "not run:  published-rows: this project has no such version (later)\nnot run:  published-rows: no seed is recorded (lost)\n"
        in told.out
    )
    assert "unknown: lora.rank not recorded; runs with the base's value" in told.out
    assert re.search(
        r"expected: [\d.]+ (s|min)( \d+ s)? of training and [\d.]+ (s|min)( \d+ s)? for features", told.out
    )
    assert re.search(r"at most [\d.]+ GiB of GPU memory for one trial", told.out)
    assert not (place / "results").exists()

    first = command(*WORDS, "--quiet")
    assert (first.code, first.err) == (0, "")
    text = (place / "results" / "published-rows" / "reproduction.md").read_text()
    assert text.strip() in first.out
    assert first.out.rstrip().endswith("rows:     2 outside, 1 not comparable, 2 not run")
    assert verdicts(text) == {
        "one": "outside: Image AUROC",
        "two": "outside: Image AUROC",
        "unknown": "not comparable: `lora.rank` not recorded",
        "later": "not run: this project has no such version",
        "lost": "not run: no seed is recorded",
    }
    store = ResultStore(place / "results" / "published-rows")
    before = {row["trial_id"]: row["config"] for row in store.read("attempts").to_pylist()}
    assert len(before) == 3

    # The same figures as measured, but for one: nothing is run again.
    measured = {
        m[1]: (m[2], m[3]) for m in re.finditer(r"^\| (\w+) \| \S+ \| (\S+) \|.*?\| \S+ \| (\S+) \|", text, re.M)
    }
    ours = {name: {"image_auroc": image, "pixel_auroc": pixel} for name, (image, pixel) in measured.items()}
    write(place, ours["one"], ours["two"] | {"pixel_auroc": "0.0010"})
    second = command(*WORDS, "--quiet", "--notify", 'echo "$MOLEFLOW_NOTIFY_TEXT" >> told')
    assert second.code == 0
    assert (place / "told").read_text().startswith("published-rows: finished: 3 finished; ")
    assert "3 rows of published-rows, 0 trials to run" in second.out
    assert "timing" not in second.out
    found = verdicts((place / "results" / "published-rows" / "reproduction.md").read_text())
    assert (found["one"], found["two"]) == ("within", "outside: Pixel AUROC")
    assert len(ResultStore(place / "results" / "published-rows").read("attempts")) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "v33"), "--only: given 'v33', but no row has that name. Did you mean 'v3'?"),
        (("--profile", "x.yaml"), "--profile: needs --backend slurm"),
        (("--notify", "true", "--estimate"), "--notify: hears of a run, and --estimate runs nothing"),
        (("--only", "v3"), "are about MVTec AD; give its folder with --data or MOLEFLOW_DATA"),
        (
            ("--only", "v7, 15 classes"),
            "none of these rows can be run: published-fifteen_classes: the file names no base (v7, 15 classes)",
        ),
        (("--rows", "missing.yaml"), "missing.yaml"),
        (
            ("--only", "56x56", "--data", "."),
            "none of these rows can be run: published-decoflow: no seed is recorded (56x56)\n",
        ),
    ],
)
def test_mistakes_are_one_line(command, words, said):
    ended = command("reproduce", *words)
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize(("only", "rows"), [(("one", "two"), 2), (("two",), 1)])
def test_only_the_rows_that_are_named_run(place, command, only, rows):
    write(place, {"image_auroc": "0.0000"}, {"image_auroc": "0.5000"})
    told = command(*WORDS, *(word for name in only for word in ("--only", name)), "--estimate")
    plural = "s" if rows > 1 else ""
    assert (told.code, f"rows:     {rows} row{plural} of published-rows, {rows} trial{plural} to run" in told.out) == (
        0,
        True,
    )


def test_the_sweep_of_the_notes_rows_has_each_rows_own_settings(class_folders):
    rows = read_rows(FOLDER / "leather_grid_transistor.yaml")
    (group,) = rows_to_run(rows, "published", class_folders, {}).groups
    assert [run.name for run in group.runs] == [run.name for run in rows.runs]
    assert group.sweep.seeds == (0,)
    for run in rows.runs:
        flat = flatten_config(group.configs[run.name])
        for path, value in run.settings.items():
            if value != NOT_RECORDED and path != "patch_grid":
                assert flat[path] == (tuple(value) if isinstance(value, list) else value), (run.name, path)
    factors = {run.name: dict(row) for run, row in zip(rows.runs, group.sweep.axes[0], strict=True)}
    assert factors["v4"] == {"version": "v4"}
    assert factors["v5.0"] == {"version": "v5", "loss.center_on": "features", "loss.patch_reduction": "sum"}
    assert factors["v3@224"].keys() == {"version", "backbone.model", "data.image_size"}
    fifteen = read_rows(FOLDER / "fifteen_classes.yaml")
    not_run = rows_to_run(fifteen, "published", class_folders, {})
    assert (not_run.groups, not_run.not_run) == (
        (),
        {
            "v7, 15 classes": "the file names no base",
            "later line (wide_resnet50_2), 15 classes": "this project has no such version",
        },
    )


def test_rows_whose_classes_are_not_there_are_not_run(class_folders):
    rows = read_rows(FOLDER / "decoflow.yaml")
    of = rows_to_run(rows, "published", class_folders, {})
    assert of.groups == ()
    assert of.not_run["8+4"] == f"{class_folders} has no class bottle and 11 more of its classes"
    own = PublishedRows.model_validate(
        ROWS | {"base": "demo", "tasks": ("grid", "bolt"), "runs": _runs("grid", "bolt")}
    )
    of = rows_to_run(own, "published", class_folders, {})
    assert [run.name for group in of.groups for run in group.runs] == ["grid"]
    assert of.not_run == {"bolt": f"{class_folders} has no class bolt"}
    assert not_run_lines([of]) == [f"published: {class_folders} has no class bolt (bolt)"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data.test_image": 8}, "no knob 'data.test_image'; allowed: .*Did you mean 'data.test_images'?"),
        ({"epochs": 1}, "no knob 'epochs'; allowed: .*Did you mean 'training.epochs'?"),
        ({"loss.centre_on": NOT_RECORDED}, "no knob 'loss.centre_on'; allowed: .*Did you mean 'loss.center_on'?"),
        ({"seed": "zero"}, r"seed: given 'zero', allowed: a whole number >= 0 \| a list of them \| not recorded"),
        ({"seed": [0, NOT_RECORDED]}, r"seed: given \[0, 'not recorded'\], allowed: "),
        ({"version": "v3"}, "settings: no version here; give it beside `settings`"),
        ({"seed": [0, 0.5]}, r"seed: given \[0, 0.5\], allowed: "),
        ({"training.epochs": "ten"}, "training.epochs: given 'ten', allowed: "),
    ],
)
def test_a_setting_that_would_not_count_is_refused(place, command, changed, said):
    rows = ROWS | {"runs": [ROWS["runs"][0] | {"settings": changed}]}
    (place / "rows.yaml").write_text(yaml.safe_dump(rows))
    ended = command(*WORDS, "--estimate")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert re.search(said, ended.err), ended.err


def test_two_files_of_one_folder_are_refused(place, command):
    write(place, {"image_auroc": "0.0000"}, {"image_auroc": "0.5000"})
    ended = command(*WORDS, "--rows", "rows.yaml", "--estimate")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "several files have the results folder published-rows; give each file once" in ended.err


def test_equal_rows_of_two_files_cost_once(place, command):
    write(place, {"image_auroc": "0.0000"}, {"image_auroc": "0.5000"})
    (place / "more.yaml").write_text((place / "rows.yaml").read_text())
    told = command(*WORDS, "--rows", "more.yaml", "--only", "two", "--estimate").out
    assert "rows:     1 row of published-more, 1 trial to run\n          two: 0 s of training" in told


def test_rows_of_other_seeds_have_a_sweep_of_their_own():
    rows = PublishedRows.model_validate(ROWS | {"base": "demo", "runs": (), "tasks": ("bolt",)} | {"runs": _runs()})
    groups = rows_to_run(rows, "published", None, {}).groups
    assert [(group.sweep.name, group.sweep.seeds, [run.name for run in group.runs]) for group in groups] == [
        ("published", (3,), ["a", "c"]),
        ("published-2", (1, 2), ["b"]),
    ]
    (alone,) = rows_to_run(rows, "published", None, {}, only=["b"]).groups
    assert alone.sweep.name == "published-2"


def _runs(*tasks: str) -> tuple[dict[str, Any], ...]:
    if tasks:
        own = [{"seed": 0, "data.tasks": [name]} for name in tasks]
        runs = zip(tasks, own, strict=True)
        return tuple({"name": n, "version": "v1", "source": "A.", "settings": of, "means": {}} for n, of in runs)
    seeds = {"a": 3, "b": [1, 2], "c": 3}
    return tuple(
        {"name": name, "version": "v1", "source": "A.", "settings": {"seed": seed}, "means": {}}
        for name, seed in seeds.items()
    )


def test_a_row_is_judged_by_its_means_and_its_seeds(three_classes):
    run = three_classes.run("v3@224")

    def verdict(image: float, pixel: float, **named: Any) -> str:
        values = {("Mean", "image_auroc"): image, ("Mean", "pixel_auroc"): pixel}
        return compare_with_published(three_classes, RepeatedRun(run, values, **({"seeds": (0,)} | named)))

    assert three_classes.tolerance == {"image_auroc": 0.05, "pixel_auroc": 0.03}
    assert verdict(0.7835 - 0.0499, 0.8779 + 0.0299) == "within"
    assert verdict(0.7835 - 0.0501, 0.8779) == "outside: Image AUROC"
    assert verdict(0.8400, 0.9100) == "outside: Image AUROC, Pixel AUROC"
    assert verdict(0.7835, 0.8779, planned=2) == "not finished: 1 of 2 seeds"
    assert verdict(0.7835, 0.8779, not_run="a reason") == "not run: a reason"
    means, classes = reproduction_tables(three_classes, [RepeatedRun(run, {("grid", "image_auroc"): 0.7}, (0,))])
    assert [(name, [cell.text for cell in row]) for name, row in classes.rows][1] == (
        "v3@224, grid Image AUROC",
        ["0.710", "0.7000", "-0.0100"],
    )
    assert "Tolerance of a mean: Image AUROC 0.05, Pixel AUROC 0.03." in " ".join(means.notes)


def test_the_cost_of_a_step_is_counted_from_its_tensors(small_backbone):
    """A larger batch has larger activations, and the same weights, gradients and moments."""
    layers = [version_layer("v1", "test"), *base_layers("demo", "v1", "test")]
    config = resolve(layers).model_dump()
    config["backbone"] = config["backbone"] | {k: tuple(v) if k == "layers" else v for k, v in small_backbone.items()}
    config["data"]["image_size"] = 32
    config = TrialConfig.model_validate(config)
    environment = open_environment("cpu", 1)
    cost = measure_step_cost(config, environment)
    width = cost.image_bytes // (4 * 4 * 4)
    patches = 4 * 4 * config.training.batch_size
    assert cost.image_bytes == 4 * 4 * width * 4
    # For backward, each of 8 blocks keeps at least its input and its subnet's hidden layer.
    assert cost.step_bytes > 8 * patches * (width + width) * 4
    assert cost.task_bytes(10) == cost.step_bytes + 10 * cost.image_bytes
    larger = config.model_copy(update={"training": config.training.model_copy(update={"batch_size": 16})})
    more = measure_step_cost(larger, environment).step_bytes
    assert more - cost.step_bytes > 8 * patches * width * 4
    assert min(cost.step_seconds, cost.image_seconds) > 0
