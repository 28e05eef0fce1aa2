"""The report of the checks: the findings, and the backends and features that work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.doctor.finding import Finding

_ALWAYS = ("python", "worker", "results", "cache", "budget")
BACKENDS: Mapping[str, tuple[str, ...]] = {
    "inline": _ALWAYS,
    "local": _ALWAYS,
    "slurm": (*_ALWAYS, "slurm", "submitit"),
    "ray": (*_ALWAYS, "ray"),
}
FEATURES: Mapping[str, tuple[str, ...]] = {
    "search": ("optuna",),
    "html report": ("charts",),
}
"""The names of the findings that a backend or feature needs."""


def lacking(findings: Sequence[Finding], needed: Sequence[str]) -> list[str]:
    """Return the names of the needed findings that lack something."""
    return [finding.name for finding in findings if finding.name in needed and finding.state == "lacks"]


def runs_here(findings: Sequence[Finding]) -> bool:
    """Return True if sweeps can run on this machine."""
    return not lacking(findings, BACKENDS["local"])


def doctor_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each finding, then a line for each backend and feature."""
    rows = [(f.state, f.name, f.said + (f"  [mend: {f.mend}]" if f.mend else "")) for f in findings]
    parts = {f"--backend {name}": needed for name, needed in BACKENDS.items()} | dict(FEATURES)
    lacks = {name: lacking(findings, needed) for name, needed in parts.items()}
    verdicts = [("lacks" if missing else "ok", name, ", ".join(missing)) for name, missing in lacks.items()]
    width = max(len(name) for _, name, _ in (*rows, *verdicts))

    def line(state: str, name: str, text: str) -> str:
        return f"{state:<5}  {name:<{width}}  {text.replace(chr(10), ' ')}".rstrip()

    return [*(line(*row) for row in rows), "", *(line(*row) for row in verdicts)]


def doctor_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the report as JSON values, for other programs."""
    return {
        "findings": [asdict(finding) for finding in findings],
        "backends": {name: {"lacks": lacking(findings, needed)} for name, needed in BACKENDS.items()},
        "features": {name: {"lacks": lacking(findings, needed)} for name, needed in FEATURES.items()},
        "runs_here": runs_here(findings),
    }
