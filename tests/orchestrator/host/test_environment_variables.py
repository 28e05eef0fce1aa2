"""Environment variables of worker processes."""

from __future__ import annotations

import os

from orchestrator.host.environment_variables import set_variables, thread_variables


def test_threads_limit_every_numeric_library():
    assert thread_variables(3) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "NUMEXPR_NUM_THREADS": "3",
    }


def test_variables_are_set_inside_and_restored_after_an_error(monkeypatch):
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.delenv("NEW", raising=False)
    block = set_variables({"KEPT": "inside", "NEW": "1"})
    block.__enter__()
    assert (os.environ["KEPT"], os.environ["NEW"]) == ("inside", "1")
    assert not block.__exit__(ValueError, ValueError("inside"), None)
    assert os.environ["KEPT"] == "before"
    assert "NEW" not in os.environ
