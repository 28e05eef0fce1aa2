"""The command doctor, and the backends that its findings allow."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pynvml
import pytest
import torch

from moleflow.cache.eviction import set_budget
from orchestrator.doctor import folders, machine
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.report import BACKENDS, FEATURES, doctor_document, doctor_lines, runs_here
from orchestrator.doctor.run_checks import run_checks

NAMES = [
    "python",
    "torch",
    "worker",
    "gpus",
    "machine",
    "slurm",
    "submitit",
    "ray",
    "optuna",
    "charts",
    "images",
    "weights",
]
NAMES += ["results", "cache", "budget", "code"]


@pytest.fixture
def apart(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)


def files(place):
    return {path for path in place.rglob("*") if "images" not in path.parts}


@pytest.mark.process
def test_all_checks_on_this_machine(place, command, apart):
    before = files(place)
    ended = command("doctor", "--data", "images", "--base", "base.yaml", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    found = {finding["name"]: finding for finding in told["findings"]}
    assert list(found) == NAMES
    assert told["runs_here"]
    assert told["backends"]["local"] == {"lacks": []}
    assert ("bfloat16 takes longer" in found["torch"]["said"]) == (torch.backends.cpu.get_cpu_capability() == "AVX2")
    assert found["images"]["said"].startswith("images: 2 classes (bolt, cloth), 24 training and 16 test images")
    assert found["weights"]["said"] == "base base.yaml: efficientnet_lite0, random weights"
    assert {finding["state"] for finding in told["findings"]} <= {"ok", "lacks", "note"}
    assert all(finding["mend"] for finding in told["findings"] if finding["state"] == "lacks")
    assert files(place) == before


def test_each_check_gets_its_own_folder(place, monkeypatch, apart):
    """Importing torch takes seconds, so a stand-in tells that torch sees no GPU."""
    worker = Finding("worker", "ok", "there")
    monkeypatch.setattr(machine, "find_imports", lambda model, weights: ([worker], {"gpus": 0}))
    monkeypatch.setattr(machine, "pynvml", DriverApi(("X", 2**30)))
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("MOLEFLOW_DATA", "~/images")
    monkeypatch.delenv("MOLEFLOW_CACHE_BUDGET", raising=False)
    monkeypatch.chdir(place)
    cache = place / "own"
    cache.mkdir()
    set_budget(cache, 5 * 10**9)
    found = {one.name: one for one in run_checks(None, None, "base.yaml", place / "base.yaml", cache)}
    assert found["gpus"].said == "1: X, 1024 MiB; torch sees none of them"
    assert found["images"].said.startswith(f"{place}/images: 2 classes (bolt, cloth)")
    assert "not looked at: 40 images of bolt, cloth (" in found["images"].said
    assert (found["results"].state, found["cache"].state) == ("lacks", "ok")
    assert found["cache"].said.startswith(f"{cache}: ")
    assert found["budget"].said == "5.0 GB"


def test_without_what_a_worker_needs_the_exit_code_is_1(place, command, apart, monkeypatch):
    (place / "torch.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(place))
    ended = command("doctor", "--base", "base.yaml", "--out", "base.yaml")
    assert (ended.code, ended.err) == (1, "")
    lines = {line[7:].split("  ")[0]: line for line in ended.out.splitlines()}
    assert lines["worker"].startswith("lacks  worker")
    assert "ImportError: broken on purpose  [mend: " in lines["worker"]
    assert "pip install" in lines["worker"]
    assert "is a file  [mend: --out FOLDER]" in lines["results"]
    assert lines["--backend local"].split() == ["lacks", "--backend", "local", "worker,", "results"]
    as_json = command("doctor", "--base", "base.yaml", "--out", "base.yaml", "--json")
    assert (as_json.code, json.loads(as_json.out)["runs_here"]) == (1, False)


def test_an_import_that_hangs_is_not_waited_for(place, monkeypatch):
    (place / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setattr(machine, "IMPORT_WITHIN_S", 0.5)
    ((found,), known) = machine.find_imports("", "random")
    assert (found.state, known) == ("lacks", {})
    assert found.said == "its imports were not finished: no answer within 0.5 s"
    assert "pip" not in found.mend


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere"], "--data: nowhere is no folder"),
        (["--base", "vit_b61"], "Did you mean 'vit_b16'?"),
        (["--weights", "pretraind"], "Did you mean 'pretrained'?"),
        (["--cache", "base.yaml"], "--cache: base.yaml is a file"),
    ],
)
def test_what_is_typed_wrong_is_one_line(place, command, words, said):
    ended = command("doctor", *words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert said in ended.err


def test_what_follows_from_findings():
    whole = [Finding(name, "ok", "there") for name in NAMES]
    assert runs_here(whole)
    without = [Finding(f.name, "lacks", "gone", "do this") if f.name in ("ray", "optuna") else f for f in whole]
    assert runs_here(without)
    told = doctor_document(without)
    assert {name for name, of in told["backends"].items() if of["lacks"]} == {"ray"}
    assert told["features"] == {"search": {"lacks": ["optuna"]}, "html report": {"lacks": []}}
    lines = [line.split() for line in doctor_lines(without)]
    assert ["lacks", "ray", "gone", "[mend:", "do", "this]"] in lines
    assert ["lacks", "search", "optuna"] in lines
    assert f"ok     {'code':<16}  a b" in doctor_lines([Finding("code", "ok", "a\nb")])
    for name, stopped in (
        ("worker", {"inline", "local", "slurm", "ray"}),
        ("budget", {"inline", "local", "slurm", "ray"}),
        ("slurm", {"slurm"}),
        ("submitit", {"slurm"}),
        ("gpus", set()),
    ):
        one = [Finding(name, "lacks", "no")]
        assert {backend for backend, of in doctor_document(one)["backends"].items() if of["lacks"]} == stopped
        assert runs_here(one) == ("local" not in stopped)
    assert {name for of in (BACKENDS, FEATURES) for needed in of.values() for name in needed} <= set(NAMES)


def test_places(tmp_path, monkeypatch):
    assert folders.free_space("results", tmp_path / "a/b/c", "--out").state == "ok"
    monkeypatch.setattr(folders, "LITTLE_GB", 1e9)
    assert "which is little" in folders.free_space("results", tmp_path, "--out").said
    monkeypatch.setenv("MOLEFLOW_CACHE_BUDGET", "50GB")
    assert folders.cache_budget(tmp_path).said == "50.0 GB (MOLEFLOW_CACHE_BUDGET)"
    monkeypatch.setenv("MOLEFLOW_CACHE_BUDGET", "much")
    assert folders.cache_budget(tmp_path).state == "lacks"
    monkeypatch.delenv("MOLEFLOW_CACHE_BUDGET")
    assert (folders.cache_budget(tmp_path).state, folders.cache_budget(tmp_path).said[:5]) == ("note", "none:")


@pytest.mark.parametrize(
    ("free", "state", "said"), [(1.9e9, "note", "1.9 GB free, which is little"), (2.1e9, "ok", "2.1 GB free")]
)
def test_a_disk_with_less_than_2_gb_is_noted(tmp_path, monkeypatch, free, state, said):
    disk = SimpleNamespace(total=500e9, used=500e9 - free, free=free)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda place: disk)
    found = folders.free_space("results", tmp_path, "--out")
    assert (found.state, found.said) == (state, f"{tmp_path}: {said}")


def test_a_folder_without_write_access_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.os, "access", lambda place, mode: not mode & folders.os.W_OK)
    found = folders.free_space("results", tmp_path / "new", "--out")
    assert (found.state, found.said) == ("lacks", f"{tmp_path / 'new'}: {tmp_path} cannot be written")
    (tmp_path / "file").touch()
    found = folders.free_space("results", tmp_path / "file/new", "--out")
    assert (found.state, found.said) == ("lacks", f"{tmp_path / 'file/new'}: {tmp_path / 'file'} is a file")


@pytest.mark.parametrize(("weights", "model"), [("pretrained", "vit"), ("random", ""), ("weights.pth", "")])
def test_timm_is_asked_about_the_model_of_pretrained_weights_only(monkeypatch, weights, model):
    asked = []
    monkeypatch.setattr(machine, "run_program", lambda words, within_s: asked.append(words[-1]) or (1, "", "broken"))
    findings, known = machine.find_imports("vit", weights)
    assert (asked, known) == ([model], {})
    assert [(found.name, found.state, found.said) for found in findings] == [
        ("worker", "lacks", "cannot be imported: broken")
    ]


@pytest.mark.parametrize("out", ["", "Killed\n", "{"])
def test_an_import_without_an_answer_lacks_the_worker(monkeypatch, out):
    monkeypatch.setattr(machine, "run_program", lambda words, within_s: (0, out, "a word of an import"))
    (found,), known = machine.find_imports("vit", "random")
    assert (found.state, found.said, known) == ("lacks", "cannot be imported: a word of an import", {})
    assert "pip install" in found.mend


@pytest.mark.parametrize(
    ("cuda", "cpu", "said"),
    [
        ("12.4", "AVX512", "2.9 (CUDA 12.4; AVX512)"),
        (None, "DEFAULT", "2.9 (no CUDA; DEFAULT)"),
        (None, "AVX2", "2.9 (no CUDA; AVX2: training.products: bfloat16 takes longer than float32 on this CPU)"),
    ],
)
def test_a_build_of_torch_and_a_cpu_that_is_slow_in_bfloat16(monkeypatch, cuda, cpu, said):
    told = {"torch": "2.9", "cuda": cuda, "gpus": 0, "cpu": cpu}
    # Libraries print lines of their own before the answer.
    monkeypatch.setattr(machine, "run_program", lambda words, within_s: (0, f"hello\n{json.dumps(told)}\n", ""))
    (torch_found, worker), known = machine.find_imports("", "random")
    assert (torch_found, known) == (Finding("torch", "ok", said), told)
    assert (worker.name, worker.state) == ("worker", "ok")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (("0123456789abcdef", False), Finding("code", "ok", "git 0123456789ab")),
        (
            ("0123456789abcdef", True),
            Finding("code", "note", "git 0123456789ab with uncommitted changes; results are marked so", "git status"),
        ),
    ],
)
def test_the_commit_and_uncommitted_changes_are_told(monkeypatch, state, expected):
    monkeypatch.setattr(folders, "git_state", lambda: state)
    assert folders.find_checkout() == expected


def test_outside_a_checkout_results_have_no_commit(monkeypatch):
    monkeypatch.setattr(folders, "git_state", lambda: (None, None))
    assert (folders.find_checkout().state, folders.find_checkout().mend) == ("note", None)
    assert folders.find_checkout().said.startswith("not a git checkout")


class DriverApi:
    """A stand-in for NVML: GPUs by name and bytes of memory, or an error when it is opened."""

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound

    def __init__(self, *gpus, error=None):
        self.gpus, self.error, self.opened = gpus, error, 0

    def nvmlInit(self):
        if self.error is not None:
            raise self.error
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle):
        return handle[0]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=handle[1])


def gpus(monkeypatch, visible_to_torch, *cards, error=None):
    """Run the check of GPUs against a driver with these cards."""
    api = DriverApi(*cards, error=error)
    monkeypatch.setattr(machine, "pynvml", api)
    found = machine.find_gpus(visible_to_torch)
    assert api.opened == 0, "the driver's interface is closed again"
    return found


def test_a_machine_without_nvidia_driver_has_no_gpus(monkeypatch):
    """No driver is no problem; a driver that fails is named."""
    missing = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert gpus(monkeypatch, None, error=missing) == Finding("gpus", "note", "none: trials run on the CPU")
    broken = pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    said = gpus(monkeypatch, 0, error=broken).said
    assert said == "none (NVIDIA driver: Driver Not Loaded): trials run on the CPU"


def test_gpus_of_the_driver_are_compared_with_those_of_torch(monkeypatch):
    """80 GiB are 81,920 MiB; equal cards are named once."""
    card = ("NVIDIA X", 80 * 2**30)
    both = "2: NVIDIA X, 81920 MiB"
    assert gpus(monkeypatch, 2, card, card) == Finding("gpus", "ok", both)
    assert gpus(monkeypatch, None, card, card) == Finding("gpus", "ok", both)
    seen = gpus(monkeypatch, 1, card, card)
    assert (seen.state, seen.said) == ("ok", f"{both}; 1 of them visible to torch (CUDA_VISIBLE_DEVICES)")
    blind = gpus(monkeypatch, 0, card, card)
    assert (blind.state, blind.said) == ("note", f"{both}; torch sees none of them")
    assert "pip install --force-reinstall torch" in blind.mend


@pytest.mark.parametrize(
    ("cores", "memory", "free", "state", "said"),
    [
        (8, 64.0, 60.0, "ok", "8 cores, 64.0 GB of memory, 60.0 GB of it free: 8 trials at once"),
        (8, 9.0, 8.0, "ok", "8 cores, 9.0 GB of memory, 8.0 GB of it free: 2 trials at once"),
        (1, 2.0, 1.0, "note", "1 cores, 2.0 GB of memory, 1.0 GB of it free: 1 trial at once"),
        (4, 16.0, 3.9, "note", "4 cores, 16.0 GB of memory, 3.9 GB of it free: 4 trials at once"),
    ],
)
def test_trials_at_once_follow_from_cores_and_memory(monkeypatch, cores, memory, free, state, said):
    """A trial takes one core and 4 GB; at least one trial runs."""
    monkeypatch.setattr(machine, "available_cores", lambda: cores)
    monkeypatch.setattr(machine, "memory_gb", lambda: memory)
    monkeypatch.setattr(machine, "free_memory_gb", lambda: free)
    found = machine.find_size()
    assert (found.state, found.said.partition(" without GPUs")[0]) == (state, said)
    assert (found.mend is None) == (state == "ok")
