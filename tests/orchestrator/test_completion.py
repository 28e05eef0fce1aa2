"""What a shell offers after Tab, asked as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


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
    ],
)
def test_tab(words, expected):
    assert set(offered(*words)) == expected


def test_a_file_is_left_to_the_shell():
    assert offered("sweeps/v7") == []
