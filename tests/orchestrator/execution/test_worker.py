"""A worker: the end of an attempt becomes its record, its row and an event."""

from __future__ import annotations

import os
import shutil
import statistics
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
import yaml
from safetensors.torch import save_file
from threadpoolctl import threadpool_info

import orchestrator.execution.worker
import orchestrator.results.writer
from moleflow.cache.protect_planned import protect_planned_stages
from moleflow.cache.stage_state import Epoch
from moleflow.detection.detector_file import read_detector
from moleflow.errors import CodeChanged
from moleflow.features.timm_import import import_timm
from moleflow.training.sequence import TaskReport, run_sequence
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.attempt_row import first_row
from orchestrator.execution.signals import WorkerStopped
from orchestrator.execution.worker import Worker
from orchestrator.records.attempts import FAILED, FINISHED, AttemptFolder
from orchestrator.records.dead_attempts import UNSEEN, record_dead_attempts
from orchestrator.records.events import Event
from orchestrator.results.detector_files import detector_file, stored_detectors
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows
from orchestrator.sweep.sweep import load_sweep


@pytest.fixture
def prepared(place, features, edit):
    sweep = load_sweep(edit(grid=None, seeds=1, report=None))
    return prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))


@pytest.fixture
def work(prepared):
    """A worker of that sweep, and the list of its events."""
    told = []
    return Worker(replace(worker_config(prepared, Options()), backend="inline", worker="w"), told.append), told


def ended(worker, told, trial):
    worker.run(trial)
    worker.flush()
    return told[-1]


def test_numpy_uses_the_threads_of_the_numeric_environment(work):
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert pools
    assert {pool["num_threads"] for pool in pools} == {1}


def test_a_trial_that_another_worker_finished_is_not_run_again(prepared, work):
    (trial,) = prepared.trials
    assert ended(*work, trial).kind == "finished"
    assert ended(*work, trial).kind == "elsewhere"
    assert [(r.attempt, r.state) for r in AttemptFolder(prepared.folder / "attempts").all()] == [(1, FINISHED)]
    assert ResultStore(prepared.folder).read("attempts").num_rows == 1


def test_rows_of_trials_that_have_ended_are_stored_before_the_next_one_trains(prepared, work, monkeypatch):
    monkeypatch.setattr(orchestrator.results.writer, "PART_INTERVAL_S", 3600.0)
    worker, told = work
    store, (trial,), stored = ResultStore(prepared.folder), prepared.trials, {}
    seeds = ((7, "1" * 12), (8, "2" * 12))
    trials = [replace(trial, id=name, config=trial.config.model_copy(update={"seed": seed})) for seed, name in seeds]

    def listen(event):
        told.append(event)
        if event.kind == "epoch":
            stored[event.trial_id] = store.read("attempts").num_rows

    worker.events = listen
    for one in (trial, *trials):
        worker.run(one)
    assert [event.trial_id for event in told if event.kind == "finished"] == [trial.id, "1" * 12]
    assert stored == {trial.id: 0, "1" * 12: 1, "2" * 12: 2}


def test_a_plan_finds_the_stages_that_its_trials_have_stored(place, prepared, work):
    (trial,) = prepared.trials
    ended(*work, trial)
    stored = [place / path for path in (place / "cache").glob("stages/*/*/stage.json")]
    assert len(stored) == 2
    for path in stored:
        os.utime(path, (1, 1))
    protect_planned_stages(place / "cache", [trial.config.model_copy(update={"seed": 7})])
    assert {path.stat().st_mtime for path in stored} == {1}
    protect_planned_stages(place / "cache", [trial.config])
    assert all(path.stat().st_mtime > 1 for path in stored)


def test_a_trial_that_another_worker_is_running_is_held(prepared, work):
    (trial,) = prepared.trials
    theirs = AttemptFolder(prepared.folder / "attempts").begin(trial.id)
    assert ended(*work, trial).kind == "held"
    theirs.withdraw()
    assert ended(*work, trial).kind == "finished"


def test_the_rows_of_an_attempt_that_was_taken_for_dead_do_not_count(prepared, work):
    """Its host was suspended, say. It wakes up after another driver has written its end."""
    worker, told = work
    (trial,) = prepared.trials
    store = ResultStore(prepared.folder)

    def take_for_dead(config, context, observer):
        (record,) = worker.attempts.of_trial(trial.id)
        other = AttemptFolder(worker.attempts.folder)
        assert record_dead_attempts(other, store, [record], UNSEEN) == [record]
        return run_sequence(config, context, observer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.execution.worker.run_sequence", take_for_dead)
        assert ended(worker, told, trial).kind == "held"
    assert store.statuses() == {(trial.id, 1): "failed"}
    assert [record.state for record in worker.attempts.of_trial(trial.id)] == [FAILED]
    assert ended(worker, told, trial).kind == "finished"
    assert store.statuses() == {(trial.id, 1): "failed", (trial.id, 2): "finished"}


def test_an_attempt_whose_worker_has_claimed_its_end_gets_no_row_from_another(prepared, work, monkeypatch):
    """The worker is stopped between its claim and its part, and goes on later."""
    worker, told = work
    (trial,) = prepared.trials
    store, other = ResultStore(prepared.folder), AttemptFolder(worker.attempts.folder)
    write = worker.writer.flush

    def stop_before_the_part():
        assert record_dead_attempts(other, store, other.of_trial(trial.id), UNSEEN) == []
        return write()

    monkeypatch.setattr(worker.writer, "flush", stop_before_the_part)
    assert ended(worker, told, trial).kind == "finished"
    assert store.statuses() == {(trial.id, 1): "finished"}
    assert store.read("attempts").num_rows == 1


def test_a_finished_record_without_its_part_does_not_count(prepared, work):
    (trial,) = prepared.trials
    AttemptFolder(prepared.folder / "attempts").begin(trial.id).end(FINISHED)
    assert ended(*work, trial).kind == "finished"
    assert ResultStore(prepared.folder).finished()[trial.id].attempt == 2


def test_images_that_change_after_the_plan_fail_the_attempt(place, images, features, edit):
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    sweep = load_sweep(edit(grid=None, seeds=1, report=None))
    prepared = prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))
    first, second = sorted((place / "images/cloth/train/good").glob("*.png"))[:2]
    shutil.copy(first, second)
    told = []
    end = ended(Worker(worker_config(prepared, Options()), told.append), told, prepared.trials[0])
    assert (end.kind, end.facts["error_kind"]) == ("failed", "InvalidInput")
    assert "cloth: the images changed after the sweep was planned" in end.facts["error"]
    assert AttemptFolder(prepared.folder / "attempts").all()[0].state == FAILED
    row = ResultStore(prepared.folder).read("attempts").to_pylist()[0]
    assert (row["status"], "Traceback" in row["traceback"]) == ("failed", True)


def test_weights_that_are_replaced_after_the_plan_fail_the_attempt(place, edit):
    draws = torch.Generator().manual_seed(0)
    state = import_timm().create_model("efficientnet_lite0", num_classes=0).state_dict()
    save_file(state, place / "w.safetensors")
    base = yaml.safe_load((place / "base.yaml").read_text())
    sweep = edit(grid=None, seeds=1, report=None)
    base["backbone"]["weights"] = str(place / "w.safetensors")
    (place / "base.yaml").write_text(yaml.safe_dump(base))
    prepared = prepare(load_sweep(sweep), Options(out=place / "results/small", cache=place / "cache"))
    state["conv_stem.weight"] = torch.randn(state["conv_stem.weight"].shape, generator=draws)
    save_file(state, place / "w.safetensors")
    told = []
    end = ended(Worker(worker_config(prepared, Options()), told.append), told, prepared.trials[0])
    assert (end.kind, end.facts["error_kind"]) == ("failed", "InvalidInput")
    assert f"and was {prepared.trials[0].inputs.weights} when the sweep was planned" in end.facts["error"]
    assert "\n" not in end.facts["error"]


def test_the_record_carries_what_the_row_of_a_dead_attempt_needs(prepared, work):
    worker, told = work
    (trial,) = prepared.trials
    ended(worker, told, trial)
    row = ResultStore(prepared.folder).read("attempts").to_pylist()[0]
    kept = AttemptFolder(prepared.folder / "attempts").all()[0].content["row"]
    changed_later = {"seconds_reused", "flags"}
    assert {k: v for k, v in kept.items() if k not in changed_later} == {k: row[k] for k in kept.keys() - changed_later}


@pytest.fixture
def keeping(prepared):
    """A worker that keeps detectors, and the list of its events."""
    told = []
    setup = replace(worker_config(prepared, Options()), backend="inline", worker="w", keep=True)
    return Worker(setup, told.append), told


def test_a_detector_is_stored_before_the_rows_of_its_trial(prepared, keeping, monkeypatch):
    worker, told = keeping
    (trial,) = prepared.trials
    path, write, seen = detector_file(prepared.folder, trial.id, 1), worker.writer.flush, []

    def flush():
        seen.append(path.is_file())
        return write()

    monkeypatch.setattr(worker.writer, "flush", flush)
    assert ended(worker, told, trial).kind == "finished"
    assert seen
    assert all(seen)
    state = ResultStore(prepared.folder).read("attempts").to_pylist()[0]["state_digest"]
    assert read_detector(path).header.state_digest == state
    assert read_detector(path).header.names["trial"] == trial.id


def test_a_stage_that_is_lost_before_its_detector_is_stored_is_trained_again(prepared, keeping, monkeypatch):
    worker, told = keeping
    (trial,) = prepared.trials

    def lose_stages(*arguments):
        outcome = run_sequence(*arguments)
        shutil.rmtree(worker.setup.cache / "stages")
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.execution.worker.run_sequence", lose_stages)
        failed = ended(worker, told, trial)
    assert (failed.kind, failed.facts["error_kind"]) == ("failed", "Damaged")
    assert "left the cache before its detector was kept" in failed.facts["error"]
    assert stored_detectors(prepared.folder) == {}
    assert ended(worker, told, trial).kind == "finished"
    assert [*stored_detectors(prepared.folder)] == [(trial.id, 2)]


def keep_rows(work, prepared, trial_id, seconds, state=FINISHED, fail=lambda _: None):
    """Hand the worker an attempt of a made-up trial that took so many seconds."""
    worker, _ = work
    attempt = worker.attempts.begin(trial_id)
    now = datetime.now(UTC)
    ending = {"attempt": 1, "status": state, "started_at": now, "ended_at": now, "seconds_spent": seconds}
    row = first_row(worker.setup, worker.environment, prepared.trials[0]) | {"trial_id": trial_id} | ending
    worker.keep(attempt, state, AttemptRows(row), Event(state, trial_id, {"attempt": 1}), fail)


def test_rows_that_cannot_be_stored_fail_their_own_attempt_only(prepared, work):
    worker, told = work
    refused = []
    for trial_id, seconds in (("1" * 12, 1.0), ("2" * 12, 1.0), ("3" * 12, float("nan"))):
        keep_rows(work, prepared, trial_id, seconds, fail=lambda error, of=trial_id: refused.append((of, str(error))))
    worker.flush()
    assert [event.trial_id for event in told] == ["1" * 12, "2" * 12]
    assert ResultStore(prepared.folder).finished().keys() == {"1" * 12, "2" * 12}
    ((of, error),) = refused
    assert (of, "attempts.seconds_spent: NaN" in error) == ("3" * 12, True)


def test_a_failed_attempt_whose_row_cannot_be_stored_either_ends_its_own_trial_only(prepared, work):
    worker, told = work
    keep_rows(work, prepared, "1" * 12, 1.0)  # It is written at once, the next ones a second later.
    keep_rows(work, prepared, "2" * 12, float("nan"), state=FAILED)
    keep_rows(work, prepared, "3" * 12, 1.0)
    worker.flush()
    assert [event.trial_id for event in told] == ["1" * 12, "2" * 12, "3" * 12]
    assert ResultStore(prepared.folder).finished().keys() == {"1" * 12, "3" * 12}
    assert [record.state for record in worker.attempts.of_trial("2" * 12)] == [FAILED]


def test_the_cost_of_a_trial_includes_the_seconds_that_reused_stages_took(place, features, edit):
    sweep = load_sweep(edit(version="v3", grid={"image_score": ["max", "top_k"]}, seeds=1, report=None))
    prepared = prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))
    told = []
    worker = Worker(worker_config(prepared, Options()), told.append)
    ends = [ended(worker, told, trial) for trial in prepared.trials]
    store = ResultStore(prepared.folder)
    rows = {row["trial_id"]: row for row in store.read("attempts").to_pylist()}
    trained, reused = (rows[end.trial_id] for end in ends)
    assert trained["seconds_reused"] == 0.0
    assert reused["seconds_reused"] > 0.0
    assert ends[0].facts["cost"] == trained["seconds_spent"]
    assert ends[1].facts["cost"] == reused["seconds_spent"] + reused["seconds_reused"]
    # The event carries the mean over both classes after the last task.
    last = [r for r in store.read("metrics").to_pylist() if r["trial_id"] == ends[0].trial_id and r["after_task"] == 1]
    assert [row["task"] for row in last] == [0, 1]
    assert ends[0].facts["image_auroc"] == pytest.approx(statistics.mean(row["image_auroc"] for row in last))
    assert ends[0].facts["validation"] is None
    tasks = [event.facts for event in told if event.kind == "task"]
    assert [facts["reused"] for facts in tasks] == [False, False, True, True]
    diagonal = [r for r in store.read("metrics").to_pylist() if r["task"] == r["after_task"]]
    own = {r["after_task"]: r["image_auroc"] for r in diagonal if r["trial_id"] == ends[0].trial_id}
    assert [facts["image_auroc"] for facts in tasks[:2]] == [own[0], own[1]]


def test_a_failed_attempt_records_the_reused_seconds_of_all_its_tasks(prepared, work, monkeypatch):
    def sequence(_config, _context, observer):
        for task, seconds in ((0, 2.0), (1, 3.0)):
            observer.on_task(TaskReport(task, [], [], 1.0, seconds))
        raise ValueError("no")

    monkeypatch.setattr(orchestrator.execution.worker, "run_sequence", sequence)
    end = ended(*work, prepared.trials[0])
    assert (end.kind, end.facts["error"]) == ("failed", "ValueError: no")
    (row,) = ResultStore(prepared.folder).read("attempts").to_pylist()
    assert (row["seconds_reused"], row["error_kind"]) == (5.0, "ValueError")


@pytest.fixture
def interrupt(work, prepared, monkeypatch):
    """Run the trial until a stop after some epochs; `job` is the scheduler's; the end's event."""

    def run(epochs=0, job="7@uid", stop=WorkerStopped):
        def sequence(_config, _context, observer):
            for number in range(epochs):
                observer.on_epoch(0, Epoch(number + 1, 1.0, 1.0, 0.1, 1.0, 0.1))
            raise stop

        monkeypatch.setattr(orchestrator.execution.worker, "run_sequence", sequence)
        worker, told = work
        worker.setup = replace(worker.setup, job=job, time_min=20)
        with pytest.raises(stop):
            worker.run(prepared.trials[0])
        return told[-1]

    return run


@pytest.mark.parametrize("stop", [WorkerStopped, KeyboardInterrupt])
def test_an_interrupted_attempt_is_written_before_the_process_ends(prepared, interrupt, stop):
    interrupt(epochs=2)  # So that the next part is due only a second later.
    end = interrupt(epochs=3, stop=stop)
    assert (end.kind, end.facts["epochs"], end.facts["error_kind"]) == ("interrupted", 3, "Stop")
    rows = ResultStore(prepared.folder).read("attempts").to_pylist()
    assert [(row["attempt"], row["status"]) for row in rows] == [(1, "interrupted"), (2, "interrupted")]
    records = AttemptFolder(prepared.folder / "attempts").all()
    assert [(record.state, record.content["epochs"]) for record in records] == [("interrupted", 2), ("interrupted", 3)]


def test_a_trial_that_a_job_stops_twice_without_an_epoch_has_failed(interrupt):
    assert interrupt().kind == "interrupted"
    end = interrupt()
    assert (end.kind, end.facts["error_kind"]) == ("failed", "NoProgress")
    assert end.facts["error"].endswith("give it more time: resources.time_min is 20")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"epochs": 1}, {}),  # The first attempt made progress.
        ({}, {"epochs": 1}),  # The second one did.
        ({"job": None}, {"job": None}),  # No scheduler limits the time.
    ],
)
def test_a_trial_that_makes_progress_or_has_no_time_limit_stays_interrupted(interrupt, first, second):
    interrupt(**first)
    assert interrupt(**second).kind == "interrupted"


def test_a_stop_after_a_failure_is_an_interruption(prepared, work, interrupt):
    AttemptFolder(prepared.folder / "attempts").begin(prepared.trials[0].id).end(FAILED, error_kind="ValueError")
    assert interrupt().kind == "interrupted"


def test_an_unreadable_image_costs_its_map_only(place, images, features, edit):
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    sweep = load_sweep(edit(grid=None, seeds=1, report=None))
    prepared = prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))
    told = []

    def tell(event):
        told.append(event)
        if event.kind == "task" and event.facts["task"] == 1:  # From here on nothing but pictures is read of images.
            shutil.rmtree(place / "images/cloth/test/hole")

    end = ended(Worker(worker_config(prepared, Options()), tell), told, prepared.trials[0])
    assert end.kind == "finished"
    store = ResultStore(prepared.folder)
    assert {row["task_name"] for row in store.maps([end.trial_id]) if row["label"]} == {"bolt"}
    notes = [event.facts["note"] for event in told if event.kind == "note"]
    assert notes[0].startswith("no anomaly map of cloth/test/hole/")


def test_code_that_changes_while_the_process_runs_ends_the_sweep(prepared, work, monkeypatch):
    def edited(*_):
        raise CodeChanged("backbone.py: the code changed while this process ran; start again")

    monkeypatch.setattr(orchestrator.execution.worker, "run_sequence", edited)
    end = ended(*work, prepared.trials[0])
    assert (end.kind, end.facts["error"]) == (
        "fatal",
        "backbone.py: the code changed while this process ran; start again",
    )


def test_weights_that_cannot_be_fetched_end_the_sweep_with_one_message(place, edit, command, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "orchestrator.driver.preflight.check_backbones", lambda *_: None
    )  # As if they went after the start.
    edit()
    ended = command("sweep.yaml", "--backend", "inline", "--quiet", "--set", "backbone.weights=pretrained")
    assert ended.code == 1
    assert ended.out.count("timm's weights of efficientnet_lite0 cannot be fetched") == 1
    assert "weights come with the install" in ended.out
    (record,) = AttemptFolder(next((place / "results").iterdir()) / "attempts").all()
    assert (record.state, record.content["error_kind"]) == (FAILED, "WeightsUnavailable")
