"""What a shell offers after Tab, asked as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.records.sweep_folder import read_sweep_folder


def offered(*words: str) -> list[str]:
    asked = {"COMP_WORDS": " ".join(["moleflow-sweep", *words]), "COMP_CWORD": str(len(words))}
    told = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli"],
        env=os.environ | asked | {"_MOLEFLOW_SWEEP_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stderr == ""
    return told.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("rep",), {"report"}),
        (("run", "--ba"), {"--base", "--backend"}),
        (("run", "--backend", "s"), {"slurm"}),
        (("run", "--base", "de"), {"demo"}),
        (("run", "--set", "focal_f"), {"focal_form="}),
        (("run", "--set", "focal_form=re"), {"focal_form=relative"}),
        (("run", "--set", "no_such_knob="), set()),
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
def test_tab(words, expected):
    assert set(offered(*words)) == expected


def test_a_file_is_left_to_the_shell():
    assert offered("sweeps/v7") == []


def test_a_trial_of_a_results_folder(small_run):
    ids = set(read_sweep_folder(small_run / "results/small").trial_ids)
    assert set(offered("logs", str(small_run / "results/small"), "")) == ids
    assert offered("logs", str(small_run), "") == []


def test_bash_puts_no_space_after_an_equals_sign():
    typed = (
        f"{sys.executable} -m orchestrator.cli --show-completion; true"  # So that bash itself stays: it is looked for.
    )
    shown = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)
    assert "[[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace" in shown.stdout
