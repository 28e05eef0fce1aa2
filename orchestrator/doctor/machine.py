"""This machine: Python and its packages, GPUs, cores and memory."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

from moleflow.features.weights import PRETRAINED
from orchestrator.doctor.finding import Finding, install_hint, one_line, run_program
from orchestrator.host.hardware import available_cores, memory_gb
from orchestrator.sweep.file_schema import Resources

IMPORT_WITHIN_S = 120.0
GPUS_WITHIN_S = 15.0
SLOW_BFLOAT16 = "AVX2"
"""The instructions, as torch names them, with which a step in bfloat16 was seen to take ten times as long as one in float32."""

# Run apart: an import that crashes or hangs takes nothing else with it.
_IMPORTS = """
import json, sys
import torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
found["cpu"] = torch.backends.cpu.get_cpu_capability()
import orchestrator.execution.worker
from moleflow.features.timm_import import import_timm
timm = import_timm()
model = sys.argv[1]
if model:
    from huggingface_hub import try_to_load_from_cache
    record = timm.get_pretrained_cfg(model) if timm.is_model(model.partition(".")[0]) else None
    found["known"] = record is not None
    place = getattr(record, "hf_hub_id", None)
    found["hub"] = place
    names = ("model.safetensors", "pytorch_model.bin")
    found["cached"] = bool(place) and any(isinstance(try_to_load_from_cache(place, name), str) for name in names)
print(json.dumps(found))
"""


def find_python() -> Finding:
    """The interpreter."""
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def find_imports(model: str, weights: str) -> tuple[list[Finding], dict[str, Any]]:
    """Whether a worker could start: torch, timm and all else that it imports; and what timm knows of a backbone's weights."""
    code, out, error = run_program(
        [sys.executable, "-W", "ignore", "-c", _IMPORTS, model if weights == PRETRAINED else ""], IMPORT_WITHIN_S
    )
    try:
        found: dict[str, Any] = json.loads(out.splitlines()[-1]) if code == 0 else {}
    except (ValueError, IndexError):
        code, found = 1, {}
    if code != 0:
        return [Finding("worker", "lacks", f"cannot be imported: {one_line(error or out)}", install_hint())], found
    build = f"CUDA {found['cuda']}" if found["cuda"] else "no CUDA"
    return [
        Finding("torch", "ok", f"{found['torch']} ({build}; {found['cpu']}{_slow(found['cpu'])})"),
        Finding("worker", "ok", "torch, timm and all else that a worker needs can be imported"),
    ], found


def _slow(cpu: str) -> str:
    return "" if cpu != SLOW_BFLOAT16 else ": training.products: bfloat16 takes longer than float32 on this CPU"


def find_gpus(torch_sees: int | None) -> Finding:
    """The GPUs that nvidia-smi knows, and whether this torch sees any.

    Args:
        torch_sees: how many torch sees; None where it could not be asked.

    """
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    code, out, error = run_program(query, GPUS_WITHIN_S)
    cards = [line.strip() for line in out.splitlines() if line.strip()] if code == 0 else []
    if not cards:
        why = "" if code is None and "within" not in error else f" (nvidia-smi: {one_line(error or out)})"
        return Finding("gpus", "note", f"none{why}: trials run on the CPU")
    said = f"{len(cards)}: {'; '.join(dict.fromkeys(cards))}"
    if torch_sees is None or torch_sees:
        seen = (
            ""
            if torch_sees in (None, len(cards))
            else f"; {torch_sees} of them visible to torch (CUDA_VISIBLE_DEVICES)"
        )
        return Finding("gpus", "ok", said + seen)
    mend = "pip install --force-reinstall torch   (a build for your driver's CUDA; see also CUDA_VISIBLE_DEVICES)"
    return Finding("gpus", "note", f"{said}; torch sees none of them", mend)


def find_size() -> Finding:
    """Cores and memory, and how many trials at once that makes."""
    needs, cores, memory = Resources(), available_cores(), memory_gb()
    at_once = max(1, int(min(cores // needs.cpus, memory // needs.mem_gb)))
    free = _free_gb()
    said = f"{cores} cores, {memory:.1f} GB of memory" + ("" if free is None else f", {free:.1f} GB of it free")
    said += f": {at_once} trial{'' if at_once == 1 else 's'} at once without GPUs, where each takes {needs.mem_gb:g} GB"
    if free is not None and free < needs.mem_gb:
        return Finding("machine", "note", said, "--workers 1, or resources: {mem_gb: N} in the sweep file")
    return Finding("machine", "ok", said)


def _free_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
