"""Checks of this machine: Python and its packages, GPUs, cores and memory."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import pynvml

from moleflow.features.weights import PRETRAINED
from orchestrator.doctor.finding import Finding, one_line, run_program
from orchestrator.host.command_line import install_command
from orchestrator.host.hardware import available_cores, free_memory_gb, memory_gb
from orchestrator.sweep.file_schema import Resources

IMPORT_WITHIN_S = 120.0
SLOW_BFLOAT16 = "AVX2"
"""A CPU capability of torch: with it a bfloat16 step took ten times as long as a float32 step."""

# Its own process: an import that crashes or hangs must not stop the other checks.
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
    from orchestrator.host.hub import cached_weights
    record = timm.get_pretrained_cfg(model) if timm.is_model(model.partition(".")[0]) else None
    found["known"] = record is not None
    found["hub"] = place = getattr(record, "hf_hub_id", None)
    found["cached"] = bool(place) and cached_weights(place) is not None
print(json.dumps(found))
"""


def find_python() -> Finding:
    """Name the interpreter."""
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def find_imports(model: str, weights: str) -> tuple[list[Finding], dict[str, Any]]:
    """Import all that a worker imports, in a process of its own.

    Args:
        model: timm's name of a backbone.
        weights: its backbone.weights; timm is asked about the model if they are pretrained.

    Returns:
        The findings, and {torch, cuda, gpus, cpu} with {known, hub, cached} of pretrained weights.
        The dictionary is empty if an import failed.

    """
    code, out, error = run_program(
        [sys.executable, "-W", "ignore", "-c", _IMPORTS, model if weights == PRETRAINED else ""], IMPORT_WITHIN_S
    )
    try:
        found: dict[str, Any] = json.loads(out.splitlines()[-1]) if code == 0 else {}
    except (ValueError, IndexError):
        code, found = 1, {}
    if code is None:
        said = f"its imports were not finished: {one_line(error)}"
        return [Finding("worker", "lacks", said, "ask again when the machine and its disk are less busy")], found
    if code != 0:
        return [Finding("worker", "lacks", f"cannot be imported: {one_line(error or out)}", install_command())], found
    build = f"CUDA {found['cuda']}" if found["cuda"] else "no CUDA"
    slow = (
        ": training.products: bfloat16 takes longer than float32 on this CPU" if found["cpu"] == SLOW_BFLOAT16 else ""
    )
    return [
        Finding("torch", "ok", f"{found['torch']} ({build}; {found['cpu']}{slow})"),
        Finding("worker", "ok", "torch, timm and all else that a worker needs can be imported"),
    ], found


def find_gpus(visible_to_torch: int | None) -> Finding:
    """Compare the GPUs that the driver reports with those that torch sees.

    Args:
        visible_to_torch: the number of GPUs that torch sees; None if torch cannot be imported.

    """
    try:
        cards = _gpus_of_driver()
        why = ""
    except pynvml.NVMLError as error:
        cards = []
        # Without NVIDIA's driver there is no NVML either, which is no problem on a CPU machine.
        why = "" if isinstance(error, pynvml.NVMLError_LibraryNotFound) else f" (NVIDIA driver: {error})"
    if not cards:
        return Finding("gpus", "note", f"none{why}: trials run on the CPU")
    text = f"{len(cards)}: {'; '.join(dict.fromkeys(cards))}"
    if visible_to_torch == 0:
        hint = "pip install --force-reinstall torch   (a build for your driver's CUDA; see also CUDA_VISIBLE_DEVICES)"
        return Finding("gpus", "note", f"{text}; torch sees none of them", hint)
    if visible_to_torch not in (None, len(cards)):
        text += f"; {visible_to_torch} of them visible to torch (CUDA_VISIBLE_DEVICES)"
    return Finding("gpus", "ok", text)


def _gpus_of_driver() -> list[str]:
    """Return name and memory of each GPU.

    Raises:
        NVMLError: no driver, or it does not answer.

    """
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            f"{pynvml.nvmlDeviceGetName(one)}, {pynvml.nvmlDeviceGetMemoryInfo(one).total // 2**20} MiB"
            for one in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def find_size() -> Finding:
    """Report cores, memory and the number of trials that fit without GPUs."""
    needs, cores, memory = Resources(), available_cores(), memory_gb()
    at_once = max(1, int(min(cores // needs.cpus, memory // needs.mem_gb)))
    free = free_memory_gb()
    text = f"{cores} cores, {memory:.1f} GB of memory, {free:.1f} GB of it free: "
    text += f"{at_once} trial{'' if at_once == 1 else 's'} at once without GPUs, where each takes {needs.mem_gb:g} GB"
    if free < needs.mem_gb:
        return Finding("machine", "note", text, "--workers 1, or resources: {mem_gb: N} in the sweep file")
    return Finding("machine", "ok", text)
