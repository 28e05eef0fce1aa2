"""status, logs, cancel and retry as they are typed, on sweeps that run, ran, failed and were moved."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from orchestrator.monitor.status import StatusReader
from orchestrator.records.attempts import CANCELLED, FAILED, FINISHED, INTERRUPTED, AttemptFolder
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.results.store import ResultStore

FOLDER = "results/small"
LONG = {"grid": None, "list": [{"epochs": 2}, {"epochs": 100000}], "seeds": 1, "report": None}


def tree(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and "images" not in path.parts}


def records(place):
    return AttemptFolder(place / FOLDER / "attempts")


def states(place):
    if not (place / FOLDER / "sweep.json").exists():
        return {}
    return {trial.label: trial.state for trial in StatusReader(place / FOLDER).look().trials}


def test_status_of_a_finished_sweep(finished, command):
    before = tree(finished)
    ended = command("status", FOLDER)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[:2] == ["sweep:    small: Does [gamma] matter?", "trials:   4: 4 finished"]
    assert [line.split() for line in lines[5:]] == [
        [trial_id, f"focal_gamma={gamma}", f"seed={seed}", "finished", "1"]
        for trial_id, gamma, seed in zip(
            json.loads((finished / FOLDER / "sweep.json").read_text())["trials"],
            (0, 0, 2, 2),
            (0, 1, 0, 1),
            strict=True,
        )
    ]
    assert tree(finished) == before


def test_status_as_json_is_the_same_each_time(finished, command):
    first, second = command("status", FOLDER, "--json"), command("status", FOLDER, "--json")
    assert (first.code, first.err, first.out) == (0, "", second.out)
    told = json.loads(first.out)
    assert (told["sweep"], told["folder"], told["counts"]["finished"]) == ("small", FOLDER, 4)


def test_a_running_sweep_is_watched_and_a_trial_of_it_followed_until_they_end(place, features, edit, start, wait_until):
    edit(grid=None, list=[{"epochs": 100}], seeds=1, report=None)
    running = start("sweep.yaml", "--backend", "inline")
    wait_until(lambda: "running" in states(place).values())
    watching, following = start("status", FOLDER, "--watch"), start("logs", FOLDER, "epochs=100 seed=0", "-f")
    watched, followed = watching.end(), following.end()
    assert [(ended.code, ended.err) for ended in (watched, followed, running.end())] == [(0, "")] * 3
    assert [line.split("  ")[1] for line in watched.out.splitlines()] == ["1 running", "1 finished"]
    lines = [line.split("  ")[3:] for line in followed.out.splitlines()]
    assert [line[0] for line in lines].count("started") == 1
    assert ["cloth", "epoch 100/100"] in [line[:2] for line in lines]
    assert [line[0] for line in lines].count("finished") == 1
    assert lines[-1][:1] == ["finished"]
    assert lines[-1][1].startswith("image AUROC")
    (record,) = records(place).all()
    assert record.state == FINISHED


def test_ctrl_c_ends_watching_and_following_quietly_and_nothing_else(place, features, edit, start, wait_until):
    edit(**LONG)
    running = start("sweep.yaml", "--workers", "1")
    wait_until(lambda: states(place).get("epochs=100000 seed=0") == "running")
    for words in (("status", FOLDER, "--watch"), ("logs", FOLDER, "epochs=100000 seed=0", "-f")):
        watching = start(*words)
        assert watching.process.stdout.readline()
        watching.signal(signal.SIGINT)
        ended = watching.end()
        assert (ended.code, ended.err) == (0, "")
    assert states(place)["epochs=100000 seed=0"] == "running"
    running.signal(signal.SIGINT)
    assert running.end().code == 130
    assert states(place)["epochs=100000 seed=0"] == "interrupted"


def test_logs_by_id_beginning_and_label(finished, command):
    trial_id = json.loads((finished / FOLDER / "sweep.json").read_text())["trials"][2]
    by_id = command("logs", FOLDER, trial_id)
    assert (by_id.code, by_id.err) == (0, "")
    assert command("logs", FOLDER, trial_id[:5]).out == command("logs", FOLDER, "focal_gamma=2 seed=0").out == by_id.out
    told = [line.split("  ")[1:] for line in by_id.out.splitlines()]
    assert told[0][0] == "attempt 1"
    assert told[0][2:] == ["started"]
    assert ["bolt", "epoch 2/2"] in [line[2:4] for line in told]
    assert told[-1][2] == "finished"


def test_a_trial_of_which_nothing_was_told(finished, command):
    for name in ("parts", "attempts", "events"):
        shutil.rmtree(finished / FOLDER / name)
    assert command("logs", FOLDER, "focal_gamma=2 seed=0").out == "nothing told yet: focal_gamma=2 seed=0 is waiting\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "results/smal"), "results/smal: no such folder. Did you mean 'results/small'?"),
        (("status", FOLDER, "--json", "--watch"), "--json"),
        (("logs", "results", "abc"), "results: holds no sweep"),
        (("logs", FOLDER, "focal_gama=2 seed=0"), "is no trial of the sweep 'small'"),
        (("logs", FOLDER, "focal_gama=2 seed=0"), "Did you mean 'focal_gamma=2 seed=0'?"),
        (("logs", FOLDER, ""), "'': is no trial"),
        (("cancel", "results"), "results: holds no sweep"),
        (("cancel", FOLDER, "focal_gamma=2 seed=0", "zzz"), "'zzz': is no trial of the sweep 'small'"),
        (("retry", "results"), "results: holds no sweep"),
        (("statsu", FOLDER), "Did you mean 'status'?"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(finished, command, words, said):
    before = tree(finished)
    ended = command(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert tree(finished) == before


def test_the_beginning_of_several_ids_names_none(finished, command):
    path = finished / FOLDER / "sweep.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"trials": ["abc000000000", "abc111111111"], "labels": {}}))
    ended = command("logs", FOLDER, "abc")
    assert ended.code == 2
    assert "'abc': names 2 trials (abc000000000, abc111111111); give more of the id" in ended.err


def test_a_running_trial_is_cancelled_from_another_process_and_the_same_command_finishes_it(
    place, features, edit, start, command, wait_until, digits
):
    edit(grid=None, list=[{"epochs": 3}, {"epochs": 150}, {"epochs": 4}], seeds=1, report=None)
    running = start("sweep.yaml", "--workers", "1")
    wait_until(lambda: states(place).get("epochs=150 seed=0") == "running")
    ended = command("cancel", FOLDER, "epochs=150 seed=0", "epochs=4 seed=0", "epochs=3 seed=0")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "cancelled: 2 of 3 trials",
        "  1 running: stop at their next epoch",
        "  1 waiting: do not begin",
        "  1 finished: keep their results",
        "to run them after all: moleflow-sweep retry results/small",
    ]
    stopped = running.end()
    assert stopped.code == 1
    assert "cancelled: epochs=150 seed=0" in stopped.out
    assert "1 of 3 trials finished and kept" in stopped.out
    assert states(place) == {
        "epochs=3 seed=0": "finished",
        "epochs=150 seed=0": "cancelled",
        "epochs=4 seed=0": "cancelled",
    }
    (record,) = (r for r in records(place).all() if r.state != FINISHED)
    assert (record.state, record.content["error_kind"]) == (INTERRUPTED, CANCELLED)
    assert command("logs", FOLDER, "epochs=150 seed=0").out.splitlines()[-1].endswith("cancelled")

    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert set(states(place).values()) == {FINISHED}
    assert command("cancel", FOLDER).out == "nothing to cancel: 3 of 3 trials have finished\n"
    assert not (place / FOLDER / "cancelled").exists()


def test_cancelling_all_that_is_left_after_a_kill_and_retrying_it(place, features, edit, start, command, wait_until):
    edit(seeds=1, base={"extends": "base.yaml", "epochs": 30})
    running = start("sweep.yaml", "--workers", "1")
    wait_until(lambda: "running" in states(place).values())
    running.signal(signal.SIGKILL)
    running.end()
    wait_until(lambda: not running.members())
    assert sorted(states(place).values()) == ["failed", "waiting"]
    ended = command("cancel", FOLDER)
    assert ended.out.splitlines()[:3] == [
        "cancelled: 2 of 2 trials",
        "  1 failed: are not tried again",
        "  1 waiting: do not begin",
    ]
    assert sorted(states(place).values()) == ["cancelled", "failed"]
    shown = command("status", FOLDER).out
    assert "trials:   2: 1 failed, 1 cancelled" in shown
    assert UNSEEN in shown

    again = command("retry", FOLDER)
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[:2] == [
        "trials:   1 failed, 1 cancelled",
        f"command:  moleflow-sweep sweep.yaml --workers 1  (in {place})",
    ]
    assert set(states(place).values()) == {FINISHED}
    assert len(ResultStore(place / FOLDER).finished()) == 2
    assert json.loads((place / FOLDER / "sweep.json").read_text())["command"] == ["sweep.yaml", "--workers", "1"]
    assert command("retry", FOLDER).out == "trials:   2 finished\nnothing to retry: all of them have finished\n"


def test_retry_after_an_image_that_was_broken_and_is_mended(place, features, edit, images, start, command, wait_until):
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    edit(grid=None, list=[{"focal_gamma": 0}, {"focal_gamma": 2}], seeds=1, report=None)
    image = place / "images/cloth/train/good/003.png"
    whole = image.read_bytes()
    running = start("sweep.yaml", "--workers", "1")
    wait_until((place / FOLDER / "sweep.json").exists)  # It is planned, and its worker is not there yet.
    image.write_bytes(whole[: len(whole) // 2])
    assert running.end().code == 1
    assert set(states(place).values()) == {FAILED}
    shown = command("status", FOLDER).out
    assert "cloth/train/good/003.png" in shown
    told = command("logs", FOLDER, "focal_gamma=2 seed=0").out
    assert "Traceback (most recent call last):" in told
    assert "broken image" in told

    image.write_bytes(whole)
    assert command("retry", FOLDER).code == 0
    assert set(states(place).values()) == {FINISHED}
    assert sorted((r.attempt, r.state) for r in records(place).all()) == [(1, FAILED)] * 2 + [(2, FINISHED)] * 2


def test_retry_runs_the_command_where_it_was_typed(finished, command, edit, start):
    edit(seeds=1)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    shutil.rmtree(finished / FOLDER / "parts")
    assert set(states(finished).values()) == {"waiting"}
    elsewhere = finished / "elsewhere"
    elsewhere.mkdir()
    prefix = ("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(elsewhere))
    ended = start("retry", finished / FOLDER, prefix=prefix).end()
    assert (ended.code, ended.err) == (0, "")
    assert set(states(finished).values()) == {FINISHED}
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": []}, "does not say which command made it"),
        ({"typed_in": "/nowhere/at/all"}, "its command was typed in /nowhere/at/all, which is not there any more"),
        ({"command": ["sweep.yaml", "--out", "results/other"]}, "results/other: the folder was moved or copied"),
        ({"command": ["sweep.yaml", "--out=results/other"]}, "results/other: the folder was moved or copied"),
    ],
)
def test_retry_is_refused_where_the_command_cannot_be_run_again(finished, command, changes, said):
    path = finished / FOLDER / "sweep.json"
    plan = json.loads(path.read_text()) | {"typed_in": str(finished)} | changes
    path.write_text(json.dumps(plan))
    shutil.rmtree(finished / FOLDER / "parts")
    before = tree(finished)
    ended = command("retry", FOLDER)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert tree(finished) == before


@pytest.mark.parametrize("name", ["status", "logs", "cancel", "retry"])
def test_each_command_teaches_by_example(command, name):
    ended = command(name, "--help")
    assert ended.code == 0
    assert f"moleflow-sweep {name} results/NAME" in ended.out
