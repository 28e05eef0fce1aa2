"""Array tasks: how trials are packed into them, what they request, and their sbatch script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moleflow.errors import InvalidInput
from orchestrator.backends.slurm.job_array import (
    ArrayShape,
    array_shape,
    batched,
    sbatch_script,
    submitit_executor,
)
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.sweep.file_schema import Resources


def test_a_task_of_one_trial_gets_what_one_trial_needs() -> None:
    shape = array_shape(Resources(gpus=1, cpus=3, mem_gb=6, time_min=50), SiteProfile())
    assert shape == ArrayShape(trials=1, parallel=1, time_min=50, cpus=3, mem_gb=6, gpus=1)


def test_trials_in_a_row_take_longer_and_parallel_trials_take_more() -> None:
    needs = Resources(gpus=1, cpus=2, mem_gb=4, time_min=10)
    shape = array_shape(needs, SiteProfile(trials_per_job=6, trials_per_gpu=3))
    assert shape == ArrayShape(trials=6, parallel=3, time_min=20, cpus=6, mem_gb=12, gpus=1)
    # Seven trials, three at once, take three rounds.
    assert array_shape(needs, SiteProfile(trials_per_job=7, trials_per_gpu=3)).time_min == 30


@pytest.mark.parametrize(("gpus", "parallel", "whole"), [(0, 1, 0), (0.5, 2, 1), (0.34, 2, 1), (0.25, 4, 1), (2, 1, 2)])
def test_a_fraction_of_a_gpu_is_shared_by_as_many_trials_as_fit(gpus: float, parallel: int, whole: int) -> None:
    shape = array_shape(Resources(gpus=gpus), SiteProfile())
    assert (shape.parallel, shape.gpus) == (parallel, whole)


def test_batches_keep_the_order_and_leave_nothing_out() -> None:
    assert batched(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.fixture
def script(programs: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """The lines of the sbatch script for a shape; keyword arguments are keys of the profile."""
    programs(srun="", sbatch="")

    def lines(shape: ArrayShape, tasks: int = 1, after: tuple[str, ...] = (), **keys: Any) -> list[str]:
        profile = SiteProfile.model_validate({"python": "/opt/python", **keys})
        return sbatch_script(tmp_path / "jobs", "moleflow-x", shape, profile, 2, after, tasks).splitlines()

    return lines


SHAPE = ArrayShape(trials=1, parallel=1, time_min=40, cpus=3, mem_gb=0.7, gpus=0)


def test_the_script_requests_what_the_shape_says(script: Callable[..., list[str]]) -> None:
    lines = script(SHAPE)
    for option in ("cpus-per-task=3", "mem=717M", "time=40", "job-name=moleflow-x", "requeue", "signal=USR2@90"):
        assert f"#SBATCH --{option}" in lines, option  # 0.7 GB are 716.8 MiB, rounded up.
    assert "export OMP_NUM_THREADS=2" in lines
    text = "\n".join(lines)
    for absent in ("--array", "--gres", "--dependency", "--partition", "--wckey"):
        assert absent not in text
    assert "--cpus-per-task=3" in next(line for line in lines if line.startswith("srun"))
    assert "/opt/python" in next(line for line in lines if line.startswith("srun"))


def test_the_script_of_an_array_has_the_options_of_the_site(script: Callable[..., list[str]]) -> None:
    shape = ArrayShape(trials=1, parallel=1, time_min=3, cpus=1, mem_gb=4, gpus=2)
    profile = {
        "partition": "gpu",
        "gres": "gpu:a100:{gpus}",
        "parallelism": 5,
        "container": "apptainer exec image.sif",
        "setup": ["module load cuda"],
        "extra": {"nice": 100, "wckey": "paper"},
    }
    lines = script(shape, 6, ("7", "8"), **profile)
    for option in (
        "array=0-5%5",
        "gres=gpu:a100:2",
        "dependency=afterany:7:8",
        "partition=gpu",
        "nice=100",
        "wckey=paper",
        "signal=USR2@60",  # a third of three minutes
        "mem=4096M",
    ):
        assert f"#SBATCH --{option}" in lines, option
    assert "module load cuda" in lines
    assert 'apptainer exec image.sif "/opt/python"' in next(line for line in lines if line.startswith("srun"))


def test_without_gres_no_gpu_is_requested(script: Callable[..., list[str]]) -> None:
    shape = ArrayShape(trials=1, parallel=1, time_min=40, cpus=1, mem_gb=4, gpus=2)
    assert "--gres" not in "\n".join(script(shape, gres=None))


@pytest.mark.parametrize(
    ("mem", "option"),
    [("per_node", "--mem=2049M"), ("per_cpu", "--mem-per-cpu=683M"), ("per_gpu", "--mem-per-gpu=1025M")],
)
def test_memory_is_asked_for_as_the_site_wants_it(script: Callable[..., list[str]], mem: str, option: str) -> None:
    shape = ArrayShape(trials=1, parallel=1, time_min=40, cpus=3, mem_gb=2049 / 1024, gpus=2)
    lines = script(shape, mem=mem)
    assert [line for line in lines if "--mem" in line] == [f"#SBATCH {option}"]
    assert not [line for line in script(shape, mem="none") if "--mem" in line]
    assert array_shape(Resources(mem_gb=4), SiteProfile(mem="none")).mem_gb == 0


def test_memory_per_gpu_needs_a_gpu(script: Callable[..., list[str]]) -> None:
    with pytest.raises(InvalidInput, match="mem: given per_gpu in the profile, but these jobs ask for no GPU; take"):
        script(SHAPE, mem="per_gpu")


def test_submitit_submits_the_script_that_is_shown(programs: Callable[..., Path], tmp_path: Path) -> None:
    programs(srun="")
    profile = SiteProfile(partition="gpu", extra={"nice": 5}, setup=["module load cuda"])
    executor = submitit_executor(tmp_path / "a b", "moleflow-x", SHAPE, profile, 2, ["7"])
    submitted = executor._make_submission_file_text(executor._submitit_command_str, "")
    assert sbatch_script(tmp_path / "a b", "moleflow-x", SHAPE, profile, 2, ["7"]) == submitted


HOSTILE = "a b'c\"d $(touch owned) `touch owned`; touch owned & #x \\ *"


@pytest.fixture
def srun_arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """Let bash run a script, in which a stand-in for srun records its arguments; returns those."""
    record, srun = tmp_path / "arguments", tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{record}'\n")
    srun.chmod(0o755)

    def run(text: str) -> list[str]:
        (tmp_path / "script.sh").write_text(text)
        environment = {"PATH": f"{srun.parent}:/usr/bin:/bin", "HOME": "/home/me and you"}
        subprocess.run(["bash", tmp_path / "script.sh"], cwd=tmp_path, env=environment, check=True, timeout=30)
        return record.read_text().splitlines()

    return run


def test_a_path_is_one_word_of_the_script_and_no_command(
    srun_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / HOSTILE / "jobs"
    folder.mkdir(parents=True)
    arguments = srun_arguments(
        sbatch_script(folder, "moleflow-x", SHAPE, SiteProfile(python="/opt/python"), 2, tasks=2)
    )
    assert arguments[-5:] == ["/opt/python", "-u", "-m", "submitit.core._submit", str(folder)]
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("given", "started"),
    [
        (None, HOSTILE),
        ("/opt/my env/bin/python", "/opt/my env/bin/python"),
        ("$HOME/env/bin/python", "/home/me and you/env/bin/python"),
        ("~/env/bin/python", "/home/me and you/env/bin/python"),
        ('/a"b`touch owned`$(touch owned)\\c', '/a"b`touch owned`$(touch owned)\\c'),
    ],
)
def test_the_interpreter_is_one_word_whatever_its_path(
    srun_arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    started: str,
) -> None:
    monkeypatch.setattr(sys, "executable", HOSTILE)
    script = sbatch_script(tmp_path, "moleflow-x", SHAPE, SiteProfile(python=given), 2)
    assert srun_arguments(script)[-5] == started
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["a\ntouch owned", "a\rb", "a\x1b[2Jb"])
def test_a_path_of_several_lines_is_refused(tmp_path: Path, name: str) -> None:
    """Its second line would be a command of the script, even within quotes."""
    with pytest.raises(InvalidInput, match="given for an sbatch script, allowed: names without line breaks"):
        submitit_executor(tmp_path / name, "moleflow-x", SHAPE, SiteProfile(), 2)
    with pytest.raises(InvalidInput, match="another folder with --out"):
        submitit_executor(tmp_path, name, SHAPE, SiteProfile(), 2)
