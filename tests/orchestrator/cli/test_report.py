"""The commands compare and export."""

from __future__ import annotations

import shutil

import pytest

ONE, TWO = "results/small", "results/other"


@pytest.fixture
def two(finished, command, edit):
    """The small sweep and another one that shares half of its trials."""
    edit(name="other", grid={"focal_gamma": [0, 4]})
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    return finished


def test_two_sweeps_side_by_side(two, command, contents):
    before = contents(two)
    ended = command("compare", ONE, TWO)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("# small and other side by side\n\n- sweeps: small (4 trials), other (4 trials)\n")
    assert "| Metric | focal_gamma=0 (small, other) | focal_gamma=2 (small) | focal_gamma=4 (other) |" in ended.out
    assert "## Change against focal_gamma=0 (small, other)" in ended.out
    assert contents(two) == before
    as_csv = command("compare", TWO, ONE, "--format", "csv").out.splitlines()
    assert as_csv[0] == "dataset,variant,class,metric,mean,sd,n,change,marks,text"
    assert "focal_gamma=2 (small)" in {line.split(",")[1] for line in as_csv}
    latex = command("compare", ONE, TWO, "--format", "latex", "--baseline", "focal_gamma=4").out
    assert "\\toprule" in latex
    assert "Change against focal\\_gamma=4" in latex


def test_folders_of_one_name_are_told_apart(finished, command):
    shutil.copytree(finished / ONE, finished / "results/copy")
    ended = command("compare", ONE, "results/copy")
    assert "- sweeps: small (4 trials), copy (4 trials)" in ended.out
    assert "share a column" in ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", ONE], "compare: given one folder, allowed: two or more"),
        (["compare", ONE, "results/../results/small"], "is given twice"),
        (["compare", ONE, "images"], "images: holds no sweep"),
        (["compare", ONE, TWO, "--format", "markdow"], "Did you mean 'markdown'?"),
        (["compare", ONE, TWO, "--split", "tests"], "--split: given 'tests', allowed: test | validation."),
        (["compare", ONE, "results/copy", "--baseline", "focal_gama=0"], "--baseline focal_gama=0: unknown knob 'focal_gama'"),
        (["compare", ONE, "results/copy", "--baseline", "sweep=cop"], "given sweep 'cop', allowed: small, copy. Did you mean 'copy'?"),
        (["compare", ONE, "results/copy", "--baseline", "focal_gamma=7"], "no finished column fits loss.focal_gamma=7"),
        (["export", "images"], "images: holds no sweep"),
        (["export", ONE, "--what", "score"], "--what: given 'score', allowed: tables | trials"),
        (["export", ONE, "--what", "scores", "--format", "latex"], "allowed: csv"),
        (["export", ONE, "--to", "results"], "--to: given 'results', allowed: a file whose name ends in .csv | .tex"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(finished, command, words, said):
    if "results/copy" in words:
        shutil.copytree(finished / ONE, finished / "results/copy")
    ended = command(*words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("error: ")
    assert said in ended.err


def test_exports_to_stdout_and_to_a_file(finished, command):
    shown = command("export", ONE, "--what", "metrics")
    assert (shown.code, shown.err) == (0, "")
    written = command("export", ONE, "--what", "metrics", "--to", "metrics.csv")
    assert (written.code, written.out, written.err) == (0, "", "written: metrics.csv\n")
    assert (finished / "metrics.csv").read_text() == shown.out
    assert command("export", ONE, "--format", "markdown").out.startswith("# small: Does ")


@pytest.mark.parametrize("name", ["compare", "export", "doctor"])
def test_help_has_an_example(command, name):
    assert f"moleflow-sweep {name} " in command(name, "--help").out


def test_a_report_that_was_changed_is_told_by_the_exit_code(finished, command):
    assert command("verify", ONE).code == 0
    report = finished / ONE / "report.md"
    report.write_text(report.read_text().replace("small", "great", 1))
    for place in (ONE, f"{ONE}/report.md"):
        ended = command("verify", place)
        assert (ended.code, ended.err) == (1, "")


def test_every_file_of_a_report_is_named(finished, command):
    names = ("report.md", "report.csv", "report.tex", "report.html")
    said = "written: " + ", ".join(f"{ONE}/{name}" for name in names)
    assert command("report", ONE, "--html").err == f"{said}\n"


VALIDATED = {"validation_fraction": 0.3, "validation_anomalies": "synthetic", "evaluate": "validation"}


def test_a_sweep_that_scores_validation_images_alone_is_reported_on_those(place, edit, command):
    edit(base={"extends": "base.yaml", **VALIDATED})
    ran = command("sweep.yaml", "--backend", "inline")
    assert ran.code == 0, ran.err
    assert "  validation image AUROC 0." in ran.err + ran.out
    for text in (ran.out, command("report", ONE).out, (place / ONE / "report.md").read_text()):
        assert "No answer" not in text
        assert "All figures are of validation images with drawn defects; no test image has judged" in " ".join(
            text.split()
        )
    assert command("verify", ONE).code == 0
    refused = command("report", ONE, "--split", "test")
    assert refused.code == 2
    assert "no planned trial of results/small has test images; take --split validation" in refused.err
    assert "validation" in command("export", ONE, "--what", "trials").out.splitlines()[1]
    assert command("export", ONE).out.splitlines()[1].startswith("images (validation images),")
    paper = command("export", ONE, "--format", "latex").out
    assert ", on images, validation images." in paper
    assert "validation anomalies are synthetic" in paper[paper.index("tablenotes") :]
    assert "All figures are of validation images" in command("export", ONE, "--figure", "out.svg").err
    edit(name="other", base={"extends": "base.yaml", **VALIDATED, "epochs": 3})
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    assert "images: validation, not test" in command("compare", ONE, TWO).out
    rows = command("compare", ONE, TWO, "--format", "csv").out.splitlines()[1:]
    assert {row.partition(",")[0] for row in rows} == {"images (validation images)"}


def test_compare_says_how_to_see_a_sweep_without_test_images(finished, edit, command):
    edit(name="other", base={"extends": "base.yaml", **VALIDATED})
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    compared = command("compare", ONE, TWO).out
    assert "without other, which scored validation images alone: to see them, give --split validation" in compared
