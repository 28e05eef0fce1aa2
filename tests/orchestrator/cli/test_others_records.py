"""Records and logs that others wrote: values of any kind, and pipes and folders in their places."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from moleflow.owner import process_identity
from orchestrator.monitor.log_watcher import LogWatcher
from orchestrator.monitor.status import StatusReader
from orchestrator.monitor.trial_log import TrialLog
from orchestrator.records.attempts import AttemptFolder
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.results.store import ResultStore

TRIAL = "0123456789ab"
RECORD = {"trial_id": TRIAL, "attempt": 1, "state": "failed", "started_at": 1e9, "error": "no luck"}
EPOCH = {
    **{"time": 1e9, "kind": "epoch", "trial_id": TRIAL, "attempt": 1, "worker": "w", "task": 0, "tasks": 2},
    **{"task_name": "leather", "epoch": 1, "epochs": 2, "loss": 1.5},
}
FINISHED = {
    **{"time": 1e9, "kind": "finished", "trial_id": TRIAL, "attempt": 1, "worker": "w", "seconds": 5.0},
    **{"image_auroc": 0.9, "validation": None},
}
JUNK = [3, -1, 1e99, float("nan"), 10**400, True, None, "x", [], ["x"], {}, {"worker": 3}, {"worker": "../../w"}, "\0"]
NAMES = {*RECORD, "ended_at", "seconds", "epochs", "stall_min", "row", "host", "pid", "job", "error_kind", "traceback"}
COMMANDS = [("status",), ("status", "--json"), ("logs", TRIAL), ("report", "--html"), ("cancel",), ("retry",)]


@pytest.fixture
def folder(finished: Path) -> Path:
    """The results of the small sweep, whose plan holds one more trial that is not finished."""
    folder = finished / "results/small"
    sweep = json.loads((folder / "sweep.json").read_text())
    sweep["trials"].append(TRIAL)
    sweep["typed_in"] = str(finished)
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return folder


def write_record(folder: Path, content: object) -> Path:
    path = folder / "attempts" / f"{TRIAL}-1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_log(folder: Path, *lines: object) -> Path:
    path = folder / "events" / "w.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def assert_readable(folder: Path, command) -> None:
    """Every command on the folder says what it always says."""
    for words in COMMANDS:
        ended = command(words[0], folder, *words[1:])
        assert "Traceback" not in ended.err, words
        assert "no worker writes" not in ended.err, words
        assert ended.code == (2 if words[0] == "retry" else 0), (words, ended.err)
    watch(folder)


def watch(folder: Path) -> None:
    """Make the picture that `status --watch` draws."""
    watcher = LogWatcher(folder)
    for _ in range(2):
        watcher.snapshot(StatusReader(folder).look())
    watcher.close()


@pytest.mark.parametrize("state", ["running", "failed", "finished"])
def test_a_value_of_any_kind_in_a_record_stops_no_command(folder, command, state):
    for name in NAMES:
        for junk in JUNK:
            write_record(folder, RECORD | {"state": state, name: junk})
            (trial,) = StatusReader(folder).look([TRIAL]).trials
            assert trial.state in ("failed", "running", "unknown", "waiting", "pruned"), (name, junk)
            assert TrialLog(folder, TRIAL).read_new() or trial.state in ("running", "unknown"), (name, junk)
    for junk in JUNK[:3]:
        write_record(folder, RECORD | {"state": state} | dict.fromkeys(NAMES - {"state"}, junk))
        assert_readable(folder, command)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"x"', "[" * 100_000, '{"state": 3}', "\udcff"])
def test_any_json_in_the_place_of_a_record_stops_no_command(folder, command, text):
    write_record(folder, "x").write_bytes(text.encode(errors="surrogateescape"))
    assert_readable(folder, command)


@pytest.mark.parametrize("state", ["forged", 3, ["failed"]])
def test_a_state_that_no_worker_writes_is_that_of_a_damaged_record(folder, state):
    """It may run for as long as the file is touched, and has died then."""
    path = write_record(folder, RECORD | {"state": state})
    (trial,) = StatusReader(folder).look([TRIAL]).trials
    assert trial.state == "running"
    os.utime(path, (1e9, 1e9))
    (trial,) = StatusReader(folder).look([TRIAL]).trials
    assert (trial.state, trial.error) == ("failed", UNSEEN)


@pytest.mark.parametrize("event", [EPOCH, FINISHED], ids=["epoch", "finished"])
def test_a_value_of_any_kind_in_a_log_stops_no_command(folder, command, event):
    write_record(folder, RECORD | {"state": "running", "row": {"worker": "w"}, "stall_min": 1})
    for name in event:
        write_log(folder, *({**event, name: junk} for junk in JUNK))
        watch(folder)
        TrialLog(folder, TRIAL).read_new()
    lines = [{**event, name: junk} for name in event for junk in JUNK]
    lines += [{key: value for key, value in event.items() if key != name} for name in event]
    write_log(folder, *lines, *JUNK, "[" * 100_000, event)
    assert_readable(folder, command)
    shown = command("logs", folder, TRIAL).out
    assert "epoch 1/2  loss 1.5" in shown or "finished  image AUROC 0.9000  5.0 s" in shown


def test_lines_before_the_last_ones_of_a_long_log_are_checked_too(folder):
    filler = {"time": 1.0, "kind": "note", "trial_id": TRIAL, "note": "x" * 1000}
    write_log(folder, *({**FINISHED, "seconds": junk} for junk in JUNK), {"kind": "finished"}, *[filler] * 300)
    watch(folder)


@pytest.mark.process
@pytest.mark.parametrize("words", [("status",), ("logs", TRIAL), ("cancel",)], ids=" ".join)
def test_pipes_in_the_places_of_logs_and_records_do_not_block(folder, start, words):
    record = write_record(folder, RECORD | {"state": "running", "row": {"worker": "w"}})
    os.utime(record, (1e9, 1e9))
    pipes = [folder / "events" / "w.jsonl", folder / "slurm" / "x.json", record.with_suffix(".stalled")]
    for path in pipes:
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
    ended = start(words[0], folder, *words[1:]).end(timeout=60)
    assert (ended.code, ended.err) == (0, "")
    record.unlink()
    os.mkfifo(record)
    ended = start(words[0], folder, *words[1:]).end(timeout=60)
    assert (ended.code, ended.err) == (1, f"error: {record}: it is no regular file\n")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_folders_in_the_places_of_logs_and_records_are_one_line_or_nothing(folder, command, words):
    (folder / "events" / "w.jsonl").mkdir()
    (folder / "slurm" / "x.json").mkdir(parents=True)
    assert command(words[0], folder, *words[1:]).code == (2 if words[0] == "retry" else 0)
    record = folder / "attempts" / f"{TRIAL}-1.json"
    record.mkdir()
    ended = command(words[0], folder, *words[1:])
    assert (ended.code, ended.err.count("\n")) == ((0, 1) if words[0] == "report" else (1, 1))
    assert words[0] == "report" or ended.err == f"error: {record}: it is no regular file\n"


@pytest.fixture
def unfinished(finished: Path) -> tuple[Path, str]:
    """The folder of the small sweep without its results, and its first trial."""
    folder = finished / "results/small"
    for path in folder.glob("parts/*/*.parquet"):
        if "empty" not in path.name:
            path.unlink()
    shutil.rmtree(folder / "attempts")
    (folder / "attempts").mkdir()
    return folder, json.loads((folder / "sweep.json").read_text())["trials"][0]


def test_a_run_refuses_a_folder_in_the_place_of_a_record(unfinished, command):
    """Its trial could never begin."""
    folder, trial = unfinished
    record = folder / "attempts" / f"{trial}-1.json"
    record.mkdir()
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"attempts/{record.name}: cannot be written (it is no regular file)" in ended.err


@pytest.mark.parametrize("row", [{"worker": "w", "seed": "x"}, {"trial_id": 3}, {}, 3, None])
def test_a_run_ends_dead_attempts_whose_records_no_worker_wrote(unfinished, command, dead_pid, row):
    folder, trial = unfinished
    owner = {**process_identity(), "pid": dead_pid, "started": "x"}
    content = {"trial_id": trial, "attempt": 1, "state": "running", "started_at": 1e9, **owner, "row": row}
    (folder / "attempts" / f"{trial}-1.json").write_text(json.dumps(content))
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert set(ResultStore(folder).finished()) == set(json.loads((folder / "sweep.json").read_text())["trials"])
    assert AttemptFolder(folder / "attempts").of_trial(trial)[0].stored_state == "failed"


def test_a_record_whose_number_is_none_is_left_alone(folder):
    for number in ("0", "01", "9" * 40):
        (folder / "attempts" / f"{TRIAL}-{number}.json").write_text(json.dumps(RECORD))
    assert AttemptFolder(folder / "attempts").of_trials([TRIAL]) == {}
