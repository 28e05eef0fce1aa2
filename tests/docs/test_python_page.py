"""The code of docs/python.md runs as it is written, from the first block to the last."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import orchestrator.api

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL = {
    "data": {"image_size": 32, "mask_size": 32},
    "flow": {"blocks": 2},
    "lora": {"rank": 2},
    "training": {"epochs": 1, "batch_size": 4, "optimizer": "adamw"},
}


@pytest.fixture
def home(
    tmp_path: Path, draw: Callable[..., None], small_backbone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the page's sweep on a small base, and a home with images."""
    for n, name in enumerate(("leather", "grid")):
        draw(tmp_path / "mvtec" / name, 32, n)
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    sweep = yaml.safe_load(text)
    sweep["base"]["extends"] = "../base.yaml"
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(SMALL | {"backbone": small_backbone}))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/detector.yaml").write_text(yaml.safe_dump(sweep))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MOLEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOLEFLOW_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.process
def test_the_code_runs(home, capsys):
    names: dict[str, Any] = {}
    printed = []
    for block in CODE:
        exec(compile(block, "docs/python.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert "finished  6/6" in printed[0]
    assert "detectors: results/detector/detectors (3 of the best variant" in printed[0]
    assert names["losses"] == []
    assert "all trials have finished" in printed[2]
    assert printed[3].startswith("focal_gamma=0 (0, 1, 2) ")
    assert (
        "better" in printed[3] or "undecided" in printed[3] or "identical" in printed[3] or "seed noise" in printed[3]
    )
    assert len(printed[4].splitlines()) == 10, "the detector, eight test images and the shapes of two maps"
    assert printed[4].startswith("SweepDetector(focal_gamma=")
    assert {line.split()[-1] for line in printed[4].splitlines()[1:-1]} <= {"True", "False"}
    assert printed[4].splitlines()[-1] == "(32, 32) (4, 4)"
    assert printed[5].startswith("image 2")
    assert printed[6].startswith("{'leather': ")
    assert set(names["detector"].thresholds.values()) == {12.5}
    assert len(names["scores"]) == 3 * 2 * 16, "the test images of three trials and two classes"


def test_every_name_that_the_page_imports_is_public():
    imported = {
        alias.name
        for block in CODE
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module == "orchestrator.api"
        for alias in node.names
    }
    assert imported == {"run_sweep", "load_results", "load_detector"}
    assert imported <= set(orchestrator.api.__all__)
