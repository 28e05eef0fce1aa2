"""The words that a shell offers after Tab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.records.sweep_folder import read_sweep_folder

Offered = Callable[..., set[str]]


@pytest.fixture
def offered(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Offered:
    """The function that asks for the words after some others, as bash does."""

    def ask(*words: str) -> set[str]:
        monkeypatch.setenv("_MOLEFLOW_SWEEP_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["moleflow-sweep", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        ended = command()
        assert (ended.code, ended.err) == (0, "")
        return set(ended.out.split())

    return ask


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("rep",), {"report", "reproduce"}),
        (("run", "--ba"), {"--base", "--backend"}),
        (("run", "--backend", "s"), {"slurm"}),
        (("run", "--base", "dem"), {"demo"}),
        (("run", "--set", "focal_"), {"focal_gamma=", "focal_form=", "focal_detach="}),
        # A word offered alone gets a space behind it, so `focal_form=` is offered with its values.
        (("run", "--set", "focal_f"), {"focal_form=joint", "focal_form=per_dim", "focal_form=relative"}),
        (("run", "--set", "focal_g"), {"focal_gamma=", "focal_gamma=0"}),
        (("run", "--set", "focal_form=re"), {"focal_form=relative"}),
        (("run", "--set", "no_such_knob="), set()),
        (("run", "--set", "see"), set()),
        (("trial", "--version", "v4"), {"v4", "v4.1"}),
        (("sweeps/v7_gamma.yaml", "--ba"), {"--base", "--backend"}),
        (("sweeps/v7_gamma.yaml", "--backend", "sl"), {"slurm"}),
        (("export", "results/x", "--what", "s"), {"scores"}),
        (("export", "results/x", "--format", "l"), {"latex"}),
        (("report", "results/x", "--format", "m"), {"markdown"}),
        (("report", "results/x", "--split", "v"), {"validation"}),
        (("cache", "--clear", "f"), {"features"}),
    ],
)
def test_tab_offers_the_words_that_fit(offered, words, expected):
    assert offered(*words) == expected


def test_a_file_is_left_to_the_shell(offered):
    assert offered("sweeps/v7") == set()


def test_a_trial_of_a_results_folder(offered, small_run):
    ids = set(read_sweep_folder(small_run / "results/small").trial_ids)
    assert offered("logs", str(small_run / "results/small"), "") == ids
    assert offered("logs", str(small_run), "") == set()
