"""Limits of the container or batch job of this process, from Linux control groups (v1 and v2).

A limit may be set on any ancestor of the process's own group, as SLURM and Kubernetes do. So every
group on the path counts, and the smallest limit holds. Joblib's `cpu_count` reads the topmost
group only, and psutil reads none.

Formats: cgroups(7), proc_pid_mountinfo(5), and the kernel's admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")


def cpu_limit(system: Path = SYSTEM) -> float | None:
    """The CPU quota in cores, such as 0.5; None without one.

    Args:
        system: the root of the file system.

    """
    limits = []
    for group in _groups("cpu", system):
        v1 = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
        quota, _, period = (_read(group / "cpu.max") or v1).partition(" ")
        if quota.isdecimal() and period.isdecimal():  # Without a quota v2 says "max", and v1 -1.
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(system: Path = SYSTEM) -> int | None:
    """The memory limit in bytes; None without one. Without a limit v1 may give an immense one.

    Args:
        system: the root of the file system.

    """
    return min((limit for _, limit in _memory_groups(system)), default=None)


def free_memory(system: Path = SYSTEM) -> int | None:
    """The bytes left below the memory limit; None without one.

    File pages that the kernel can drop count as free.

    Args:
        system: the root of the file system.

    """
    left = []
    for group, limit in _memory_groups(system):
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        pages = dict(line.split() for line in _read(group / "memory.stat").splitlines())
        # In v1 the plain name leaves out the groups below.
        droppable = pages.get("total_inactive_file") or pages.get("inactive_file", "0")
        left.append(max(0, limit - int(used or 0) + int(droppable)))
    return min(left, default=None)


def _memory_groups(system: Path) -> Iterator[tuple[Path, int]]:
    """Yield the groups that limit memory, and their limits in bytes."""
    for group in _groups("memory", system):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if limit.isdecimal():  # Not "max", and not the missing file of the topmost group.
            yield group, int(limit)


def _groups(controller: str, system: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups of a controller: its own and all ancestors."""
    mounts = [line.split(" - ") for line in _read(system / "proc/self/mountinfo").splitlines()]
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for place, file_system in mounts:
            top, folder = place.split()[3:5]
            kind, *_, options = file_system.split()
            version_1 = bool(controllers) and kind == "cgroup" and controller in options.split(",")
            version_2 = not controllers and kind == "cgroup2"
            if version_1 or version_2:
                # A container may see its own group as the top of the mount, under the host's path.
                inside = PurePosixPath(path)
                inside = inside.relative_to(top) if inside.is_relative_to(top) else PurePosixPath()
                for group in (inside, *inside.parents):
                    yield system / folder.lstrip("/") / group


def _read(path: Path) -> str:
    """The text of a file; empty if it cannot be read, as outside Linux."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
