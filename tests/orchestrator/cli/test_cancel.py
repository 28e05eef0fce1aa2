"""The command `cancel` on trials in a queue and on trials that a search adds later."""

from __future__ import annotations

import json
import re
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


HOSTILE = ["--user=root", "7; id", "7_0", "7,8", "-7", "7 8", "", "x", "\u0667", 7, ["7"], {"a": 1}]


@pytest.mark.parametrize(
    ("key", "ids"),
    [
        *(("job_id", ids) for ids in HOSTILE),
        *((key, ids) for key in ("uid", "sweep", "elements", "submitted_at") for ids in ("7,8", 7, ["7"])),
    ],
)
def test_no_value_of_a_record_but_a_job_id_reaches_scancel(planned, command, monkeypatch, key, ids):
    jobs = job_folder(planned / FOLDER)
    first, second, *_ = trials(planned)
    array = jobs.set_job_id(jobs.add(new_submission("small", [[first], [second]], 20, 4.0)), "7")
    (path,) = jobs.folder.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: ids}))
    programs = planned / "bin"
    programs.mkdir()
    # A queue that knows whatever it is asked about.
    names = [array.name, f"moleflow-{ids}-{array.uid}", f"moleflow-small-{ids}"]
    lines = [f"{job}|{n}|PENDING|{name}|None" for job in ("7", f"{ids}") for n in (0, 1) for name in names]
    (programs / "queue").write_text("\n".join(lines))
    (programs / "squeue").write_text(f"#!/bin/sh\nexec /bin/cat {programs}/queue\n")
    (programs / "sacct").write_text("#!/bin/sh\n")
    (programs / "scancel").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {programs}/asked\n')
    for program in ("squeue", "sacct", "scancel"):
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    ended = command("cancel", FOLDER)
    assert (ended.code, ended.err) == (0, "")
    asked = (programs / "asked").read_text().splitlines() if (programs / "asked").exists() else []
    options = ["--quiet", f"--name={array.name}", "--state=PENDING"]
    assert [word for word in asked if word not in options and not re.fullmatch(r"7(_\d)?", word)] == []


@pytest.mark.parametrize("target", ["outside", "../outside", "missing"])
def test_a_link_out_of_the_folder_is_not_written_through(planned, command, contents, target):
    outside = planned / target if target == "outside" else planned / "results" / "outside"
    if target != "missing":
        outside.mkdir()
    (planned / FOLDER / "cancelled").symlink_to(planned / target if target != "../outside" else target)
    before = contents(planned)
    ended = command("cancel", FOLDER)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "cancelled: is a link to" in ended.err
    assert "out of the results folder; remove the link" in ended.err
    assert contents(planned) == before


def test_a_link_within_the_folder_is_followed(planned, command):
    (planned / FOLDER / "requests").mkdir()
    (planned / FOLDER / "cancelled").symlink_to("requests")
    assert command("cancel", FOLDER).code == 0
    assert [path.name for path in (planned / FOLDER / "requests").iterdir()] == ["all"]
