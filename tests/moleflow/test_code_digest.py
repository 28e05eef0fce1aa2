"""Digests by phase: prose, moves and other phases leave them; a change of code never does."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import moleflow.cache.stages
import moleflow.code_digest
import moleflow.features.feature_cache
from moleflow import equal_code
from moleflow.cache.stages import ROOT, stage_id
from moleflow.code_digest import (
    ENTRY_MODULES,
    SOURCES,
    CodeDigests,
    Phase,
    code_digest,
    own_digest,
    require_unchanged,
    version,
)
from moleflow.environment import Environment
from moleflow.errors import CodeChanged
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig

PHASES: tuple[Phase, ...] = ("defects", "features", "training", "bank", "scoring", "rows")
ITSELF = "moleflow.code_digest"
CONFIG = TrialConfig.model_validate({"backbone": {"weights": "random"}})
ENVIRONMENT = Environment("cpu", "2.0", "float32", 1)


def digests(sources: Mapping[str, bytes]) -> dict[Phase, str]:
    """The digest of every phase of a package with these sources."""
    code = CodeDigests(sources)
    return {phase: code.of(ENTRY_MODULES[phase]) for phase in PHASES}


BEFORE = digests(SOURCES)


def digest_of_a(**modules: str) -> str:
    """The digest of the module `a` of a package of these modules."""
    return CodeDigests({f"moleflow.{name}": text.encode() for name, text in modules.items()}).of("moleflow.a")


# ---- a small package -----------------------------------------------------------------------------

A = '''"""A module."""
import math
from moleflow.b import scale
from moleflow import d
if TYPE_CHECKING:
    from moleflow.c import Name
else:
    from moleflow.e import Name
LIMIT = 3
class Knobs:
    """Knobs."""
    width: int = Field(4, ge=1, description="pixels")
    """An attribute."""
@cache
def area(side: float, factor: float = 2.0) -> float:
    """The area."""
    from moleflow.f import bonus
    if side is None or side < LIMIT:
        return scale(side, by=factor) + 1 + d.SHIFT
    check(side, description="text")
    return -math.pi + bonus
'''
OTHERS = {
    "b": "def scale(x, by):\n    return x * by\n",
    "c": "Name = str\n",
    "d": "SHIFT = 5\n",
    "e": "Name = object\n",
    "f": "from moleflow.g import bonus\n",
    "g": "bonus = 7\n",
}
UNEDITED = digest_of_a(a=A, **OTHERS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('"""A module."""', ""),
        ('"""Knobs."""', '"""Settings."""'),
        ('"""The area."""', '"""The square."""'),
        ('"""An attribute."""', '"""Another text."""'),
        ("LIMIT = 3", "LIMIT = (\n    0x3  # a comment\n)\n\n"),
        ('description="pixels"', 'description="pixels per side"'),
        (', description="pixels"', ""),
        ("import math\nfrom moleflow.b import scale", "from moleflow.b import scale\nimport math"),
        ("from moleflow.c import Name", "from moleflow.b import Name"),
        ("    from moleflow.c import Name", "    import os"),
    ],
)
def test_prose_layout_and_imports_for_a_type_checker_leave_the_digest(old: str, new: str) -> None:
    assert A.count(old) == 1
    assert digest_of_a(a=A.replace(old, new), **OTHERS) == UNEDITED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = True"),
        ("LIMIT = 3", "BOUND = 3"),
        ("factor: float = 2.0", "factor: float = 2.5"),
        ("factor: float = 2.0", "factor: float"),
        ("factor: float = 2.0", "*, factor: float = 2.0"),
        ("Field(4,", "Field(5,"),
        ("ge=1", "gt=1"),
        ("@cache\n", ""),
        ("@cache\n", "@lru_cache\n"),
        ("side is None", "side is not None"),
        ("side is None or", "side is None and"),
        ("side < LIMIT", "side <= LIMIT"),
        ("side < LIMIT", "LIMIT < side"),
        ("by=factor", "by=side"),
        ("by=factor", "to=factor"),
        ("by=factor) + 1", "by=factor) - 1"),
        ("+ d.SHIFT", "+ d.OTHER"),
        ("+ d.SHIFT", ""),
        ("-math.pi", "math.pi"),
        ("return -math.pi + bonus", "-math.pi + bonus"),
        ('description="text"', 'description="another text"'),
        ("import math", "import cmath as math"),
        ("from moleflow.b import scale", "from moleflow.b import other as scale"),
        ("from moleflow.b import scale", "from moleflow.c import scale"),
        ("from moleflow.f import bonus", "from moleflow.f import other as bonus"),
        ("from moleflow.e import Name", "from moleflow.b import Name"),
    ],
)
def test_a_change_of_code_changes_the_digest(old: str, new: str) -> None:
    assert A.count(old) == 1
    assert digest_of_a(a=A.replace(old, new), **OTHERS) != UNEDITED


@pytest.mark.parametrize(("module", "counts"), [("b", 1), ("c", 0), ("d", 1), ("e", 1), ("f", 1), ("g", 1)])
def test_a_digest_covers_every_module_that_is_executed(module: str, counts: bool) -> None:
    """Imports of a whole module, within a function, and by another module count as well."""
    edited = OTHERS | {module: f"{OTHERS[module]}LATER = 1\n"}
    assert (digest_of_a(a=A, **edited) != UNEDITED) is bool(counts)


def test_names_of_modules_leave_the_digest() -> None:
    a = (
        A.replace("moleflow.b ", "moleflow.z ")
        .replace("import d\n", "import shifts\n")
        .replace("d.SHIFT", "shifts.SHIFT")
    )
    others = {name: text.replace("moleflow.g", "moleflow.a0") for name, text in OTHERS.items()}
    moved = {{"b": "z", "d": "shifts", "g": "a0"}.get(name, name): text for name, text in others.items()}
    assert digest_of_a(a=a, **moved) == UNEDITED


def test_two_modules_with_swapped_roles_are_another_digest() -> None:
    text = "from moleflow import b, d\nX = b.V - d.V\n"
    modules = {"b": "V = 1\n", "d": "V = 2\n"}
    assert digest_of_a(a=text, **modules) != digest_of_a(a=text.replace("b.V - d.V", "d.V - b.V"), **modules)
    assert digest_of_a(a=text, **modules) != digest_of_a(a=text, b="V = 2\n", d="V = 1\n")


def test_a_circle_of_imports_is_an_error_that_names_the_modules() -> None:
    with pytest.raises(ValueError, match=r"^moleflow.b -> moleflow.c -> moleflow.b: modules import one another"):
        digest_of_a(a="import moleflow.b", b="def f():\n    from moleflow.c import x\n", c="from moleflow.b import y")
    with pytest.raises(ValueError, match=r"moleflow.a -> moleflow.a"):
        digest_of_a(a="from moleflow.a import x")


def test_a_relative_import_is_an_error() -> None:
    """It would be taken for another package, whose code no digest covers."""
    with pytest.raises(ValueError, match="line 2: a relative import"):
        digest_of_a(a="X = 1\nfrom . import b", b="Y = 1")


# ---- the package itself --------------------------------------------------------------------------


def imported_lines(text: str) -> set[str]:
    """The modules that the executed import statements of a text name, found without a parser."""
    executed = re.sub(r"^if TYPE_CHECKING:\n(    .*\n|\n)+", "", text, flags=re.MULTILINE)
    lines = re.findall(r"^\s*from (moleflow[\w.]*) import (\(?.*)", executed, flags=re.MULTILINE)
    found = {source for source, _ in lines}
    return found | {f"{source}.{name}" for source, names in lines for name in re.findall(r"\w+", names)}


def executed_modules(start: str) -> set[str]:
    """All modules of the package that a module imports, directly or not."""
    found, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in SOURCES and name not in found:
            found.add(name)
            todo.extend(imported_lines(SOURCES[name].decode()))
    return found


MODULES = {phase: executed_modules(ENTRY_MODULES[phase]) - {ITSELF, "moleflow.equal_code"} for phase in PHASES}

EXPECTED: dict[Phase, tuple[str, str]] = {
    "defects": ("data.images data.loading data.subsets settings.config", "models.flow features.backbone cache.claim"),
    "features": (
        "data.images data.loading environment features.backbone features.timm_import features.weights settings.config",
        "models.flow metrics.ranking training.losses cache.claim data.samples data.splits files",
    ),
    "training": (
        "models.flow models.coupling models.lora models.adapters models.detector training.adamp training.losses",
        "metrics.ranking features.backbone data.images cache.claim cache.array_packs training.evaluation",
    ),
    "bank": ("models.memory_bank settings.config", "models.flow features.backbone training.evaluation cache.claim"),
    "scoring": (
        "metrics.ranking metrics.regions models.router models.flow",
        "training.adamp features.backbone cache.claim",
    ),
    "rows": (
        "cache.claim data.splits data.synthetic features.backbone metrics.ranking models.flow training.losses",
        "settings.knobs cache.eviction data.embedded.leather",
    ),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_has_the_modules_that_decide_its_outcome(phase: Phase) -> None:
    inside, outside = ({f"moleflow.{name}" for name in names.split()} for names in EXPECTED[phase])
    assert inside <= MODULES[phase]
    assert not outside & MODULES[phase]
    assert (inside | outside) <= SOURCES.keys()


Fault = Callable[[ast.AST], bool]


def _constant(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        node.value = node.value + 1
        return True
    return False


def _text(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        node.value += "?"
        return True
    return False


def _operator(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        node.op = ast.Sub() if not isinstance(node.op, ast.Sub) else ast.Add()
        return True
    if isinstance(node, ast.Compare):
        node.ops[0] = ast.LtE() if not isinstance(node.ops[0], ast.LtE) else ast.Lt()
        return True
    return False


def _default(node: ast.AST) -> bool:
    if isinstance(node, ast.arguments) and node.defaults:
        node.defaults[-1] = ast.Name("other", ast.Load())
        return True
    return False


def _decorator(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list:
        node.decorator_list.pop()
        return True
    return False


def _keyword(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword) and node.arg != "description":
        node.arg = f"{node.arg}_"
        return True
    return False


def _imported_symbol(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module != "__future__":
        node.names[0].asname = node.names[0].asname or node.names[0].name
        node.names[0].name = "something_else"
        return True
    return False


FAULTS: dict[str, Fault] = {
    "constant": _constant,
    "text": _text,
    "operator": _operator,
    "default": _default,
    "decorator": _decorator,
    "keyword": _keyword,
    "imported symbol": _imported_symbol,
}


def without_prose(text: str) -> ast.Module:
    """A module without docstrings, descriptions of knobs and imports for a type checker."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        for statements in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if isinstance(statements, list):
                kept = [one for one in statements if not _prose(one)]
                statements[:] = kept or (statements and [ast.Expr(ast.Constant(""))])
    return tree


def _prose(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def faulty(text: str, fault: Fault) -> str | None:
    """A module with the fault at the middle one of its possible places; None without a place."""
    places = [number for number, node in enumerate(ast.walk(without_prose(text))) if fault(node)]
    if not places:
        return None
    tree = without_prose(text)
    fault(list(ast.walk(tree))[places[len(places) // 2]])
    return ast.unparse(tree)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_edit_anywhere_in_a_phase_changes_its_digest_and_no_other(fault: str) -> None:
    tried = dict.fromkeys(PHASES, 0)
    for module in sorted(MODULES["rows"]):
        phases = {phase for phase in PHASES if module in MODULES[phase]}
        edited = faulty(SOURCES[module].decode(), FAULTS[fault])
        if edited is not None:
            after = digests({**SOURCES, module: edited.encode()})
            assert {phase for phase in PHASES if after[phase] != BEFORE[phase]} == phases, f"{module}:\n{edited}"
            for phase in phases:
                tried[phase] += 1
    assert tried.pop("bank") >= 1  # It has only two modules.
    assert min(tried.values()) >= 2


def test_every_module_without_its_prose_has_the_digests_that_it_has_with_it() -> None:
    """All comments, docstrings, descriptions of knobs and line breaks at once."""
    plain = {module: ast.unparse(without_prose(text.decode())).encode() for module, text in SOURCES.items()}
    assert plain != SOURCES
    assert digests(plain) == BEFORE


@pytest.mark.parametrize(
    "moves",
    [
        {"moleflow.models.flow": "moleflow.models.normalizing_flow"},
        {"moleflow.training.losses": "moleflow.losses"},
        {"moleflow.settings.config": "moleflow.cache.zz_config", "moleflow.data.images": "moleflow.features.a_images"},
        {
            name: name.replace("moleflow.models", "moleflow.parts")
            for name in SOURCES
            if ".models." in name and name not in ENTRY_MODULES.values()
        },
    ],
    ids=["renamed", "moved up", "two moved", "a room renamed"],
)
def test_a_move_of_modules_leaves_every_digest(moves: dict[str, str]) -> None:
    moved = {}
    for name, source in SOURCES.items():
        text = source.decode()
        for old, new in moves.items():
            text = re.sub(rf"\b{re.escape(old)}\b", new, text)
        moved[moves.get(name, name)] = text.encode()
    assert moved.keys() != SOURCES.keys()
    assert digests(moved) == BEFORE


def test_the_digests_own_module_is_in_no_digest() -> None:
    """It decides no number, and a phase may start in another module without costing every stage."""
    assert digests({**SOURCES, ITSELF: SOURCES[ITSELF] + b"LATER = 1\n"}) == BEFORE


def test_an_edit_of_any_phase_makes_rows_stale() -> None:
    assert set().union(*MODULES.values()) == MODULES["rows"]


def test_no_module_is_imported_by_a_computed_name() -> None:
    """No digest would cover it."""
    for name, source in SOURCES.items():
        assert not re.search(rb"import_module|__import__|runpy", source), name


# ---- the keys that digests enter -----------------------------------------------------------------

FEATURES_KEY, STAGE_KEY = "features", "stage"


def changed_keys(module: str, edited: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """The keys that an edit of a module changes."""

    def keys(sources: Mapping[str, bytes]) -> dict[str, str]:
        of_phase = digests(sources)
        for user in (moleflow.features.feature_cache, moleflow.cache.stages):
            monkeypatch.setattr(user, "code_digest", of_phase.__getitem__)
        stage = stage_id(ROOT, CONFIG, 0, "data", "weights", ENVIRONMENT)
        return {FEATURES_KEY: FeatureCache(tmp_path).key(CONFIG, ENVIRONMENT), STAGE_KEY: stage.key}

    before, after = keys(SOURCES), keys({**SOURCES, module: edited.encode()})
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("metrics.ranking", set()),
        ("cache.claim", set()),
        ("models.router", set()),
        ("data.synthetic", set()),
        ("models.flow", {STAGE_KEY}),
        ("training.losses", {STAGE_KEY}),
        ("features.backbone", {FEATURES_KEY, STAGE_KEY}),
        ("data.images", {FEATURES_KEY, STAGE_KEY}),
    ],
)
def test_keys_of_features_and_stages_follow_their_phases(
    module: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = SOURCES[f"moleflow.{module}"].decode()
    commented = re.sub(r'^"""', '"""Another sentence. ', text) + "\n# a comment\n"
    assert changed_keys(f"moleflow.{module}", commented, monkeypatch, tmp_path) == set()
    assert changed_keys(f"moleflow.{module}", f"{text}\nLATER = 1\n", monkeypatch, tmp_path) == expected


# ---- the code that runs --------------------------------------------------------------------------


def run(folder: Path, program: str) -> list[str]:
    """The lines that a program prints that runs on the copy of the package in `folder`."""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    for name, source in SOURCES.items():
        package = any(other.startswith(f"{name}.") for other in SOURCES)
        path = tmp_path / f"{name.replace('.', '/')}{'/__init__' if package else ''}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    return tmp_path


def test_digests_are_those_of_the_code_that_the_process_loaded(copy: Path) -> None:
    """A later edit counts for processes that start after it."""
    program = """
from pathlib import Path
from moleflow.code_digest import ENTRY_MODULES, own_digest
path = Path("moleflow/settings/config.py")  # A module of every phase.
path.write_text(path.read_text() + "LATER = 1\\n")
print(*(own_digest(phase) for phase in ENTRY_MODULES))
"""
    first, second = (run(copy, program)[0].split() for _ in range(2))
    assert first == [BEFORE[phase] for phase in ENTRY_MODULES]
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_module_edited_before_its_late_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, path = "moleflow.features.backbone", tmp_path / "backbone.py"
    monkeypatch.setattr(moleflow.code_digest, "_PATHS", {name: path})
    path.write_bytes(SOURCES[name])
    require_unchanged(name)
    path.write_bytes(SOURCES[name] + b"LATER = 1\n")
    with pytest.raises(CodeChanged, match=r"backbone.py: the code changed while this process ran; start the command"):
        require_unchanged(name)
    path.unlink()
    with pytest.raises(CodeChanged):
        require_unchanged(name)


@pytest.mark.process
def test_an_edited_backbone_is_refused_unless_it_was_loaded_before(copy: Path) -> None:
    program = """
from pathlib import Path
from moleflow.settings.config import TrialConfig
from moleflow.environment import open_environment
from moleflow.errors import CodeChanged
from moleflow.features.extract import frozen_backbone

backbone = {"model": "efficientnet_lite0", "weights": "random", "layers": [1, 2], "aggregate": "concat", "grid": 4}
config = TrialConfig.model_validate({"data": {"image_size": 32}, "backbone": backbone})
environment, path = open_environment("cpu"), Path("moleflow/features/backbone.py")
if LOADED:
    frozen_backbone(config, environment)
path.write_text(path.read_text() + "LATER = 1\\n")
try:
    frozen_backbone(config, environment)
    print("built")
except CodeChanged as error:
    print(error)
"""
    (built,) = run(copy, program.replace("LOADED", "True"))
    (refused,) = run(copy, program.replace("LOADED", "False"))
    assert built == "built"
    assert refused.startswith(f"{copy / 'moleflow/features/backbone.py'}: the code changed")


def test_a_phase_has_the_digest_of_its_entry_module() -> None:
    assert {phase: own_digest(phase) for phase in PHASES} == BEFORE
    assert code_digest() == equal_code.earliest(BEFORE["rows"])
    assert len(set(BEFORE.values())) == len(PHASES)
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in BEFORE.values())


def test_a_version_is_that_of_the_package() -> None:
    assert version("timm").split(".")[0].isdigit()


def test_code_with_the_digits_of_earlier_code_has_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    now, before, first = (hashlib.sha256(name).hexdigest() for name in (b"now", b"before", b"first"))
    monkeypatch.setattr(equal_code, "SAME_DIGITS", {now: before, before: first})
    assert [equal_code.earliest(digest) for digest in (now, before, first)] == [first] * 3
    other = hashlib.sha256(b"other").hexdigest()
    assert equal_code.earliest(other) == other


def test_a_phase_that_was_compared_keeps_the_digest_of_the_earlier_code(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = hashlib.sha256(b"earlier").hexdigest()
    monkeypatch.setattr(equal_code, "SAME_DIGITS", {own_digest("features"): earlier})
    code_digest.cache_clear()
    try:
        assert code_digest("features") == earlier
        assert code_digest("rows") == own_digest("rows")
    finally:
        code_digest.cache_clear()
