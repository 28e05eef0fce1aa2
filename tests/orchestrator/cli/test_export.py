"""The commands export and diff: files, figures, options that contradict one another, two trials."""

from __future__ import annotations

import json
import sys

import pyarrow.parquet as pq
import pytest

from orchestrator.cli import export as cli_export
from orchestrator.reports.export import FORMATS, WHAT
from orchestrator.trackers.export_runs import TRACKERS

ONE = "results/small"
FIRST, SECOND = "focal_gamma=0 seed=0", "focal_gamma=2 seed=1"


def test_a_figure_and_the_trials_are_written_to_files(finished, command):
    drawn = command("export", ONE, "--figure", "answer.svg")
    assert (drawn.code, drawn.out) == (0, "")
    assert drawn.err.startswith(
        "written: answer.svg (Variants against the baseline)\ncaption: Dashed line: the baseline"
    )
    assert (finished / "answer.svg").read_text().startswith("<svg")
    assert command("export", ONE, "--what", "trials", "--format", "parquet", "--to", "trials.parquet").code == 0
    trials = pq.read_table(finished / "trials.parquet")
    assert trials["variant"].to_pylist() == ["focal_gamma=0"] * 2 + ["focal_gamma=2"] * 2


def test_the_format_follows_from_the_name_of_the_file(finished, command):
    for name, begins in (("t.tex", "% small:"), ("t.CSV", "dataset,variant,"), ("t.md", "# small:")):
        ended = command("export", ONE, "--to", name)
        assert (ended.code, ended.err) == (0, f"written: {name}\n")
        assert (finished / name).read_text().startswith(begins)
    assert command("export", ONE, "--what", "scores", "--to", "s.parquet").code == 0
    assert pq.read_table(finished / "s.parquet").num_rows > 0


def test_a_table_has_the_caption_that_was_asked_for(finished, command):
    own = command("export", ONE, "--table", "1", "--to", "own.tex", "--caption", "Gamma, 50% of it.")
    assert own.code == 0, own.err
    assert "\\caption{Gamma, 50\\% of it.}" in (finished / "own.tex").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--into", "x"], "--into: is for a tracker; give --to mlflow | tensorboard | wandb too"),
        (["--chart", "1"], "--chart: needs --figure FILE"),
        (["--to", "mlfow"], "--to: given 'mlfow', which is no tracker. Did you mean 'mlflow'? For a file, give its"),
        (["--to", "mlflow", "--what", "scores"], "--what: has no meaning for an export to a tracker"),
        (["--to", "wandb", "--into", "https://host/x"], "--into: given 'https:/host/x', allowed: a folder"),
        (["--to", "wandb", "--into", "sweep.yaml"], "--into: given 'sweep.yaml', allowed: a folder"),
        (["--figure", "a.pdf", "--to", "b.pdf"], "--to: has no meaning for an export to --figure"),
        (["--figure", "a.pdf", "--format", "latex"], "--format: has no meaning for an export to --figure"),
        (["--figure", "a.jpg"], "--figure: given 'a.jpg', allowed: a file whose name ends in .pdf | .svg | .png"),
        (["--figure", ""], "--figure: given ''"),
        (["--format", "parquet"], "give a file, such as --to trials.parquet"),
        (["--format", "parquet", "--to", "x.parquet"], "--format: parquet is for --what trials | metrics"),
        (["--to", "t.parquet"], "--format: parquet is for --what trials | metrics"),
        (["--to", "csv"], "--to: given 'csv', allowed: a file whose name ends in .csv | .tex | .md | .parquet"),
        (["--to", "t.xlsx"], "--to: given 't.xlsx', allowed: a file whose name ends in .csv"),
        (["--format", "latex", "--to", "paper.pdf"], ".parquet; for a chart: --figure FILE"),
        (
            ["--format", "latex", "--to", "t.csv"],
            "given 't.csv' with --format latex, allowed: a name that ends in .tex",
        ),
        (
            ["--format", "latx"],
            "--format: given 'latx', allowed: csv | latex | markdown | parquet. Did you mean 'latex'?",
        ),
        (["--caption", "Mine."], "--caption: is for one table in LaTeX; give --format latex and --table NUMBER"),
        (["--to", "mlflow", "--caption", "Mine."], "--caption: has no meaning for an export to a tracker"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_write_nothing(finished, command, contents, words, said):
    before = contents(finished)
    ended = command("export", ONE, *words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert said in ended.err
    assert contents(finished) == before


@pytest.mark.parametrize("tracker", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_client_is_one_line_with_the_command_that_installs_it(finished, command, monkeypatch, tracker):
    for name in [name for name in sys.modules if name.startswith(f"{tracker}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tracker, None)  # Python's sign for a module that cannot be had.
    ended = command("export", ONE, "--to", tracker)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"--to {tracker}: its client cannot be imported" in ended.err
    assert f"pip install -e '.[{tracker}]'" in ended.err
    assert not (finished / "exports").exists()


def test_the_words_of_the_options_are_those_that_the_exports_know():
    """The command lists them without loading what they need."""
    assert tuple(TRACKERS) == cli_export.TRACKERS
    assert (cli_export.FORMATS, cli_export.WHAT) == (FORMATS, WHAT)


def test_two_trials_are_compared_and_nothing_is_written(finished, command, contents):
    before = contents(finished)
    ended = command("diff", FIRST, SECOND, ONE)
    assert (ended.code, ended.err) == (0, "")
    assert "| loss.focal_gamma | 0 | 2 |" in ended.out
    assert "\nequal: " in ended.out
    assert command("diff", FIRST, SECOND).out == ended.out  # Every folder in results/ by default.
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff", FIRST], "diff: given 1 trials, needed: two"),
        (["diff", FIRST, SECOND, "results/none"], "results/none is no folder"),
        (["diff", FIRST, SECOND, "images"], "images: holds no sweep"),
        (["diff", FIRST, "focal_gamma=2 sed=1", ONE], "Did you mean 'focal_gamma=2 seed=1'?"),
    ],
)
def test_mistakes_of_diff_are_one_line(finished, command, words, said):
    ended = command(*words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert said in ended.err


def test_a_damaged_configuration_is_no_traceback(finished, command):
    path = finished / ONE / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trials": "all"}))
    ended = command("diff", FIRST, SECOND, ONE)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "is damaged" in ended.err
