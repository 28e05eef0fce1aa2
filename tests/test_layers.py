"""The house: rooms, the arrows allowed between them, and what no room may import. Read from the
source, not from `sys.modules`."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("moleflow", "orchestrator") for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "timm", "FrEIA", "sklearn", "scipy", "ray", "submitit", "optuna", "pyarrow", "polars", "duckdb"} | {
    *("mlflow", "tensorboard", "wandb"),
}

# Each room, and the rooms that it may import from. docs/architecture.md says what each one is.
MOLEFLOW = {
    "errors": "",
    "suggestions": "",
    "owner": "",
    "passing_errors": "",
    "files": "owner passing_errors",
    "file_service": "files passing_errors",
    "metrics": "",
    "equal_code": "",
    "code_digest": "equal_code errors",
    "environment": "errors",
    "settings": "errors passing_errors suggestions",
    "data": "code_digest errors files passing_errors settings suggestions",
    "models": "settings",
    "cache": "code_digest environment errors files owner passing_errors settings",
    "features": "cache code_digest data environment errors files passing_errors settings",
    "training": "cache data environment errors features metrics models settings",
    "detection": "cache code_digest data environment errors features files models passing_errors settings training",
}
ORCHESTRATOR = {
    "exit_codes": "",
    "host": "moleflow.errors moleflow.features",
    "results": "moleflow.errors moleflow.files moleflow.owner",
    "sweep": "moleflow.errors moleflow.settings moleflow.suggestions",
    "records": "host results moleflow.cache moleflow.errors moleflow.files moleflow.owner moleflow.suggestions",
    "plan": "host results sweep moleflow.data moleflow.errors moleflow.features moleflow.settings",
    "reports": "host records results sweep moleflow.code_digest moleflow.errors moleflow.files moleflow.metrics "
    "moleflow.settings moleflow.suggestions",
    "trackers": "host records reports results moleflow.errors",
    "detectors": "records reports results moleflow.data moleflow.detection moleflow.errors moleflow.files "
    "moleflow.settings moleflow.suggestions",
    "claims": "records reports results moleflow.errors moleflow.settings",
    "execution": "host plan records results sweep moleflow.cache moleflow.code_digest moleflow.data moleflow.detection "
    "moleflow.environment moleflow.errors moleflow.features moleflow.settings moleflow.training",
    "backends": "execution host plan records results sweep moleflow.cache moleflow.code_digest moleflow.data "
    "moleflow.environment moleflow.errors moleflow.features moleflow.file_service moleflow.files moleflow.owner "
    "moleflow.passing_errors moleflow.settings moleflow.suggestions",
    "monitor": "execution host records results moleflow.cache moleflow.errors moleflow.owner moleflow.passing_errors "
    "moleflow.suggestions",
    "search": "execution host records reports results sweep moleflow.cache moleflow.errors moleflow.files "
    "moleflow.settings",
    "doctor": "backends host sweep moleflow.cache moleflow.data moleflow.errors moleflow.features moleflow.settings",
    "html_report": "host monitor records reports results search moleflow.data moleflow.errors moleflow.files "
    "moleflow.settings moleflow.suggestions",
    "driver": "backends detectors execution exit_codes host monitor plan records reports results search sweep moleflow.cache "
    "moleflow.code_digest moleflow.environment moleflow.errors moleflow.features moleflow.files moleflow.owner "
    "moleflow.settings moleflow.suggestions moleflow.training",
    "api": "detectors exit_codes records reports results sweep moleflow.detection moleflow.errors moleflow.settings "
    "moleflow.suggestions",
    "cli": "backends claims detectors doctor driver exit_codes host html_report monitor plan records reports search sweep "
    "trackers moleflow.data moleflow.detection moleflow.errors moleflow.settings moleflow.suggestions",
}
ALLOWED = {
    f"{package}.{room}": {name if name.startswith("moleflow.") else f"{package}.{name}" for name in below.split()}
    for package, rooms in (("moleflow", MOLEFLOW), ("orchestrator", ORCHESTRATOR))
    for room, below in rooms.items()
}
# A model may be made of another only where this says so.
MODELS = {
    "detector": {"adapters", "alignment", "flow", "patch_attention", "patch_mixer"},
    "flow": {"auxiliary_couplings", "cached_tensor", "coupling", "cross_patch", "lora", "separate_coupling"},
    "separate_coupling": {"coupling", "patch_mixer"},
    "auxiliary_couplings": {"seeded_linear"},
    "cross_patch": {"coupling"},
    "lora": {"cached_tensor", "seeded_linear", "spatial_lora"},
    "adapters": {"seeded_linear"},
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


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


MODULES = {module(path): imported(path) for path in SOURCES}


def room(dotted: str) -> str:
    return ".".join(dotted.split(".")[:2])


def own_imports(dotted: str) -> set[str]:
    """The modules of this project that a module imports."""
    found = set()
    for one in MODULES[dotted]:
        parent = one.rpartition(".")[0]
        found |= {one} & MODULES.keys() or {parent} & MODULES.keys()
    return found - {"moleflow", "orchestrator"}


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports from, itself left out."""
    found: dict[str, set[str]] = {room(one): set() for one in MODULES if "." in one}
    for dotted in MODULES:
        if "." in dotted:
            found[room(dotted)] |= {room(one) for one in own_imports(dotted)} - {room(dotted)}
    return found


def floors(rooms: dict[str, set[str]]) -> int:
    """Floors of a house in which each room lies above all that it imports from."""
    level: dict[str, int] = {}
    for one in TopologicalSorter(rooms).static_order():
        level[one] = 1 + max((level[below] for below in rooms.get(one, ())), default=0)
    return max(level.values())


def test_rooms_import_only_what_they_may() -> None:
    """An arrow that is not in the table fails, and so does a table that allows what nobody uses."""
    assert arrows() == ALLOWED


def test_there_is_no_circle_between_modules() -> None:
    TopologicalSorter({dotted: own_imports(dotted) - {dotted} for dotted in MODULES}).prepare()


@pytest.mark.parametrize(("package", "most"), [("moleflow", 6), ("orchestrator", 7)])
def test_a_package_has_few_floors(package: str, most: int) -> None:
    own = {
        one: {below for below in rooms if below.startswith(package)}
        for one, rooms in arrows().items()
        if one.startswith(package)
    }
    assert floors(own) <= most


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_one_module_imports_timm_and_only_workers_run_sequences(path: Path) -> None:
    here, found = module(path), imported(path)
    heads = {one.split(".")[0] for one in found}
    if here not in ("moleflow.features.timm_import", "moleflow.features.backbone"):
        assert "timm" not in heads
    # It calls the import that works without torchvision's operators.
    if here == "moleflow.features.backbone":
        assert "moleflow.features.timm_import.import_timm" in found
    if here.startswith("orchestrator.") and here != "orchestrator.execution.worker":
        assert not any(one.startswith("moleflow.training.sequence") for one in found)
    if here.startswith(("moleflow.data", "moleflow.settings", "orchestrator.results", "orchestrator.reports")):
        assert "torch" not in heads


@pytest.mark.parametrize("path", sorted((ROOT / "moleflow/models").glob("[!_]*.py")), ids=name)
def test_models_are_made_of_few_others(path: Path) -> None:
    siblings = {found.split(".")[2] for found in imported(path) if found.startswith("moleflow.models.")}
    assert siblings <= MODELS.get(path.stem, set())


def test_planning_is_pure() -> None:
    """Same sweep, same plan: no file, clock or process is looked at."""
    for one in ("plan.plan", "plan.stage_tree", "sweep.expansion", "sweep.trial", "execution.planned_trials"):
        assert not MODULES[f"orchestrator.{one}"] & {"os", "pathlib.Path", "time", "subprocess"}


@pytest.mark.parametrize("program", ["import orchestrator", "from orchestrator.cli.entry import main"])
def test_the_command_line_loads_nothing_heavy_by_itself(program: str) -> None:
    """`--help` and completion answer at once."""
    check = f"import sys; {program}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_entry_point_is_the_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"moleflow-sweep": "orchestrator.cli:main"}


def definitions() -> Iterator[tuple[str, str, str, str]]:
    """(kind, package, module, name) of every public class and function at the top of a module."""
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            kind = {ast.ClassDef: "class", ast.FunctionDef: "function"}.get(type(node))
            if kind and not node.name.startswith("_"):  # type: ignore[attr-defined]
                yield kind, name(path).split("/")[0], module(path), node.name  # type: ignore[attr-defined]


def test_one_name_means_one_class() -> None:
    places: dict[str, set[str]] = {}
    for kind, _, here, one in definitions():
        if kind == "class":
            places.setdefault(one, set()).add(here)
    assert {one: sorted(found) for one, found in places.items() if len(found) > 1} == {}


def test_one_name_means_one_function_in_a_package() -> None:
    places: dict[tuple[str, str], set[str]] = {}
    for kind, package, here, one in definitions():
        if kind == "function":
            places.setdefault((package, one), set()).add(here)
    assert {one: sorted(found) for one, found in places.items() if len(found) > 1} == {}
