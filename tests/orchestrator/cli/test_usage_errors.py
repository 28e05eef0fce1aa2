"""Whatever is typed wrongly is said in one line, with what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

from orchestrator.cli import entry
from orchestrator.cli.usage_errors import ARGUMENTS, VALUES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "run: give a sweep file, such as sweeps/v7_gamma.yaml"),
        (["diff"], "diff: give two trials, such as `diff 3f2a 90bc results/NAME`"),
        (["trial"], "trial: give --version, one of v1, v2, ..."),
        (["s.yaml", "--workers", "x"], "--workers: given 'x', allowed: a whole number from 1 to 1024"),
        (["s.yaml", "--workers", "2", "--workers=x"], "--workers: given 'x', allowed: a whole number from 1 to 1024"),
        (["s.yaml", "--workers=0"], "--workers: given '0', allowed: a whole number from 1 to 1024"),
        (["run", "--workers", "1.5", "s.yaml"], "--workers: given '1.5', allowed: a whole number from 1 to 1024"),
        (["dashboard", "x", "--port", "65536"], "--port: given '65536', allowed: a whole number from 0 to 65535"),
        (["s.yaml", "--worker", "3"], "run: no option '--worker'. Did you mean '--workers'?"),
        (["s.yaml", "-workers=3"], "run: no option '-workers'. Did you mean '--workers'?"),
        (["s.yaml", "--zzz"], "run: no option '--zzz'; moleflow-sweep run --help lists them"),
        (["--zzz"], "no option '--zzz'; moleflow-sweep --help lists them"),
        (["s.yaml", "extra"], "run: given 'extra' besides s.yaml; it takes one sweep file"),
        (["logs", "x", "y", "z"], "logs: given 'z' besides x, y; it takes one results folder and one trial"),
        (["knobs", "one", "extra"], "knobs: given 'extra' besides one; it takes one word"),
        (["knobs", "nonsense"], "knobs: no name and no meaning has 'nonsense'; without a word, all are listed"),
        (["export", "x", "--latex"], "export: no option '--latex'. Did you mean '--format latex'?"),
        (["export", "x", "--mlflow"], "export: no option '--mlflow'. Did you mean '--to mlflow'?"),
        (["export", "x", "--pdf"], "export: no option '--pdf'. Did you mean '--figure FILE.pdf'?"),
        (["predict", "x", "y", "--csv"], "predict: no option '--csv'. Did you mean '--out FILE.csv'?"),
        (
            ["s.yaml", "--learning_rate", "1"],
            "run: no option '--learning_rate'. Did you mean '--set learning_rate=...'?",
        ),
        (["s.yaml", "--demo"], "run: no option '--demo'. Did you mean '--base demo'?"),
        (
            ["export", "x", "--format", "mlflow"],
            "--format: given 'mlflow', allowed: csv | latex | markdown | parquet. Did you mean '--to mlflow'?",
        ),
        (
            ["s.yaml", "--device", "gpu"],
            "--device: given 'gpu', allowed: auto | cpu | cuda. Did you mean 'cuda'?",
        ),
        (
            ["cache", "--clear", "feature"],
            "--clear: given 'feature', allowed: all | features | stages | defects. Did you mean 'features'?",
        ),
        (["s.yaml", "--yes=3"], "--yes: takes no value"),
        (["s.yaml", "--set"], "--set: give knob=value, as in --set epochs=5"),
        (
            ["--install-completion", "nonsense"],
            "--install-completion: given 'nonsense', but it takes no value; it installs for the current shell",
        ),
    ],
)
def test_one_line_with_what_to_do(command, words, said):
    ended = command(*words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {said}\n")


def test_a_password_that_was_typed_is_not_repeated(command):
    pytest.importorskip("sqlalchemy", reason="no SQLAlchemy: pip install -e '.[search]'")
    ended = command("postgresql://user:secret@host/study")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: 'postgresql://user:***@host/study' is neither a command (")


@pytest.mark.parametrize("word", ["--out=", "--cache="])
def test_an_empty_value_is_no_path_although_a_word_follows(command, word):
    ended = command("plan", word, "s.yaml")
    assert (ended.code, ended.err) == (2, f"error: {word[:-1]}: given ''; give a name or path, or leave it out\n")


def test_a_file_that_may_not_be_read(command, tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text("name: s")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: str(path) != "s.yaml" and access(path, mode, **more))
    monkeypatch.chdir(tmp_path)
    ended = command("plan", "s.yaml")
    assert ended.code == 2
    assert "'s.yaml' is not readable; give a sweep file, such as sweeps/v7_gamma.yaml" in ended.err


def test_every_option_and_argument_has_words_of_its_own():
    for command in typer.main.get_command(entry.app).commands.values():
        for parameter in command.params:
            name = parameter.opts[0]
            if name.startswith("-"):
                assert parameter.is_flag or name in VALUES, f"{command.name} {name}"
            elif parameter.required:
                assert parameter.metavar in ARGUMENTS, f"{command.name} {name}"
            if getattr(parameter, "min", None) is not None:
                assert str(parameter.min) in VALUES[name]
                assert "a whole number" in VALUES[name]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_the_ways_to_ask_for_help(command, words):
    ended = command(*words)
    assert (ended.code, ended.err) == (0, "")
    assert "Usage: moleflow-sweep" in ended.out
    assert ended.out == command("--help").out


def test_help_of_one_command(command):
    assert "Usage: moleflow-sweep plan" in (told := command("help", "plan").out)
    assert told == command("plan", "-h").out
    assert command("help", "plann").err.endswith("Did you mean 'plan'?\n")


def test_no_words_at_all(command):
    ended = command()
    assert ended.code == 2
    assert "Usage: moleflow-sweep" in ended.out


def test_the_version(command):
    ended = command("--version")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("moleflow-sweep 0.")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that is always full is Linux's")
@pytest.mark.parametrize("words", [["--version"], ["knobs"]])
def test_a_full_disk_behind_stdout(words, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: stdout: cannot be written (No space left on device)\n",
    )


def test_a_reader_that_has_seen_enough(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "--version"], stdout=pipe, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_cluster_that_does_not_answer_is_no_mistake_of_the_user(place, features, command, monkeypatch):
    (place / "bin").mkdir()
    for program in ("sbatch", "squeue", "scancel", "scontrol"):
        (place / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
        (place / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(place / "bin"))
    ended = command("sweep.yaml", "--backend", "slurm", "--detach")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith("error: ")
