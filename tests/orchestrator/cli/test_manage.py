"""The commands status, logs, cancel and retry."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest

from orchestrator.cli import manage
from orchestrator.monitor.status import StatusReader
from orchestrator.records.attempts import CANCELLED, FAILED, FINISHED, INTERRUPTED, AttemptFolder
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.results.store import ResultStore

FOLDER = "results/small"
LONG = {"grid": None, "list": [{"epochs": 2}, {"epochs": 100000}], "seeds": 1, "report": None}


def records(place):
    return AttemptFolder(place / FOLDER / "attempts")


def states(place):
    if not (place / FOLDER / "sweep.json").exists():
        return {}
    return {trial.label: trial.state for trial in StatusReader(place / FOLDER).look().trials}


def test_status_of_a_finished_sweep(finished, command, contents):
    before = contents(finished)
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
    assert contents(finished) == before


def test_status_as_json_is_the_same_each_time(finished, command):
    first, second = command("status", FOLDER, "--json"), command("status", FOLDER, "--json")
    assert (first.code, first.err, first.out) == (0, "", second.out)
    told = json.loads(first.out)
    assert (told["sweep"], told["folder"], told["counts"]["finished"]) == ("small", FOLDER, 4)


@pytest.mark.process
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


@pytest.mark.process
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


def test_logs_without_a_trial_lists_the_trials(finished, command):
    sweep = read_sweep_folder(finished / "results/small")
    ended = command("logs", "results/small")
    assert ended.code == 0
    assert all(f"{trial_id}  {sweep.labels[trial_id]}" in ended.out for trial_id in sweep.trial_ids)
    assert ended.out.splitlines()[-1].endswith("logs results/small TRIAL")


def test_a_results_folder_is_suggested_by_its_name(finished, command):
    ended = command("status", "small")
    assert (ended.code, ended.err) == (2, "error: small: no such folder. Did you mean 'results/small'?\n")


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


def test_following_a_finished_trial_prints_its_log_and_ends(finished, command, monkeypatch):
    """`logs -f` prints each line once, although it reads the log twice before it ends."""
    monkeypatch.setattr(manage, "FOLLOW_EVERY_S", 0.0)
    log = command("logs", FOLDER, "focal_gamma=2 seed=0").out
    assert log
    assert command("logs", FOLDER, "focal_gamma=2 seed=0", "-f").out == log


def test_a_followed_trial_has_ended_when_it_is_seen_so_twice_in_a_row(monkeypatch):
    """Between an attempt and its retry a trial looks ended, but only once."""
    monkeypatch.setattr(manage, "FOLLOW_EVERY_S", 0.0)
    active = iter([True, False, True, False, False])
    ends = []

    def read_status():
        return SimpleNamespace(is_active=next(active), counts={"waiting": 0}, trials=[])

    def look(ended):
        ends.append(ended)
        return [f"line {len(ends)}"]

    assert list(manage._followed(look, read_status)) == [[f"line {n}"] for n in range(1, 6)]
    assert ends == [False, False, False, False, True]


def test_a_waiting_trial_is_followed_until_it_has_run(monkeypatch):
    """A waiting trial has not ended; one line says that nothing is logged yet."""
    monkeypatch.setattr(manage, "FOLLOW_EVERY_S", 0.0)
    waiting = iter([1, 1, 0, 0])
    trial = SimpleNamespace(label="gamma=0 seed=0", state="waiting", reason="")

    def read_status():
        return SimpleNamespace(is_active=False, counts={"waiting": next(waiting)}, trials=[trial])

    lines = list(manage._followed(lambda ended: ["finished"] if ended else [], read_status))
    assert lines == [["nothing logged yet: gamma=0 seed=0 is waiting"], [], [], ["finished"]]


def test_waiting_trials_are_cancelled_and_retried(finished, command):
    """Trials without results are cancelled, and `retry` runs them in the sweep's own folder."""
    path = finished / FOLDER / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"typed_in": str(finished)}))
    for name in ("parts", "attempts", "events"):
        shutil.rmtree(finished / FOLDER / name)
    assert command("cancel", FOLDER).out.splitlines() == [
        "cancelled: 4 of 4 trials",
        "  4 waiting: do not begin",
        "to run them again: moleflow-sweep retry results/small",
    ]
    assert set(states(finished).values()) == {"cancelled"}
    ended = command("retry", FOLDER, "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[:2] == [
        "trials:   4 cancelled",
        f"command:  moleflow-sweep sweep.yaml --backend inline --quiet  (in {finished})",
    ]
    assert set(states(finished).values()) == {FINISHED}


def test_a_retry_that_fails_says_to_retry(place, features, edit, command):
    """The command to continue is the one that was typed: first the sweep's own, then `retry`."""
    diverging = {"learning_rate": 1e30, "optimizer": "adamw", "gradient_clip": None}
    edit(grid=None, list=[diverging], seeds=1, retries=0, report=None)
    first = command("sweep.yaml", "--backend", "inline")
    assert (first.code, states(place)) == (1, dict.fromkeys(states(place), "failed"))
    said = "0 of 1 trial finished and kept; to continue, run: moleflow-sweep"
    assert f"{said} sweep.yaml --backend inline\n" in first.out
    second = command("retry", FOLDER, "--yes")
    assert second.code == 1
    assert f"{said} retry results/small --yes\n" in second.out
    assert {record.attempt for record in records(place).all()} == {1, 2}


def test_a_trial_of_which_nothing_was_told(finished, command):
    for name in ("parts", "attempts", "events"):
        shutil.rmtree(finished / FOLDER / name)
    assert (
        command("logs", FOLDER, "focal_gamma=2 seed=0").out == "nothing logged yet: focal_gamma=2 seed=0 is waiting\n"
    )


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
def test_mistakes_are_one_line_and_write_nothing(finished, command, contents, words, said):
    before = contents(finished)
    ended = command(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert contents(finished) == before


def test_forty_trials_are_shown_or_all_of_them(finished, command):
    path = finished / FOLDER / "sweep.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"trials": plan["trials"] + [f"{n:012x}" for n in range(50)]}))
    assert command("status", FOLDER).out.endswith(
        "\n14 more trials are left out (10 waiting, 4 finished); --all shows them\n"
    )
    everything = command("status", FOLDER, "--all").out
    assert ("left out" in everything, everything.count(" waiting")) == (False, 1 + 50)


def test_a_watched_sweep_shows_what_fits_the_terminal_or_all_of_it(finished, command, monkeypatch):
    """Rich takes these variables for a terminal of eight lines."""
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "120"), ("LINES", "8")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "more trials are left out" in command("status", FOLDER, "--watch").out
    assert "more trials are left out" not in command("status", FOLDER, "--watch", "--all").out


def test_failed_trials_are_cancelled_too(finished, command):
    shutil.rmtree(finished / FOLDER / "parts")
    shutil.rmtree(finished / FOLDER / "attempts")
    trial_id = json.loads((finished / FOLDER / "sweep.json").read_text())["trials"][0]
    records(finished).begin(trial_id).end("failed", error="no luck")
    assert command("cancel", FOLDER, trial_id).out.splitlines()[:2] == [
        "cancelled: 1 of 4 trials",
        "  1 failed: are not retried",
    ]


def test_a_search_is_retried_although_all_its_trials_have_finished(finished, command):
    """Only the search itself knows if it is over; without a terminal nothing runs."""
    path = finished / FOLDER / "sweep.json"
    plan = json.loads(path.read_text()) | {"typed_in": str(finished)}
    path.write_text(json.dumps(plan))
    done = command("retry", FOLDER)
    assert (done.code, done.out.splitlines()[1:]) == (0, ["nothing to retry: all of them have finished"])
    path.write_text(json.dumps(plan | {"tabled": plan["trials"]}))
    search = command("retry", FOLDER)
    assert (search.code, search.out.splitlines()[1]) == (
        2,
        f"command:  moleflow-sweep sweep.yaml --backend inline --quiet  (in {finished})",
    )
    assert "no terminal to ask on" in search.err


def test_a_sign_that_a_terminal_lacks_is_shown_as_a_question_mark(finished, command, monkeypatch):
    path = finished / FOLDER / "sweep.json"
    ids = [f"abc{n:09}" for n in range(4)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trials": ids, "labels": {}}))
    page = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(page, encoding="ascii", write_through=True))
    assert command("logs", FOLDER, "abc").code == 2
    assert page.getvalue().decode("ascii") == (
        f"error: 'abc': names 4 trials ({', '.join(ids[:3])}, ?); give more of the id\n"
    )


def test_the_beginning_of_several_ids_names_none(finished, command):
    path = finished / FOLDER / "sweep.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"trials": ["abc000000000", "abc111111111"], "labels": {}}))
    ended = command("logs", FOLDER, "abc")
    assert ended.code == 2
    assert "'abc': names 2 trials (abc000000000, abc111111111); give more of the id" in ended.err


@pytest.mark.process
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
        "to run them again: moleflow-sweep retry results/small",
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


@pytest.mark.process
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
        "  1 failed: are not retried",
        "  1 waiting: do not begin",
    ]
    assert sorted(states(place).values()) == ["cancelled", "failed"]
    shown = command("status", FOLDER).out
    assert "trials:   2: 1 failed, 1 cancelled" in shown
    assert UNSEEN in shown

    again = command("retry", FOLDER, "--yes")
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[:2] == [
        "trials:   1 failed, 1 cancelled",
        f"command:  moleflow-sweep sweep.yaml --workers 1  (in {place})",
    ]
    assert set(states(place).values()) == {FINISHED}
    assert len(ResultStore(place / FOLDER).finished()) == 2
    assert json.loads((place / FOLDER / "sweep.json").read_text())["command"] == ["sweep.yaml", "--workers", "1"]
    assert command("retry", FOLDER).out == "trials:   2 finished\nnothing to retry: all of them have finished\n"


@pytest.mark.process
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
    assert command("retry", FOLDER, "--yes").code == 0
    assert set(states(place).values()) == {FINISHED}
    assert sorted((r.attempt, r.state) for r in records(place).all()) == [(1, FAILED)] * 2 + [(2, FINISHED)] * 2


@pytest.mark.process
def test_retry_runs_the_command_where_it_was_typed(finished, command, edit, start):
    edit(seeds=1)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    shutil.rmtree(finished / FOLDER / "parts")
    assert set(states(finished).values()) == {"waiting"}
    elsewhere = finished / "elsewhere"
    elsewhere.mkdir()
    prefix = ("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(elsewhere))
    ended = start("retry", finished / FOLDER, "--yes", prefix=prefix).end()
    assert (ended.code, ended.err) == (0, "")
    assert set(states(finished).values()) == {FINISHED}
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": []}, "does not say which command made it"),
        ({"typed_in": "/nowhere/at/all"}, "its command was typed in /nowhere/at/all, which does not exist any more"),
        ({"command": ["sweep.yaml", "--out", "results/other"]}, "results/other: the folder was moved or copied"),
        ({"command": ["sweep.yaml", "--out=results/other"]}, "results/other: the folder was moved or copied"),
        # Of an option that is given twice, the last one counts.
        (
            {"command": ["sweep.yaml", "--out", "results/small", "--out", "results/other"]},
            "results/other: the folder was moved or copied",
        ),
    ],
)
def test_retry_is_refused_where_the_command_cannot_be_run_again(finished, command, contents, changes, said):
    path = finished / FOLDER / "sweep.json"
    plan = json.loads(path.read_text()) | {"typed_in": str(finished)} | changes
    path.write_text(json.dumps(plan))
    shutil.rmtree(finished / FOLDER / "parts")
    before = contents(finished)
    ended = command("retry", FOLDER, "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert said in ended.err
    if plan["command"]:
        assert ended.err.endswith(f"{shlex.join(plan['command'])} --out {FOLDER}\n")
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["status", "logs", "cancel", "retry"])
def test_each_command_teaches_by_example(command, name):
    ended = command(name, "--help")
    assert ended.code == 0
    assert f"moleflow-sweep {name} results/NAME" in ended.out
