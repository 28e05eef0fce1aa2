"""The resources that a sweep gets on a SLURM site; small programs stand for SLURM's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture
def site(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write shell scripts into the only folder of PATH: the commands of a SLURM login node."""
    folder = place / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(**scripts: str) -> Path:
        whole = {"sbatch": "exit 1", "squeue": "", "scancel": "", "srun": ""} | scripts
        for name, script in ({"scontrol": "echo MaxArraySize = 101"} | whole).items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    return write


PARTITIONS = "case $* in *=cpu*) echo 'cpu|(null)';; *=gpu*) echo 'gpu|gpu:a100:4(S:0-1)';; *) echo 'cpu*|(null)'; echo 'gpu|gpu:4';; esac"


def printed(command: Command, *words: str) -> Any:
    return command("sweep.yaml", "--backend", "slurm", "--print-sbatch", *words)


@pytest.mark.parametrize(
    ("profile", "line"),
    [
        ("{partition: gpu}", "--gres=gpu:1"),
        ("{partition: cpu}", None),
        ("{}", None),
        ("{gres: 'gpu:a:{gpus}'}", "--gres=gpu:a:1"),
    ],
)
def test_a_trial_gets_one_gpu_where_profile_or_partition_has_some(
    place: Path, site: Callable[..., Path], command: Command, profile: str, line: str | None
) -> None:
    site(sinfo=PARTITIONS)
    (place / "site.yaml").write_text(profile)
    shown = printed(command, "--profile", "site.yaml")
    assert (shown.code, shown.err) == (0, "")
    asked = [found.removeprefix("#SBATCH ") for found in shown.out.splitlines() if "--gres" in found]
    assert asked == ([] if line is None else [line])
    assert "--gres" not in printed(command, "--profile", "site.yaml", "--device", "cpu").out
    if line:
        two = printed(command, "--profile", "site.yaml", "--set", "resources.gpus=2").out
        assert line.replace(":1", ":2") in two


@pytest.mark.parametrize("more", [(), ("--detach",), ("--print-sbatch",)])
def test_a_sweep_without_gpus_on_a_partition_that_has_some_is_refused(
    place: Path, site: Callable[..., Path], features: None, command: Command, more: tuple[str, ...]
) -> None:
    site(sinfo=PARTITIONS)
    (place / "site.yaml").write_text("partition: gpu\n")
    words = ("sweep.yaml", "--backend", "slurm", "--profile", "site.yaml", "--set", "resources.gpus=0", *more)
    ended = command(*words)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "resources.gpus: given 0, but partition gpu has GPUs" in ended.err
    assert "give --set resources.gpus=1, or --device cpu" in ended.err
    assert not (place / "results").exists()


def test_without_slurm_the_script_names_what_was_assumed(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place))
    shown = printed(command)
    assert shown.code == 0
    assert shown.out.startswith("#!/bin/bash\n")
    assumed = [line for line in shown.err.splitlines() if line.startswith("assumed: ")]
    assert len(assumed) == len(shown.err.splitlines()) == 2
    assert "the default partition has no GPUs; if it has, give gres in the profile" in assumed[0]
    assert "an array has at most 1,000 tasks (max_array_size), since scontrol is not installed here" in assumed[1]
    (place / "site.yaml").write_text("{gres: 'gpu:{gpus}', max_array_size: 3}")
    told = printed(command, "--profile", "site.yaml")
    assert (told.code, told.err) == (0, "")
    assert "--gres=gpu:1" in told.out
    assert not (place / "results").exists()


def test_cores_without_a_thread_are_named(place: Path, site: Callable[..., Path], command: Command) -> None:
    site(sinfo=PARTITIONS)
    idle = "note:     resources.cpus is 4, and a trial computes on 1 thread (--threads): 3 cores of each trial will be idle\n"
    assert printed(command, "--set", "resources.cpus=4").err == idle
    assert printed(command, "--set", "resources.cpus=4", "--threads", "4").err == ""


def test_a_sinfo_that_does_not_answer_ends_the_run_in_one_line(
    place: Path, site: Callable[..., Path], features: None, command: Command
) -> None:
    site(sinfo="echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    ended = command("sweep.yaml", "--backend", "slurm")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "Unable to contact slurm controller" in ended.err
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    ("gpu_mem_gb", "nodes", "mem_gb", "sharing", "limit", "held"),
    [
        (80, "gpu:2|64000", 4, 7, "the node's memory", "31.2 GB for each GPU, holds 7 trials of 4 GB"),
        (80, "gpu:a100:4(S:0-1)|64000", 16, 1, "the node's memory", "15.6 GB for each GPU, holds 0 trials of 16 GB"),
        (3, "gpu:2|64000", 4, 4, "the GPU's memory", "31.2 GB for each GPU, holds 7 trials of 4 GB"),
        (80, "gpu:2|640000", 4, 8, "the maximum of 8", "312.5 GB for each GPU, holds 78 trials of 4 GB"),
    ],
)
def test_trials_of_a_gpu_fit_its_memory_and_that_of_its_node(
    place: Path,
    site: Callable[..., Path],
    command: Command,
    gpu_mem_gb: float,
    nodes: str,
    mem_gb: float,
    sharing: int,
    limit: str,
    held: str,
) -> None:
    site(sinfo=f"echo 'gpu|{nodes}'")
    profile = f"{{partition: gpu, gres: 'gpu:{{gpus}}', trials_per_gpu: auto, gpu_mem_gb: {gpu_mem_gb}}}"
    (place / "site.yaml").write_text(profile)
    shown = printed(command, "--profile", "site.yaml", "--set", f"resources.mem_gb={mem_gb}")
    assert shown.code == 0
    (note,) = [line for line in shown.err.splitlines() if line.startswith("note:")]
    assert f"trials_per_gpu: auto is {sharing}, limited by {limit}: " in note
    assert note.endswith(f"a node's main memory, {held} (resources.mem_gb)")
    assert f"#SBATCH --mem={sharing * mem_gb * 1024}M\n" in shown.out


def test_nodes_that_tell_no_memory_of_gpus_are_assumed_to_have_enough(
    place: Path, site: Callable[..., Path], command: Command
) -> None:
    site(sinfo="echo 'gpu|gpu:a100:4|64000'")
    (place / "site.yaml").write_text("{partition: gpu, gres: 'gpu:h100:{gpus}', trials_per_gpu: auto, gpu_mem_gb: 80}")
    shown = printed(command, "--profile", "site.yaml")
    assert "assumed:  the main memory of a node is enough for trials_per_gpu: auto; sinfo does not tell it" in shown.err
    assert "trials_per_gpu: auto is 8, limited by the maximum of 8: " in shown.err
