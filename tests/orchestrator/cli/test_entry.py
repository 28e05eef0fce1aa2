"""The commands on new, finished and failing sweeps."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moleflow.settings.knobs import fields
from orchestrator.cli import entry
from orchestrator.driver import prepare
from orchestrator.reports.tables import first_screen
from orchestrator.results import parts
from orchestrator.results.schema import TABLES
from orchestrator.results.store import ResultStore


def by_other_code(folder):
    """Rewrite the newest part of a results folder as if by other code; return its trial ids."""
    names = sorted(path.stem for path in (folder / "parts/attempts").glob("2*.parquet"))
    tables = {table: pq.read_table(parts.part_file(folder / "parts", table, names[-1])) for table in TABLES}
    column = tables["attempts"].schema.get_field_index("code_digest")
    old = pa.array(["0" * 64] * len(tables["attempts"]))
    tables["attempts"] = tables["attempts"].set_column(column, tables["attempts"].schema.field(column), old)
    parts.write_part(folder / "parts", parts.make_part("2" * 20, tables))
    for table in TABLES:
        parts.part_file(folder / "parts", table, names[-1]).unlink()
    return set(tables["attempts"]["trial_id"].to_pylist())


def test_plan_of_a_new_sweep(place, command):
    ended = command("plan", "sweep.yaml")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[:5] == [
        "sweep:    small",
        "question: Does [gamma] matter?",
        "dataset:  images (images)",
        "results:  results/small",
        "trials:   4 on base base: 0 done, 4 to run",
    ]
    differs = lines[lines.index("what differs between them:") :]
    assert [line.split() for line in differs[1:3]] == [["loss.focal_gamma", "0", "|", "2"], ["seed", "0", "|", "1"]]
    assert ["training.epochs", "2"] in [line.split() for line in lines]
    assert not any("weight_decay" in line for line in lines)
    trials = lines[lines.index("the trials:") + 1 :]
    assert [line[16:] for line in trials] == [
        "to run  focal_gamma=0 seed=0",
        "to run  focal_gamma=0 seed=1",
        "to run  focal_gamma=2 seed=0",
        "to run  focal_gamma=2 seed=1",
    ]
    assert not (place / "results").exists()


def test_plan_shows_what_a_version_brings_along_and_what_is_not_compared(place, command, edit):
    (place / "mixed.yaml").write_text("extends: base.yaml\nper_version:\n  v3: {data: {image_size: 48}}\n")
    edit(version=None, grid={"version": ["v3", "v7"]}, base="mixed.yaml", report=None)
    lines = command("plan", "sweep.yaml").out.splitlines()
    assert [line.split() for line in lines if line.startswith("  version ")] == [["version", "v3", "|", "v7"]]
    assert "  set by the version: loss.focal_gamma" in lines
    other = lines.index("not compared, yet different:")
    assert lines[other + 1].split() == ["data.image_size", "48", "|", "32"]


def test_plan_knows_what_is_done_and_what_other_code_made(finished, command, edit):
    old = by_other_code(finished / "results/small")
    assert 0 < len(old) < 4
    edit(seeds=3)
    told = json.loads(command("plan", "sweep.yaml", "--json").out)
    assert told["counts"] == {"done": 4 - len(old), "stale": len(old), "to run": 2}
    assert {trial["trial_id"] for trial in told["trials"] if trial["state"] == "stale"} == old
    assert {trial["seed"] for trial in told["trials"] if trial["state"] == "to run"} == {2}
    assert told["compared"] == {"loss.focal_gamma": [0, 2]}
    assert told["shared"]["training.epochs"] == 2
    assert told["shared"].keys() | told["compared"].keys() | {"seed"} == fields().keys()
    again = json.loads(command("plan", "sweep.yaml", "--json", "--rerun-stale").out)
    assert again["counts"] == {"done": 4 - len(old), "stale": 0, "to run": 2 + len(old)}
    assert f"{len(old)} stale (made by other code; --rerun-stale runs them again)" in command("plan", "sweep.yaml").out


def test_stale_results_are_kept_until_asked_for_and_then_run_again(finished, command, digits, small_run):
    old = by_other_code(finished / "results/small")
    kept = command("sweep.yaml", "--backend", "inline")
    assert (kept.code, f"{len(old)} stale" in kept.out) == (0, True)
    store = ResultStore(finished / "results/small")
    assert {t for t, known in store.finished().items() if known.code_digest == "0" * 64} == old
    assert command("sweep.yaml", "--backend", "inline", "--rerun-stale").code == 0
    assert {known.attempt for t, known in store.finished().items() if t in old} == {2}
    assert {known.code_digest for known in store.finished().values()} != {"0" * 64}
    assert digits(finished / "results/small") == digits(small_run / "results/small")


def test_report_makes_the_same_files_again(finished, command):
    folder = finished / "results/small"
    before = {path.name: path.read_bytes() for path in folder.glob("report.*")}
    assert sorted(before) == ["report.csv", "report.md", "report.tex"]
    for path in folder.glob("report.*"):
        path.unlink()
    ended = command("report", "results/small")
    assert ended.code == 0
    assert {path.name: path.read_bytes() for path in folder.glob("report.*")} == before
    shown, _, lock = before["report.md"].decode().partition("<!-- lock")
    assert lock, "the file carries its lock; what is printed does not"
    assert ended.out.strip() == shown.strip()
    assert "Does \\[gamma\\] matter?" in ended.out
    assert ended.err.startswith("written: ")
    assert command("report", "results/small", "--format", "csv").out == before["report.csv"].decode() + "\n"


def test_report_prints_its_tables_where_they_cannot_be_written(finished, command):
    place = finished / "results/small/report.md"
    body = place.read_text().partition("<!-- lock")[0].strip()
    place.unlink()
    (place / "in-the-way").mkdir(parents=True)
    ended = command("report", "results/small")
    assert ended.out.strip() == body
    assert ended.code != 0
    assert ended.err.startswith("error: results/small/report.md: ")
    assert ended.err.count("\n") == 1


def test_a_run_prints_its_answer_and_one_table_or_all_of_its_report_as_it_is(finished, command):
    body = (finished / "results/small/report.md").read_text().partition("<!-- lock")[0].strip()
    full = command("sweep.yaml", "--backend", "inline", "--full")
    assert body in full.out
    ended = command("sweep.yaml", "--backend", "inline")
    assert first_screen(body).strip() in ended.out
    assert "## Per class" not in ended.out
    assert "## Per class" in full.out
    assert "results: results/small/parts (Parquet)" in ended.out
    assert "report:  results/small/report.md" in ended.out


def test_report_of_the_latest_plan_or_of_all(finished, command, edit):
    edit(seeds=1)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert "seeds: 0 (n = 1" in command("report", "results/small").out
    own = (finished / "results/small/report.md").read_bytes()
    everything = command("report", "results/small", "--all", "--html")
    assert "seeds: 0, 1 (n = 2" in everything.out
    assert (finished / "results/small/report.md").read_bytes() == own
    names = ", ".join(f"results/small/report-all.{kind}" for kind in ("md", "csv", "tex", "html"))
    assert everything.err == f"written: {names}\n"
    for name in ("report.md", "report-all.md"):
        assert command("verify", f"results/small/{name}").code == 0
    assert "page:" not in command("report", "results/small", "--all").err
    refused = command("verify", "results/small/report-all.csv")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "give results/small/report-all.md" in refused.err


def test_a_page_of_an_earlier_report_is_named_until_it_is_made_again(finished, command, edit):
    assert command("report", "results/small", "--html").code == 0
    assert "page:" not in command("sweep.yaml", "--backend", "inline").out
    edit(seeds=1)
    line = "page:    results/small/report.html shows an earlier report; make it again: "
    again = "report results/small --html"
    ended = command("sweep.yaml", "--backend", "inline").out
    assert line in ended
    assert again in ended
    remade = command("report", "results/small").err
    assert line in remade
    assert again in remade
    assert "page:" not in command("report", "results/small", "--html").err
    assert "page:" not in command("report", "results/small").err


def test_a_failing_variant_is_named_and_the_rest_of_the_sweep_goes_on(place, features, command, edit):
    diverging = {"learning_rate": 1e30, "optimizer": "adamw", "gradient_clip": None}
    edit(grid=None, list=[diverging, {"focal_gamma": 2}], seeds=1, retries=2, report=None)
    ended = command("sweep.yaml", "--backend", "inline")
    assert ended.code == 1
    assert ended.err == ""
    named = [line for line in ended.out.splitlines() if line.startswith("failed: ")]
    assert len(named) == 1
    assert "learning_rate=1e+30" in named[0]
    assert "Diverged: task 0 (bolt): the loss became nan in epoch 1 of 2" in named[0]
    assert "1 of 2 trials finished and kept" in ended.out
    rows = ResultStore(place / "results/small").read("attempts").to_pylist()
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["attempt"] for row in failed] == [1]  # Another attempt would compute the same digits.
    assert all(row["traceback"].startswith("Traceback") for row in failed)


@pytest.mark.parametrize(
    ("words", "stream"),
    [
        (("sweep.yaml",), "out"),
        (("sweep.yaml", "--log-json"), "err"),
        (("prefetch", "sweep.yaml"), "out"),
        (("trial", "--version", "v7", "--base", "demo"), "out"),
    ],
)
def test_ctrl_c_before_the_first_trial_names_the_command(command, monkeypatch, words, stream):
    """Preparing a sweep may take a minute. With --log-json only events go to stdout."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "scan_inputs", interrupt)
    ended = command(*words)
    assert ended.code == 130
    assert getattr(ended, stream) == f"interrupted; to continue, run: moleflow-sweep {' '.join(words)}\n"
    assert ended.out + ended.err == getattr(ended, stream)


def test_a_trial_of_its_own(place, command, features):
    words = ["trial", "--version", "v7", "--base", "base.yaml", "--data", "images", "--set", "focal_gamma=2"]
    words += ["--seed", "3"]
    ended = command(*words)
    assert ended.code == 0
    assert "finished  1/1" in ended.out
    place_of_results = next(line.split()[1] for line in ended.out.splitlines() if line.startswith("results: "))
    assert place_of_results.startswith("results/trial-v7")
    assert "1 done, 0 to run" in command(*words).out
    assert ResultStore(place / place_of_results).read("attempts")["seed"].to_pylist() == [3]


def test_the_cache_is_shown_and_cleared(finished, command):
    shown = command("cache")
    assert shown.code == 0
    assert f"cache: {finished / 'cache'}" in shown.out
    assert "features: 40 images" in shown.out
    assert "stages: 8, " in shown.out
    assert command("cache", "--clear").code == 0
    emptied = command("cache").out
    assert "features: 0 images, 0 B" in emptied
    assert "stages: 0, 0 B" in emptied
    assert len(ResultStore(finished / "results/small").finished()) == 4


def test_knobs_are_listed_by_a_word_in_name_or_meaning(command):
    listed = command("knobs", "Focal").out
    paths = [line.split()[0] for line in listed.splitlines() if line and not line.startswith((" ", "Option"))]
    assert {"loss.focal_gamma", "loss.focal_form"} <= {*paths}
    assert {*paths} == {path for path, of in fields().items() if "focal" in f"{path} {of.description}".lower()}


def test_knobs_are_listed_with_all_that_they_may_be(command):
    listed = command("knobs").out
    for path in fields():
        assert f"{path}" in listed
    assert "loss.focal_gamma  (short: focal_gamma)\n    a number >= 0; default 0;" in listed
    assert "--center_loss_weight: loss.center_weight" in listed


def test_the_schema_is_json(command):
    assert json.loads(command("schema").out)["$schema"].startswith("https://json-schema.org/")


LIGHT = """
import sys
import orchestrator
heavy = {"torch", "timm", "ray", "submitit", "optuna", "sklearn", "pyarrow"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
from orchestrator import cli
sys.argv[1:] = sys.argv[1:]
try:
    cli.main()
except SystemExit as left:
    assert left.code == 0, left.code
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(words):
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: moleflow-sweep" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["run", "--help"]])
def test_the_help_of_flags_names_no_value(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", *words])
    entry.main()
    assert "bool" not in capsys.readouterr().out.lower()


def test_two_drivers_on_one_sweep_run_nothing_twice(place, features, edit, start, command, wait_until):
    edit(seeds=3, base={"extends": "base.yaml", "epochs": 20})
    there = start("sweep.yaml", "--backend", "inline")
    wait_until(lambda: list((place / "results/small/attempts").glob("*.json")))
    here, other = command("sweep.yaml", "--backend", "inline"), there.end()
    assert [(one.code, one.err) for one in (here, other)] == [(0, ""), (0, "")]
    rows = ResultStore(place / "results/small").read("attempts").to_pylist()
    assert sorted((row["attempt"], row["status"]) for row in rows) == [(1, "finished")] * 6
    assert len({row["pid"] for row in rows}) == 2
    assert len(list((place / "results/small/attempts").glob("*.json"))) == 6
    assert "by another run" in here.out + other.out
