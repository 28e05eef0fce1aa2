"""The prose of source, tests and pages follows the rules that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COLUMNS = 100
SOURCES = sorted(
    path
    for folder in ("moleflow", "orchestrator", "tests", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "slurm/*.md", "benchmarks/*.md", "results/*.md", "results/*/README.md")
    for path in REPOSITORY.glob(pattern)
)
QUESTION = re.compile(r"(What|Whether|Where|How|Who|Which|When)\b")
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Concatenated, so that this file passes its own test.
UNPUBLISHED = "'moleflow-" + "sweep["


def name(path: Path) -> str:
    """Return a path as the repository names it."""
    return path.relative_to(REPOSITORY).as_posix()


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a module's docstrings, also of those below constants and attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, DEFINITIONS):
            for before, one in zip([None, *node.body], node.body, strict=False):
                text = one.value.value if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) else None
                if isinstance(text, str) and isinstance(before, ast.Assign | ast.AnnAssign | None):
                    yield one.lineno, text


def long_lines(path: Path) -> Iterator[int]:
    """Yield the numbers of a page's long prose lines; tables, links and code may be long."""
    fenced = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith(("|", "    ", "<")) or "://" in line:
            continue
        elif len(re.sub(r"\]\([^)]*\)", "]", line)) > COLUMNS:  # The target of a link does not count.
            yield number


def test_no_docstring_begins_with_a_question_word():
    """A docstring says what a thing is or returns, so it begins with a noun or a verb."""
    offenders = [f"{name(path)}:{line}" for path in SOURCES for line, text in docstrings(path) if QUESTION.match(text)]
    assert not offenders, f"{len(offenders)} docstrings:\n" + "\n".join(offenders)


def test_prose_of_pages_fits_the_columns():
    """Lines of prose have at most 100 characters."""
    offenders = [f"{name(path)}:{line}" for path in PAGES for line in long_lines(path)]
    assert not offenders, f"{len(offenders)} lines:\n" + "\n".join(offenders)


def test_no_text_installs_the_unpublished_package_by_name():
    """Anybody could register the name of an unpublished package; hints install the checkout."""
    texts = [
        path for suffix in ("md", "yaml", "sh", "toml", "html") for path in REPOSITORY.glob(f"[!.]*/**/*.{suffix}")
    ]
    checked = [*SOURCES, *PAGES, *texts, REPOSITORY / "Makefile"]
    assert [name(path) for path in sorted({*checked}) if UNPUBLISHED in path.read_text()] == []


@pytest.mark.parametrize("text", ["Whether it fits.", "What a part is.", "How to run.", "When it ends."])
def test_question_words_are_recognised(text):
    """The check sees a question word, and takes `Whatever` or `However` for none."""
    assert QUESTION.match(text)
    assert not QUESTION.match(f"Some{text}")
    assert not QUESTION.match("Whatsoever")
