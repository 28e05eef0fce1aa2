"""What follows from the findings: which backends and features work, and the lines that say so."""

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
"""What each needs, by the names of findings."""


def lacking_by_backend(findings: Sequence[Finding], needed: Sequence[str]) -> list[str]:
    """The findings among `needed` that lack something."""
    return [finding.name for finding in findings if finding.name in needed and finding.state == "lacks"]


def runs_here(findings: Sequence[Finding]) -> bool:
    """Whether sweeps can run on this machine."""
    return not lacking_by_backend(findings, BACKENDS["local"])


def doctor_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, backend and feature: ok, lacks or note, and how to mend it."""
    verdicts = [(f"--backend {name}", lacking_by_backend(findings, needed)) for name, needed in BACKENDS.items()]
    verdicts += [(name, lacking_by_backend(findings, needed)) for name, needed in FEATURES.items()]
    rows = [(f.state, f.name, f.said + (f"  [mend: {f.mend}]" if f.mend else "")) for f in findings]
    told = [("lacks" if missing else "ok", name, ", ".join(missing)) for name, missing in verdicts]
    width = max(len(name) for _, name, _ in (*rows, *told))
    lines = [
        f"{state:<5}  {name:<{width}}  {' '.join(said.split(chr(10)))}".rstrip() for state, name, said in (*rows, *told)
    ]
    return [*lines[: len(rows)], "", *lines[len(rows) :]]


def doctor_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "findings": [asdict(finding) for finding in findings],
        "backends": {name: {"lacks": lacking_by_backend(findings, needed)} for name, needed in BACKENDS.items()},
        "features": {name: {"lacks": lacking_by_backend(findings, needed)} for name, needed in FEATURES.items()},
        "runs_here": runs_here(findings),
    }
