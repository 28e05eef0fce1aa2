"""SLURM, Ray and the extras, as small programs and listeners of the test's own stand for them."""

from __future__ import annotations

import os
import socket
import tempfile
import time

import pytest

from orchestrator.doctor import backends
from orchestrator.doctor.finding import one_line, run_program


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH that holds nothing but the scripts that the test writes."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)

    return write


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def slurm(**extra):
    return dict.fromkeys(backends.COMMANDS, "true") | {"sacct": "true"} | extra


def test_no_slurm(programs):
    found, submits = backends.find_slurm()
    assert (found.state, found.said) == ("lacks", "no SLURM here")
    assert "login node" in found.mend
    assert (submits.name, submits.state) == ("submitit", "ok")


def test_some_of_slurm(programs):
    programs(sbatch="true", squeue="true")
    assert backends.find_slurm()[0].said == "without scancel, scontrol"


def test_a_controller_that_answers(programs):
    programs(**slurm(scontrol="echo 'Slurmctld(primary) at ctl is UP'"))
    assert (backends.find_slurm()[0].state, backends.find_slurm()[0].said) == ("ok", "Slurmctld(primary) at ctl is UP")


def test_without_accounting_the_end_of_old_jobs_is_unknown(programs, tmp_path):
    programs(**slurm(scontrol="echo 'ctl is UP'"))
    (tmp_path / "sacct").unlink()
    found = backends.find_slurm()[0]
    assert (found.state, found.said) == ("ok", "ctl is UP; no sacct: the end of old jobs cannot be looked up")


def test_a_controller_that_is_down(programs):
    programs(**slurm(scontrol="echo 'Slurmctld(primary) at ctl is DOWN'"))
    found = backends.find_slurm()[0]
    assert (found.state, "at ctl is DOWN" in found.said) == ("lacks", True)


def test_a_controller_that_says_nothing_is_not_waited_for(programs, monkeypatch):
    monkeypatch.setattr(backends, "ANSWER_WITHIN_S", 0.3)
    programs(**slurm(scontrol="exec /bin/sleep 60"))
    start = time.monotonic()
    found = backends.find_slurm()[0]
    assert (found.state, "no answer within 0.3 s" in found.said) == ("lacks", True)
    assert time.monotonic() - start < 30


def test_a_ray_that_runs_and_one_that_is_gone(listener, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "none runs here" in backends.find_ray().said
    for word in ("auto", "local"):
        monkeypatch.setenv("RAY_ADDRESS", word)
        assert "none runs here" in backends.find_ray().said
    monkeypatch.delenv("RAY_ADDRESS")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("\n")
    assert "none runs here" in backends.find_ray().said
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{listener}\n")
    assert backends.find_ray().said.endswith(
        f"one runs at 127.0.0.1:{listener}: --address 127.0.0.1:{listener} joins it"
    )
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert (backends.find_ray().state, backends.find_ray().mend) == ("note", "ray stop")


def test_a_package_that_is_not_installed():
    found = backends.find_package("search", "no-such-distribution", "search")
    assert (found.state, found.said) == ("lacks", "no-such-distribution is not installed")
    assert "pip install -e '.[search]'" in found.mend


def test_what_programs_say(programs):
    programs(fails="echo out; echo; echo '  why  ' >&2; exit 3")
    assert run_program(["fails"], 5.0) == (3, "out\n\n", "  why  \n")
    assert run_program(["not-there"], 5.0)[0] is None
    assert one_line("a\n  why  \n\n") == "why"
    assert one_line("") == "no output"
    assert len(one_line("x" * 999)) == 160


def test_a_program_does_not_read_what_the_user_types(programs):
    programs(asks="read word; echo got $word")
    before = os.dup(0)
    terminal, typed = os.pipe()
    try:
        os.dup2(terminal, 0)
        os.write(typed, b"secret\n")
        assert run_program(["asks"], 60.0) == (0, "got\n", "")
    finally:
        os.dup2(before, 0)
        for handle in (before, terminal, typed):
            os.close(handle)
