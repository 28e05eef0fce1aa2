"""Each option of the commands that run trials reaches the driver, alone and unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moleflow.errors import InvalidInput
from orchestrator.driver import prefetch, prepare
from orchestrator.driver.prepare import Options
from orchestrator.sweep.sweep import Sweep

Taken = tuple[Sweep, Options]


@pytest.fixture
def taken(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Taken]:
    """The function that returns what a command hands to the driver, which then does nothing."""
    calls: list[Taken] = []

    def take(sweep: Sweep, options: Options, *_: object) -> None:
        calls.append((sweep, options))
        raise InvalidInput("stopped here")

    monkeypatch.setattr(prepare, "prepare", take)
    monkeypatch.setattr(prefetch, "run_prefetch", take)

    def run(*words: str) -> Taken:
        assert command(*words).err == "error: stopped here\n"
        return calls.pop()

    return run


SHARED: list[tuple[str, dict[str, Any]]] = [
    ("--cache c", {"cache": Path("c")}),
    ("--threads 2", {"threads": 2}),
    ("--device cpu", {"device": "cpu"}),
]


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("", {}),
        *SHARED,
        ("--out o", {"out": Path("o")}),
        ("--backend inline", {"backend": "inline"}),
        ("--backend slurm --profile base.yaml", {"backend": "slurm", "profile": Path("base.yaml")}),
        ("--backend slurm --detach", {"backend": "slurm", "detach": True}),
        ("--backend ray --address auto", {"backend": "ray", "address": "auto"}),
        ("--backend ray --no-dashboard", {"backend": "ray", "dashboard": False}),
        (
            "--backend ray --address auto --wait-for-nodes 3",
            {"backend": "ray", "address": "auto", "wait_for_nodes": 3},
        ),
        ("--workers 3", {"workers": 3}),
        ("--yes", {"yes": True}),
        ("--rerun-stale", {"rerun_stale": True}),
        ("--quiet", {"quiet": True}),
        ("--full", {"full": True}),
        ("--log-json", {"log_json": True, "quiet": True}),
    ],
)
def test_options_of_run(taken: Callable[..., Taken], words: str, changes: dict[str, Any]) -> None:
    assert taken("run", "sweep.yaml", *words.split())[1] == replace(Options(), **changes)


def test_options_of_a_search(taken: Callable[..., Taken], edit: Callable[..., Path]) -> None:
    edit(grid=None, report=None, search={"trials": 2, "space": {"learning_rate": {"loguniform": [0.001, 0.1]}}})
    words = ("--storage", "sqlite:///s.db", "--rebuild-study")
    assert taken("sweep.yaml", *words)[1] == Options(storage="sqlite:///s.db", rebuild_study=True)
    assert taken("plan", "sweep.yaml", *words[:2])[1] == Options(storage="sqlite:///s.db")


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("", {}),
        SHARED[0],
        ("--out o", {"out": Path("o")}),
        ("--yes", {"yes": True}),
        ("--rerun-stale", {"rerun_stale": True}),
    ],
)
def test_options_of_plan(taken: Callable[..., Taken], words: str, changes: dict[str, Any]) -> None:
    assert taken("plan", "sweep.yaml", *words.split())[1] == replace(Options(), **changes)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("", {}),
        *SHARED,
        ("--backend slurm --profile base.yaml", {"backend": "slurm", "profile": Path("base.yaml")}),
        ("--yes", {"yes": True}),
    ],
)
def test_options_of_prefetch(taken: Callable[..., Taken], words: str, changes: dict[str, Any]) -> None:
    assert taken("prefetch", "sweep.yaml", *words.split())[1] == replace(Options(), **changes)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("", {}),
        *SHARED,
        ("--out o", {"out": Path("o")}),
        ("--quiet", {"quiet": True}),
        ("--full", {"full": True}),
    ],
)
def test_options_of_trial(taken: Callable[..., Taken], words: str, changes: dict[str, Any]) -> None:
    sweep, options = taken("trial", "--version", "v3", "--seed", "4", "--base", "demo", *words.split())
    assert options == replace(Options(backend="inline"), **changes)
    assert (sweep.name, sweep.seeds) == ("trial-v3-demo", (4,))


def test_the_sweep_is_that_of_the_file_with_the_changes_of_the_options(
    taken: Callable[..., Taken], images: Path
) -> None:
    for command in ("run", "plan", "prefetch"):
        sweep, _ = taken(command, "sweep.yaml", "--data", str(images), "--set", "epochs=7", "--base", "demo")
        assert (sweep.base, sweep.data_root, sweep.data_source) == ("demo", images, "--data")
        assert sweep.layers["v7"][-1].settings == {"training.epochs": 7}
