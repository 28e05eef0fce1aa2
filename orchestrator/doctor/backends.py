"""Checks of SLURM, of Ray and of the packages that backends and features need."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from orchestrator.backends.slurm.queue import COMMANDS
from orchestrator.doctor.finding import Finding, one_line, run_program
from orchestrator.host.command_line import install_command
from orchestrator.host.hub import is_reachable

ANSWER_WITHIN_S = 10.0


def find_slurm() -> list[Finding]:
    """Check SLURM's commands, its controller, and the package that submits jobs."""
    return [_slurm(), find_package("submitit", "submitit")]


def _slurm() -> Finding:
    login = 'type the command on a login node; for tests: slurm/cluster.sh up && eval "$(slurm/cluster.sh env)"'
    missing = [name for name in COMMANDS if not shutil.which(name)]
    if missing:
        text = "no SLURM here" if len(missing) == len(COMMANDS) else f"without {', '.join(missing)}"
        return Finding("slurm", "lacks", text, login)
    code, out, error = run_program(["scontrol", "ping"], ANSWER_WITHIN_S)
    up = [line.strip() for line in out.splitlines() if " is UP" in line]
    if code != 0 or not up:
        text = f"its commands are here, and no controller answers ({one_line(error or out)})"
        return Finding("slurm", "lacks", text, login)
    accounting = "" if shutil.which("sacct") else "; no sacct: the end of old jobs cannot be looked up"
    return Finding("slurm", "ok", f"{up[0]}{accounting}")


def find_ray() -> Finding:
    """Check that Ray is installed, and look for a running Ray."""
    package = find_package("ray", "ray", "ray")
    if package.state != "ok":
        return package
    address = _ray_address()
    if address is None:
        return Finding("ray", "ok", f"{package.said}; none runs here, and --backend ray starts one")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if is_reachable(host, int(port) if port.isdigit() else 0):
        return Finding("ray", "ok", f"{package.said}; one runs at {address}: --address {address} joins it")
    text = f"{package.said}; {address} (RAY_ADDRESS, or the last Ray here) does not answer"
    return Finding("ray", "note", text, "ray stop")


def find_package(name: str, distribution: str, extra: str = "") -> Finding:
    """Check that a package is installed, without importing it.

    Args:
        name: the name of the finding.
        distribution: the name of the package.
        extra: the extra of this project that installs it, if it is optional.

    """
    try:
        return Finding(name, "ok", metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(name, "lacks", f"{distribution} is not installed", install_command(extra))


def _ray_address() -> str | None:
    """Return the address of RAY_ADDRESS, else of the Ray that was started last on this machine."""
    given = os.environ.get("RAY_ADDRESS", "")
    if given and given not in ("auto", "local"):
        return given
    try:
        return (Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None
