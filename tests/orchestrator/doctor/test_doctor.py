"""The whole round as it is typed, and what follows from findings."""

from __future__ import annotations

import json

import pytest
import torch

from orchestrator.doctor import folders, machine
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.report import BACKENDS, FEATURES, doctor_document, doctor_lines, runs_here

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


def test_the_round_on_this_machine(place, command, apart):
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
    assert found["weights"]["said"] == "base base.yaml: efficientnet_lite0, drawn at random"
    assert {finding["state"] for finding in told["findings"]} <= {"ok", "lacks", "note"}
    assert all(finding["mend"] for finding in told["findings"] if finding["state"] == "lacks")
    assert files(place) == before


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


def test_an_import_that_hangs_is_not_waited_for(place, monkeypatch):
    (place / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setattr(machine, "IMPORT_WITHIN_S", 0.5)
    ((found,), known) = machine.find_imports("", "random")
    assert (found.state, known) == ("lacks", {})
    assert "no answer within 0.5 s" in found.said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere"], "--data: nowhere is no folder"),
        (["--base", "vit_b61"], "Did you mean 'vit_b16'?"),
        (["--weights", "pretraind"], "Did you mean 'pretrained'?"),
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
    assert not runs_here([Finding("cache", "lacks", "no")])
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


def test_gpus_as_nvidia_smi_tells_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.find_gpus(None).said == "none: trials run on the CPU"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA X, 81920 MiB'\necho 'NVIDIA X, 81920 MiB'\n")
    program.chmod(0o755)
    assert machine.find_gpus(2).said == "2: NVIDIA X, 81920 MiB"
    assert "1 of them visible" in machine.find_gpus(1).said
    assert (machine.find_gpus(0).state, machine.find_gpus(0).said) == (
        "note",
        "2: NVIDIA X, 81920 MiB; torch sees none of them",
    )
    program.write_text("#!/bin/sh\necho 'no driver' >&2; exit 9\n")
    assert machine.find_gpus(None).said == "none (nvidia-smi: no driver): trials run on the CPU"
