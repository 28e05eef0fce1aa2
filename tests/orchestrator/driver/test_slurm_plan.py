"""The jobs of a sweep in advance, from a step timed here and from finished trials; no cluster."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.trial_cost import CUDA_BYTES, MARGIN, MOST_ON_A_GPU, START_MIN, TrialCost

Command = Callable[..., Any]
PLAN = ("plan", "sweep.yaml", "--backend", "slurm", "--profile", "site.yaml")


def test_a_time_limit_has_a_margin_and_trials_on_one_gpu_take_turns() -> None:
    cost = TrialCost(0.0, 600.0, "", 0)
    assert (MARGIN, START_MIN) == (1.5, 10)
    assert (cost.limit_min(1), cost.limit_min(4)) == (25, 70)


@pytest.mark.parametrize(("gpu_mem_gb", "fit"), [(80, 45), (2, 1), (1, 0)])
def test_trials_fill_nine_tenths_of_a_gpu(gpu_mem_gb: float, fit: int) -> None:
    assert TrialCost(0.0, 0.0, "", 1_000_000_000 - CUDA_BYTES + 600_000_000).fitting(gpu_mem_gb) == fit


@pytest.fixture
def nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without SLURM."""
    monkeypatch.setenv("PATH", str(place))


@pytest.mark.usefixtures("nowhere")
def test_jobs_are_told_before_anything_ran_and_the_step_is_timed_once(place: Path, command: Command) -> None:
    (place / "site.yaml").write_text("{gres: 'gpu:{gpus}', max_array_size: 2, trials_per_job: 3, parallelism: 2}")
    shown = command(*PLAN)
    assert (shown.code, shown.err) == (0, "timing a training step of model 1 of 1\n")
    lines = dict(line.split(":", 1) for line in shown.out.splitlines() if re.match(r"[a-zA-Z]+: ", line))
    assert lines["jobs"].strip() == "2 jobs in 1 array: 3 trials each; at most 2 jobs of an array at once"
    assert re.match(
        r" +1 GPU a job; about (\d+ (h|min|s) ?)+ of GPU time, as a step and an image take on this CPU", lines["GPUs"]
    )
    assert "limit 720 min a job for 3 trials one after another; the slowest trial takes about" in lines["walltime"]
    assert re.search(
        r"4 GB a job \(per_node\); a trial takes about 0.6 GB of a GPU, 0.6 of them for CUDA; gpu_mem_gb",
        lines["memory"],
    )
    again = command(*PLAN, "--json")
    assert again.err == ""
    told = json.loads(again.out)["slurm"]
    assert (told["jobs"], told["arrays"], told["assumed"]) == (2, 1, [])
    assert told["job"] == {"trials": 3, "parallel": 1, "time_min": 720, "cpus": 1, "mem_gb": 4, "gpus": 1}
    assert told["gpu_hours"] == pytest.approx(told["cost"]["total_s"] / 3600)
    assert not (place / "results").exists()


@pytest.mark.usefixtures("nowhere")
def test_finished_trials_tell_the_seconds_of_those_on_the_same_device(
    finished: Path, edit: Any, command: Command
) -> None:
    edit(seeds=3)
    (finished / "site.yaml").write_text("{gres: null, max_array_size: 9}")
    shown = json.loads(command(*PLAN, "--json").out)["slurm"]
    assert shown["cost"]["source"].startswith("as 4 finished trials took on ")
    assert shown["jobs"] == 2
    assert 0 < shown["cost"]["slowest_s"] < 60
    # Jobs with a GPU are not told by trials on a CPU.
    (finished / "site.yaml").write_text("{gres: 'gpu:{gpus}', max_array_size: 9}")
    assert "on this CPU" in json.loads(command(*PLAN, "--json").out)["slurm"]["cost"]["source"]


@pytest.mark.usefixtures("nowhere")
def test_auto_follows_from_the_cost_and_says_how(place: Path, command: Command) -> None:
    (place / "site.yaml").write_text("{gres: 'gpu:{gpus}', max_array_size: 9, trials_per_gpu: auto, gpu_mem_gb: 24}")
    words = (*PLAN, "--set", "resources.time_min=auto", "--json")
    told = json.loads(command(*words).out)["slurm"]
    assert told["job"]["parallel"] == MOST_ON_A_GPU
    slowest = told["cost"]["slowest_s"]
    assert told["job"]["time_min"] == math.ceil(MARGIN * slowest * MOST_ON_A_GPU / 60) + START_MIN
    sharing, limit = told["notes"]
    assert sharing.startswith(
        "trials_per_gpu: auto is 8, limited by the maximum of 8: a trial takes about 0.6 GB of a GPU, 0.6 of them for CUDA; "
    )
    assert told["assumed"] == ["the main memory of a node is enough for trials_per_gpu: auto; sinfo does not tell it"]
    assert limit.startswith(
        f"time_min: auto is {told['job']['time_min']}: 1.5 x {slowest / 60:.1f} min of the slowest trial"
    )
    script = command("sweep.yaml", *PLAN[2:], "--print-sbatch", "--set", "resources.time_min=auto")
    assert f"#SBATCH --time={told['job']['time_min']}\n" in script.out


@pytest.mark.usefixtures("nowhere")
def test_auto_needs_the_memory_of_a_gpu(place: Path, command: Command) -> None:
    (place / "site.yaml").write_text("{gres: 'gpu:{gpus}', max_array_size: 9}")
    ended = command(*PLAN, "--set", "resources.trials_per_gpu=auto")
    assert ended.code == 2
    assert "trials_per_gpu: given auto, which needs the memory of one GPU; give gpu_mem_gb in the profile" in ended.err
    (place / "site.yaml").write_text("{gres: null, max_array_size: 9, trials_per_gpu: auto}")
    assert "1 trial each" in command(*PLAN).out


@pytest.mark.usefixtures("nowhere")
def test_the_figures_of_a_search_are_those_of_its_base(place: Path, edit: Any, command: Command) -> None:
    search = {"space": {"focal_gamma": {"uniform": [0, 2]}}, "trials": 4}
    base = {"extends": "base.yaml", "validation_fraction": 0.25, "validation_anomalies": "synthetic"}
    edit(grid=None, report=None, base=base, search=search)
    (place / "site.yaml").write_text("{gres: 'gpu:{gpus}', max_array_size: 2}")
    told = json.loads(command(*PLAN, "--json").out)["slurm"]
    assert (told["jobs"], told["arrays"], told["job"]["gpus"]) == (None, 0, 1)
    assert told["cost"]["total_s"] > 0
    assert "a search submits trials as it suggests them; the figures are" in command(*PLAN).out


@pytest.mark.usefixtures("nowhere")
def test_a_profile_in_a_plan_needs_slurm(place: Path, command: Command) -> None:
    (place / "site.yaml").write_text("{}")
    ended = command("plan", "sweep.yaml", "--profile", "site.yaml")
    assert ended.code == 2
    assert "--profile: needs --backend slurm" in ended.err
