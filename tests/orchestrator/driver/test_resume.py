"""A sweep that is started again runs its unfinished trials, however it was stopped."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestrator.records.attempts import DIED, FAILED, FINISHED, INTERRUPTED, RUNNING, WORKER_DIED, AttemptFolder
from orchestrator.results import part_index
from orchestrator.results.parts import file_stamps
from orchestrator.results.store import ResultStore

ATTEMPTS = Path("results/small/attempts")


def states(place):
    return {(r.trial_id, r.attempt): r.state for r in AttemptFolder(place / ATTEMPTS).all()}


def finished_rows(place):
    rows = ResultStore(place / "results/small").read("attempts").to_pylist()
    return sorted(row["trial_id"] for row in rows if row["status"] == "finished")


def test_running_again_trains_nothing(finished, command):
    before = {path: path.read_bytes() for path in finished.rglob("results/small/parts/**/*.parquet")}
    again = command("sweep.yaml", "--backend", "inline")
    assert again.code == 0
    assert "4 done, 0 to run" in again.out
    assert len(states(finished)) == 4
    assert before == {path: path.read_bytes() for path in finished.rglob("results/small/parts/**/*.parquet")}


def test_a_second_start_of_a_finished_sweep_checks_each_part_once(finished, command, monkeypatch):
    """The plan and the report share one scan of the results."""
    assert command("sweep.yaml", "--backend", "inline").code == 0
    checked = []
    monkeypatch.setattr(part_index, "file_stamps", lambda parts, name: checked.append(name) or file_stamps(parts, name))
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert sorted(checked) == sorted(p.stem for p in (finished / "results/small/parts/attempts").glob("2*.parquet"))


def test_an_extended_file_runs_only_what_is_new(finished, command, edit):
    before = set(states(finished))
    edit(grid={"focal_gamma": [0, 2], "nll_scale": ["sum", "per_dim"]}, seeds=2)
    again = command("sweep.yaml", "--backend", "inline")
    assert again.code == 0
    assert "4 done, 4 to run" in again.out
    after = states(finished)
    assert before < set(after)
    assert set(after.values()) == {FINISHED}
    assert {number for _, number in after} == {1}
    assert len(finished_rows(finished)) == 8


def test_moved_images_are_the_same_images(finished, command, images, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved") / "another name"
    shutil.copytree(images, elsewhere)
    assert (
        "4 done, 0 to run"
        in command("sweep.yaml", "--data", elsewhere, "--backend", "inline", "--out", "results/small").out
    )


def test_a_damaged_part_is_set_aside_said_and_run_again(finished, command, digits, small_run):
    part = max((finished / "results/small/parts/metrics").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    again = command("sweep.yaml", "--backend", "inline")
    assert again.code == 0
    assert part.name in again.out
    assert "its trials run again" in again.out
    assert not part.exists()
    assert (finished / "results/small/damaged/metrics" / part.name).exists()
    assert digits(finished / "results/small") == digits(small_run / "results/small")


def test_a_run_killed_before_its_first_part_starts_again(finished, command):
    shutil.rmtree(finished / "results/small/parts")
    shutil.rmtree(finished / ATTEMPTS)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert len(finished_rows(finished)) == 4


def test_kill_9_of_the_whole_group_loses_no_finished_trial(place, features, edit, start, command, digits, wait_until):
    edit(grid=None, list=[{"focal_gamma": 0}, {"focal_gamma": 2}, {"epochs": 60}], seeds=1, report=None)
    running = start("sweep.yaml", "--workers", "1")
    parts = place / "results/small/parts/attempts"
    wait_until(lambda: len(list(parts.glob("2*.parquet"))) > 0)
    records = AttemptFolder(place / ATTEMPTS)
    slow = wait_until(
        lambda: [r for r in records.all() if r.state == RUNNING and '"epochs":60' in r.content["row"]["config"]]
    )
    assert {record.content["pid"] for record in slow} <= running.members()
    running.signal(signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    wait_until(lambda: not running.members())

    kept, left = finished_rows(place), states(place)
    assert 0 < len(kept) < 3
    died = [key for key, state in left.items() if state == DIED and key[0] not in kept]
    assert died
    again = command("sweep.yaml", "--backend", "inline")
    assert again.code == 0
    assert f"{len(kept)} done, {3 - len(kept)} to run" in again.out
    assert "left no word" in again.out
    assert len(finished_rows(place)) == len(set(finished_rows(place))) == 3
    after = states(place)
    assert {after[key] for key in died} == {FAILED}
    assert {key for key, state in after.items() if state == FINISHED and key[1] == 1} >= {(trial, 1) for trial in kept}
    rows = ResultStore(place / "results/small").read("attempts").to_pylist()
    assert sorted((r["trial_id"], r["attempt"]) for r in rows if r["error_kind"] == WORKER_DIED) == sorted(died)

    disturbed = digits(place / "results/small")
    for name in ("results", "cache/stages"):
        shutil.rmtree(place / name)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert digits(place / "results/small") == disturbed


@pytest.mark.process
def test_a_worker_killed_mid_trial_costs_one_attempt_and_is_replaced(place, features, edit, command, wait_until):
    edit(seeds=1, base="slow.yaml")
    (place / "slow.yaml").write_text("extends: base.yaml\ntraining: {epochs: 10}\n")
    killed = []

    def kill() -> None:
        first = wait_until(lambda: [r for r in AttemptFolder(place / ATTEMPTS).all() if r.state == RUNNING])[0]
        wait_until(lambda: list((place / "cache/stages/claims").glob("*")))
        os.kill(first.content["pid"], signal.SIGKILL)
        killed.append(first)

    killer = threading.Thread(target=kill)
    killer.start()
    ended = command("sweep.yaml", "--workers", "1")
    killer.join()
    assert ended.code == 0
    assert "it will be tried again" in ended.out
    first = killed[0]
    records = AttemptFolder(place / ATTEMPTS)
    assert [(r.attempt, r.state) for r in records.of_trial(first.trial_id)] == [(1, FAILED), (2, FINISHED)]
    assert records.of_trial(first.trial_id)[1].content["pid"] != first.content["pid"]
    assert "died by signal 9" in records.of_trial(first.trial_id)[0].content["error"]
    assert sorted(states(place).values()) == [FAILED, FINISHED, FINISHED]
    rows = {(r["trial_id"], r["attempt"]): r for r in ResultStore(place / "results/small").read("attempts").to_pylist()}
    row = rows[first.trial_id, 1]
    assert (row["status"], row["error_kind"]) == ("failed", WORKER_DIED)
    assert row["pid"] == first.content["pid"]
    assert row["config"] == rows[first.trial_id, 2]["config"]


@pytest.mark.process
# A terminal sends Ctrl-C to the whole group; `timeout` and service managers signal only the driver.
@pytest.mark.parametrize(
    ("stop", "kill"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)],
)
def test_it_stops_in_seconds_keeps_what_is_finished_and_says_how_to_go_on(
    stop, kill, place, features, edit, start, wait_until
):
    edit(grid=None, list=[{"epochs": 2}, {"epochs": 100000}], seeds=1, report=None)
    running = start("sweep.yaml", "--workers", "1")
    wait_until(lambda: sorted(states(place).values()) == [FINISHED, RUNNING])
    wait_until(lambda: len(list((place / "cache/stages/claims").glob("*"))) > 0)
    kill(running.process.pid, stop)
    ended = running.end(timeout=10)
    assert ended.code == 130
    assert "Traceback" not in ended.out + ended.err
    assert ended.err == ""
    told = re.search(r"1 of 2 trials finished and kept; to continue, run: (.*)", ended.out)
    assert told
    python, *words = shlex.split(told[1])
    assert words == ["-m", "orchestrator.cli", "sweep.yaml", "--workers", "1"]
    assert shutil.which(python, path=os.environ["PATH"]) is not None
    wait_until(lambda: not running.members())
    assert len(finished_rows(place)) == 1
    assert sorted(states(place).values()) == [FINISHED, INTERRUPTED]
    statuses = ResultStore(place / "results/small").read("attempts")["status"].to_pylist()
    assert sorted(statuses) == ["finished", "interrupted"]


def test_ctrl_c_stops_the_inline_backend_too(place, features, edit, command, wait_until):
    edit(grid=None, list=[{"epochs": 2}, {"epochs": 100000}], seeds=1, report=None)

    def interrupt() -> None:
        wait_until(lambda: sorted(states(place).values()) == [FINISHED, RUNNING])
        wait_until(lambda: len(list((place / "cache/stages/claims").glob("*"))) > 0)
        time.sleep(0.2)  # into its epochs
        os.kill(os.getpid(), signal.SIGINT)

    key = threading.Thread(target=interrupt)
    key.start()
    ended = command("sweep.yaml", "--backend", "inline")
    key.join()
    assert (ended.code, ended.err) == (130, "")
    assert "1 of 2 trials finished and kept" in ended.out
    assert sorted(states(place).values()) == [FINISHED, INTERRUPTED]
    assert not list((place / "cache/stages/claims").glob("*"))
