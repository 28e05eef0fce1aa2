"""What runs trials elsewhere, and what the extras bring: SLURM, Ray, Optuna, the charts of report pages."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from orchestrator.backends.slurm.queue import COMMANDS
from orchestrator.doctor.finding import Finding, install_hint, one_line, run_program
from orchestrator.host.hub import is_reachable

ASK_WITHIN_S = 10.0


def find_slurm() -> list[Finding]:
    """The commands, a controller that answers, and what submits."""
    login = 'type the command on a login node; for tests: slurm/cluster.sh up && eval "$(slurm/cluster.sh env)"'
    missing = [name for name in COMMANDS if not shutil.which(name)]
    if missing:
        said = "no SLURM here" if len(missing) == len(COMMANDS) else f"without {', '.join(missing)}"
        return [Finding("slurm", "lacks", said, login), find_package("submitit", "submitit", "")]
    accounting = "" if shutil.which("sacct") else "; no sacct: what happened to jobs of long ago is not known"
    code, out, error = run_program(["scontrol", "ping"], ASK_WITHIN_S)
    up = [line.strip() for line in out.splitlines() if " is UP" in line]
    if code != 0 or not up:
        said = f"its commands are here, and no controller answers ({one_line(error or out)})"
        return [Finding("slurm", "lacks", said, login), find_package("submitit", "submitit", "")]
    return [Finding("slurm", "ok", f"{up[0]}{accounting}"), find_package("submitit", "submitit", "")]


def find_ray() -> Finding:
    """Whether Ray is installed, and whether one runs on this machine."""
    found = find_package("ray", "ray", "ray")
    if found.state != "ok":
        return found
    address = _ray_address()
    if address is None:
        return Finding("ray", "ok", f"{found.said}; none runs here, and --backend ray starts one")
    if _answers(address):
        return Finding("ray", "ok", f"{found.said}; one runs at {address}: --address {address} joins it")
    return Finding(
        "ray",
        "note",
        f"{found.said}; {address} is named (RAY_ADDRESS, or what ran last) and does not answer",
        "ray stop",
    )


def find_package(name: str, distribution: str, extra: str) -> Finding:
    """Whether a package is installed; nothing is imported.

    Args:
        name: of the finding.
        distribution: of the package.
        extra: of this project that brings it; empty where the project itself does.

    """
    try:
        return Finding(name, "ok", metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(name, "lacks", f"{distribution} is not installed", install_hint(extra))


def _ray_address() -> str | None:
    given = os.environ.get("RAY_ADDRESS", "")
    if given and given not in ("auto", "local"):
        return given
    try:
        return (Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return is_reachable(host, int(port) if port.isdigit() else 0)
