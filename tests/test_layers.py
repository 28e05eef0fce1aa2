"""The import arrows of the house: read from the source, not from what happens to be imported."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("moleflow", "orchestrator") for path in (ROOT / package).rglob("*.py"))
TIMM = {"moleflow/timm_import.py", "moleflow/backbone.py"}
# A model may stand on another only where it is made of it.
MODELS = {
    "detector": {"adapters", "flow", "patch_attention"},
    "flow": {"coupling", "cross_patch", "lora"},
    "cross_patch": {"coupling"},
    "lora": {"spatial_lora"},
}
HEAVY = {"torch", "timm", "FrEIA", "sklearn", "scipy", "ray", "submitit", "optuna", "pyarrow", "polars", "duckdb"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere below, with the names that are taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text())))


def uses(path: Path, module: str) -> bool:
    return any(found == module or found.startswith(f"{module}.") for found in imported(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_arrows(path):
    here = name(path)
    if here.startswith("moleflow/"):
        assert not uses(path, "orchestrator")
    elif here != "orchestrator/worker.py":
        assert not uses(path, "moleflow.sequence")
    if here not in TIMM:
        assert not uses(path, "timm")
    elif here != "moleflow/timm_import.py":
        assert uses(path, "moleflow.timm_import.import_timm")
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert any(isinstance(called, ast.Name) and called.id == "import_timm" for called in calls)


def test_the_two_packages_meet_in_the_worker():
    assert uses(ROOT / "orchestrator/worker.py", "moleflow.sequence")


@pytest.mark.parametrize("path", sorted((ROOT / "moleflow/models").glob("[!_]*.py")), ids=name)
def test_models_stand_side_by_side(path):
    siblings = {found.split(".")[2] for found in imported(path) if found.startswith("moleflow.models.")}
    assert siblings <= MODELS.get(path.stem, set())


@pytest.mark.parametrize(
    ("group", "apart"),
    [
        (
            "moleflow/models",
            ("moleflow.data", "moleflow.metrics", "moleflow.losses", "moleflow.training", "moleflow.sequence"),
        ),
        ("moleflow/metrics", ("moleflow",)),
        (
            "moleflow/data",
            (
                "moleflow.models",
                "moleflow.metrics",
                "moleflow.losses",
                "moleflow.training",
                "moleflow.sequence",
                "torch",
            ),
        ),
        ("orchestrator/results", ("orchestrator.reports", "orchestrator.backends", "orchestrator.worker", "torch")),
        ("orchestrator/reports", ("orchestrator.backends", "orchestrator.worker", "orchestrator.spec", "torch")),
    ],
)
def test_groups_keep_to_themselves(group, apart):
    for path in (ROOT / group).rglob("*.py"):
        own = f"{group.replace('/', '.')}."
        for found in imported(path):
            assert found.startswith(own) or not any(found == a or found.startswith(f"{a}.") for a in apart), (
                name(path),
                found,
            )


@pytest.mark.parametrize("module", ["config", "losses", "knobs", "documents", "errors"])
def test_the_ground_knows_nothing_of_what_stands_on_it(module):
    path = ROOT / f"moleflow/{module}.py"
    above = (
        "moleflow.data",
        "moleflow.models",
        "moleflow.metrics",
        "moleflow.training",
        "moleflow.sequence",
        "moleflow.features",
    )
    assert not any(uses(path, one) for one in above)


def test_planning_is_pure():
    for module in ("planning", "expansion", "trial", "search"):
        assert not imported(ROOT / f"orchestrator/{module}.py") & {"os", "pathlib.Path", "time", "subprocess"}


def top_level(node: ast.AST) -> Iterator[str]:
    return imports(node) if isinstance(node, ast.Import | ast.ImportFrom) else iter(())


def test_the_command_line_loads_nothing_heavy_by_itself():
    tree = ast.parse((ROOT / "orchestrator/cli.py").read_text())
    first = {found for node in tree.body for found in imports(node) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not {found.split(".")[0] for found in first} & HEAVY
    # What a shell is offered after Tab is a part of an option's declaration; it imports nothing but when it is asked.
    assert {found for found in first if found.startswith("orchestrator")} == {"orchestrator.completion"}
    offered = ast.parse((ROOT / "orchestrator/completion.py").read_text())
    assert not any(found.startswith(("moleflow", "orchestrator")) for node in offered.body for found in top_level(node))


def test_the_entry_point_is_the_command_line():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"moleflow-sweep": "orchestrator.cli:main"}
