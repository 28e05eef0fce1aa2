"""The command `cancel` on trials in a queue and on trials that a search adds later."""

from __future__ import annotations

import json
import shutil

import pytest

from orchestrator.backends.slurm.submissions import job_folder, new_submission
from orchestrator.monitor.status import StatusReader

FOLDER = "results/small"


@pytest.fixture
def planned(finished):
    """The folder of a sweep whose trials have not begun."""
    for name in ("parts", "attempts", "events"):
        shutil.rmtree(finished / FOLDER / name)
    return finished


def trials(place):
    return json.loads((place / FOLDER / "sweep.json").read_text())["trials"]


def test_queued_trials_are_withdrawn_from_slurm(planned, command, monkeypatch):
    jobs = job_folder(planned / FOLDER)
    first, second, *_ = trials(planned)
    array = jobs.set_job_id(jobs.add(new_submission("small", [[first], [second]], 20, 4.0)), "7")
    programs = planned / "bin"
    programs.mkdir()
    lines = f"7|0|PENDING|{array.name}|Priority\n7|1|RUNNING|{array.name}|None"
    (programs / "squeue").write_text(f"#!/bin/sh\necho '{lines}'\n")
    (programs / "scancel").write_text(f'#!/bin/sh\necho "$*" >> {programs}/asked\n')
    for program in ("squeue", "scancel"):
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    ended = command("cancel", FOLDER)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[:-1] == [
        "cancelled: 4 of 4 trials",
        "  2 queued: do not begin",
        "  2 waiting: do not begin",
        "withdrawn from the queue: 1",
    ]
    assert (programs / "asked").read_text().split()[-1] == "7_0"


def test_a_trial_that_a_search_adds_after_the_cancel_is_cancelled_too(planned, command):
    path = planned / FOLDER / "sweep.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"trials": plan["trials"][:3]}))
    assert command("cancel", FOLDER).out.startswith("cancelled: 3 of 3 trials\n")
    path.write_text(json.dumps(plan))
    assert StatusReader(planned / FOLDER).look().counts["cancelled"] == 4
