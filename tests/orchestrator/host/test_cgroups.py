"""Limits of control groups, over written-out trees of v1, v2 and both, and in a real group."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.host.cgroups import cpu_limit, free_memory, memory_limit

GB = 1_000_000_000
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_UNLIMITED = "9223372036854771712"

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write the files of a system: its mounts, this process's groups, and files by path."""

    def write(mounts: str, groups: str, files: dict[str, str]) -> Path:
        content = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups}
        for name, text in (content | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if text.endswith("\n") else f"{text}\n")
        return tmp_path

    return write


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 0.5), ("250000 100000", 2.5), ("max 100000", None)])
def test_the_quota_of_v2_is_a_share_of_its_period(tree: Tree, quota: str, cores: float | None) -> None:
    assert cpu_limit(tree(V2, "0::/job\n", {"job/cpu.max": quota})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("50000", 0.5), ("250000", 2.5), ("-1", None)])
def test_the_quota_of_v1_is_a_share_of_its_period(tree: Tree, quota: str, cores: float | None) -> None:
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": quota, "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}
    assert cpu_limit(tree(V1, "5:cpu,cpuacct:/job\n4:memory:/\n", files)) == cores


def test_the_smallest_quota_of_all_ancestors_holds(tree: Tree) -> None:
    files = {
        "job/step/task/cpu.max": "max 100000",
        "job/step/cpu.max": "400000 100000",
        "job/cpu.max": "150000 50000",
        "other/cpu.max": "10000 100000",
    }
    assert cpu_limit(tree(V2, "0::/job/step/task\n", files)) == 3
    files |= {"job/step/task/cpu.max": "100000 100000"}
    assert cpu_limit(tree(V2, "0::/job/step/task\n", files)) == 1


def test_memory_of_v2_is_limited_by_any_ancestor(tree: Tree) -> None:
    files = {"job/step/memory.max": "max", "job/memory.max": f"{8 * GB}", "memory.stat": "anon 0"}
    assert memory_limit(tree(V2, "0::/job/step\n", files)) == 8 * GB
    assert memory_limit(tree(V2, "0::/job/step\n", files | {"job/step/memory.max": f"{2 * GB}"})) == 2 * GB
    assert memory_limit(tree(V2, "0::/elsewhere\n", {})) is None


def test_memory_of_v1_is_limited_by_any_ancestor(tree: Tree) -> None:
    groups = "5:cpu,cpuacct:/\n4:memory:/slurm/job_7/step_0\n1:name=systemd:/user.slice\n0::/\n"
    files = {
        "memory/memory.limit_in_bytes": V1_UNLIMITED,
        "memory/slurm/memory.limit_in_bytes": V1_UNLIMITED,
        "memory/slurm/job_7/memory.limit_in_bytes": f"{3 * GB}",
        "memory/slurm/job_7/step_0/memory.limit_in_bytes": f"{5 * GB}",
    }
    assert memory_limit(tree(V1, groups, files)) == 3 * GB


def test_a_container_without_a_namespace_has_its_own_group_at_the_top(tree: Tree) -> None:
    """Docker on v1: the path is the host's, but only the container's own group is mounted."""
    mounts = V1.replace("0:32 /", "0:32 /docker/abc").replace("0:29 /", "0:29 /docker/abc")
    files = {
        "memory/memory.limit_in_bytes": f"{4 * GB}",
        "memory/inner/memory.limit_in_bytes": f"{1 * GB}",
        "cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    outer = tree(mounts, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n", files)
    assert (memory_limit(outer), cpu_limit(outer)) == (4 * GB, 2)
    inner = tree(mounts, "5:cpu,cpuacct:/docker/abc/inner\n4:memory:/docker/abc/inner\n", files)
    assert (memory_limit(inner), cpu_limit(inner)) == (1 * GB, 2)


def test_a_path_outside_the_mount_counts_the_top_of_the_mount(tree: Tree) -> None:
    mounts = V2.replace("0:26 /", "0:26 /pod/container")
    assert memory_limit(tree(mounts, "0::/another\n", {"memory.max": f"{6 * GB}"})) == 6 * GB


def test_free_memory_is_what_the_fullest_group_has_left(tree: Tree) -> None:
    """File pages that the kernel can drop do not count as used."""
    files = {
        "job/memory.max": f"{8 * GB}",
        "job/memory.current": f"{7 * GB}",
        "job/memory.stat": f"anon {6 * GB}\ninactive_file {1 * GB}",
        "job/step/memory.max": f"{4 * GB}",
        "job/step/memory.current": f"{1 * GB}",
        "job/step/memory.stat": f"anon {1 * GB}\ninactive_file 0",
    }
    assert free_memory(tree(V2, "0::/job/step\n", files)) == 2 * GB
    assert free_memory(tree(V2, "0::/other\n", files)) is None


def test_a_group_above_its_limit_has_nothing_left(tree: Tree) -> None:
    """A limit that was lowered lies below the use until the kernel has made room."""
    files = {"memory.max": f"{4 * GB}", "memory.current": f"{6 * GB}", "memory.stat": f"inactive_file {1 * GB}"}
    assert free_memory(tree(V2, "0::/\n", files)) == 0


def test_free_memory_of_v1_counts_the_groups_below(tree: Tree) -> None:
    files = {
        "memory/memory.limit_in_bytes": f"{4 * GB}",
        "memory/memory.usage_in_bytes": f"{3 * GB}",
        "memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GB}",
    }
    assert free_memory(tree(V1, "4:memory:/\n", files)) == 3 * GB


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert (cpu_limit(tmp_path), memory_limit(tmp_path), free_memory(tmp_path)) == (None, None, None)


ASK = "from orchestrator.host.hardware import *; print(available_cores(), memory_gb(), free_memory_gb())"


@pytest.fixture
def real_group() -> Iterator[Callable[[dict[str, str]], Path]]:
    """Make groups on this machine, in which limits are set by writing files, such as cpu.max."""
    top = Path("/sys/fs/cgroup")
    made: list[Path] = []

    def make(limits: dict[str, str]) -> Path:
        name = f"moleflow-test-{uuid.uuid4().hex}"
        v2 = (top / "cgroup.controllers").exists()
        for file, value in limits.items():
            group = (top if v2 else top / file.partition(".")[0]) / name
            try:
                if group not in made:
                    group.mkdir()
                    made.append(group)
                (group / file).write_text(value)
                (group / "inner").mkdir(exist_ok=True)
                made.append(group / "inner")
            except OSError as error:
                pytest.skip(f"no control group can be made here, which takes root: {error}")
        return Path(name) / "inner"

    yield make
    for group in sorted(set(made), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()


def test_a_process_in_a_real_group_has_the_limits_of_the_group_above(
    real_group: Callable[[dict[str, str]], Path],
) -> None:
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        limits = {"cpu.max": "50000 100000", "memory.max": f"{GB // 4096 * 4096}"}
    elif (top / "memory/memory.limit_in_bytes").exists():
        limits = {"cpu.cfs_quota_us": "50000", "memory.limit_in_bytes": f"{GB // 4096 * 4096}"}
    else:
        pytest.skip("no control groups are mounted at /sys/fs/cgroup")
    inner = real_group(limits)
    places = [place for place in (top / inner, top / "cpu" / inner, top / "memory" / inner) if place.exists()]

    def join() -> None:
        for place in places:
            (place / "cgroup.procs").write_text(str(os.getpid()))

    asked = subprocess.run([sys.executable, "-c", ASK], preexec_fn=join, capture_output=True, text=True, check=True)
    cores, memory, free = map(float, asked.stdout.split())
    assert cores == 1
    assert memory == pytest.approx(1.0, abs=1e-5)
    assert 0.5 < free < 1.0
