"""Commands in messages work where the user stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.host import command_line
from orchestrator.host.command_line import COMMAND_VARIABLE, command_to_repeat, install_command, program_name


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A project with an inactive virtual environment, and a program of that name on the PATH."""
    for folder in ("project/.venv/bin", "on path"):
        for name in ("moleflow-sweep", "python"):
            program = tmp_path / folder / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("PATH", str(tmp_path / "on path"))
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    return tmp_path


def started_as(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (".venv/bin/moleflow-sweep", ".venv/bin/moleflow-sweep"),
        ("./.venv/bin/moleflow-sweep", "./.venv/bin/moleflow-sweep"),
        ("{folder}/project/.venv/bin/moleflow-sweep", ".venv/bin/moleflow-sweep"),
        ("../project/.venv/bin/moleflow-sweep", "../project/.venv/bin/moleflow-sweep"),
        ("{folder}/on path/moleflow-sweep", "moleflow-sweep"),
        ("../on path/moleflow-sweep", "moleflow-sweep"),
        ("moleflow-sweep", "moleflow-sweep"),
    ],
)
def test_the_program_is_named_so_that_the_shell_finds_it(environment, monkeypatch, typed, expected):
    """The bare name is right only if the PATH leads to this very program."""
    started_as(monkeypatch, typed.format(folder=environment), "sweep.yaml")
    assert program_name() == expected
    assert command_to_repeat() == f"{expected} sweep.yaml"


def test_a_program_elsewhere_keeps_its_path_quoted_for_the_shell(environment, monkeypatch):
    """An absolute path outside of the current folder stays, and a space in it is quoted."""
    other = environment / "other place/moleflow-sweep"
    started_as(monkeypatch, other)
    assert program_name() == f"'{other}'"


@pytest.mark.parametrize(
    ("python", "expected"),
    [("{folder}/on path/python", "python"), ("{folder}/project/.venv/bin/python", ".venv/bin/python")],
)
def test_a_module_is_started_again_by_its_interpreter(environment, monkeypatch, python, expected):
    """`python -m orchestrator.cli` leaves the path of __main__.py as the program's name."""
    monkeypatch.setattr(sys, "executable", python.format(folder=environment))
    started_as(monkeypatch, environment / "orchestrator/cli/__main__.py", "status", "results/a b")
    assert command_to_repeat() == f"{expected} -m orchestrator.cli status 'results/a b'"


def test_the_command_of_a_wrapper_is_repeated(environment, monkeypatch):
    """`make demo` sets the variable to itself; an empty variable counts as unset."""
    started_as(monkeypatch, ".venv/bin/moleflow-sweep", "sweeps/v7_gamma.yaml", "--base", "demo")
    monkeypatch.setenv(COMMAND_VARIABLE, "make demo")
    assert command_to_repeat() == "make demo"
    monkeypatch.setenv(COMMAND_VARIABLE, "")
    assert command_to_repeat() == ".venv/bin/moleflow-sweep sweeps/v7_gamma.yaml --base demo"


def test_passwords_are_not_repeated(environment, monkeypatch):
    """The password of a storage URL is replaced."""
    started_as(monkeypatch, "moleflow-sweep", "s.yaml", "--storage", "mysql://me:secret@host/db")
    assert command_to_repeat() == "moleflow-sweep s.yaml --storage 'mysql://me:***@host/db'"


@pytest.mark.parametrize("words", [("--notify", "https://h/s3cret?a=b"), ("--notify=https://h/s3cret?a=b",)])
def test_notices_are_not_repeated_and_messages_hide_their_address(environment, monkeypatch, words):
    """A webhook is a secret, and a command is for the run that it was typed for."""
    started_as(monkeypatch, "moleflow-sweep", "s.yaml", *words, "--quiet")
    assert command_to_repeat() == "moleflow-sweep s.yaml --quiet"
    assert command_line.without_typed_secrets("https://h/s3cret?a=b: refused") == "***: refused"


def test_the_install_command_names_the_checkout_and_its_pins(tmp_path, monkeypatch):
    """The command changes to the checkout, as `.` would else be the user's folder."""
    checkout = tmp_path / "check out"
    checkout.mkdir()
    monkeypatch.setattr(command_line, "ROOT", checkout)
    assert install_command("ray") == "pip install -e '.[ray]' (in a checkout of the project)"
    (checkout / "pyproject.toml").touch()
    assert install_command("ray") == f"cd '{checkout}' && pip install -e '.[ray]'"
    (checkout / "constraints.txt").touch()
    assert install_command() == f"cd '{checkout}' && pip install -e . -c constraints.txt"


def test_the_project_is_this_checkout():
    """The folder that the install command changes to holds this project's pyproject.toml."""
    assert Path(__file__).parents[3] == command_line.ROOT
    assert 'name = "moleflow-sweep"' in (command_line.ROOT / "pyproject.toml").read_text()


def test_a_failed_start_of_the_real_program_names_itself(tmp_path):
    """The path of the installed program stays in a message, as its folder is not on the PATH."""
    program = Path(sys.executable).parent / "moleflow-sweep"
    if not program.exists():
        pytest.skip("the program is not installed next to the interpreter: make install")
    environment = os.environ | {"PATH": str(tmp_path)}
    ended = subprocess.run([program, "run", "--zzz"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: run: no option '--zzz'; {program} run --help lists them\n"
