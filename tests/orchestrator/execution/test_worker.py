"""A worker: whatever happens in an attempt becomes its record, its row and an event."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
import yaml
from safetensors.torch import save_file
from threadpoolctl import threadpool_info

import orchestrator.execution.worker
from moleflow.cache.protect_planned import protect_planned_stages
from moleflow.errors import CodeChanged
from moleflow.features.timm_import import import_timm
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.attempt_row import first_row
from orchestrator.execution.worker import Worker
from orchestrator.records.attempts import FAILED, FINISHED, AttemptFolder
from orchestrator.records.events import Event
from orchestrator.records.sweep_folder import check_owner
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows
from orchestrator.sweep.sweep import load_sweep


@pytest.fixture
def prepared(place, features, edit):
    sweep = load_sweep(edit(grid=None, seeds=1, report=None))
    return prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))


@pytest.fixture
def work(prepared):
    """A worker of that sweep, and the events it tells."""
    told = []
    return Worker(replace(worker_config(prepared, Options()), backend="inline", worker="w"), told.append), told


def ended(worker, told, trial):
    worker.run(trial)
    worker.flush()
    return told[-1]


def test_threads_are_those_of_the_numeric_environment_in_numpy_too(work):
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert pools
    assert {pool["num_threads"] for pool in pools} == {1}


def test_a_trial_that_somebody_finished_meanwhile_is_not_run_again(prepared, work):
    (trial,) = prepared.trials
    assert ended(*work, trial).kind == "finished"
    assert ended(*work, trial).kind == "elsewhere"
    assert [(r.attempt, r.state) for r in AttemptFolder(prepared.folder / "attempts").all()] == [(1, FINISHED)]
    assert ResultStore(prepared.folder).read("attempts").num_rows == 1


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


def test_a_trial_that_somebody_is_at_is_left_to_them(prepared, work):
    (trial,) = prepared.trials
    theirs = AttemptFolder(prepared.folder / "attempts").begin(trial.id)
    assert ended(*work, trial).kind == "held"
    theirs.withdraw()
    assert ended(*work, trial).kind == "finished"


def test_a_finished_record_without_its_part_counts_for_nothing(prepared, work):
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


def test_rows_that_cannot_be_stored_fail_their_own_attempt_alone(prepared, work):
    worker, told = work
    refused = []
    for trial_id, seconds in (("1" * 12, 1.0), ("2" * 12, 1.0), ("3" * 12, float("nan"))):
        attempt = worker.attempts.begin(trial_id)
        now = datetime.now(UTC)
        ending = {"attempt": 1, "status": FINISHED, "started_at": now, "ended_at": now, "seconds_spent": seconds}
        row = first_row(worker.setup, worker.environment, prepared.trials[0]) | {"trial_id": trial_id} | ending
        event = Event("finished", trial_id, {"attempt": 1})
        worker.keep(
            attempt, FINISHED, AttemptRows(row), event, lambda error, of=trial_id: refused.append((of, str(error)))
        )
    worker.flush()
    assert [event.trial_id for event in told] == ["1" * 12, "2" * 12]
    assert ResultStore(prepared.folder).finished().keys() == {"1" * 12, "2" * 12}
    ((of, error),) = refused
    assert (of, "attempts.seconds_spent: NaN" in error) == ("3" * 12, True)


def test_a_start_that_was_cut_off_leaves_no_folder_of_another_sweep(tmp_path):
    (tmp_path / ".sweep.json.77.tmp").write_text("{")
    check_owner(tmp_path, "small")


def test_an_image_that_cannot_be_read_any_more_costs_its_map_and_nothing_else(place, images, features, edit):
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


def test_code_that_was_edited_under_the_process_ends_the_sweep(prepared, work, monkeypatch):
    def edited(*_):
        raise CodeChanged("backbone.py: the code changed while this process ran; start again")

    monkeypatch.setattr(orchestrator.execution.worker, "run_sequence", edited)
    end = ended(*work, prepared.trials[0])
    assert (end.kind, end.facts["error"]) == (
        "fatal",
        "backbone.py: the code changed while this process ran; start again",
    )


def test_weights_that_cannot_be_fetched_end_the_sweep_at_once_and_are_said_once(place, edit, command, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "orchestrator.driver.preflight.check_backbones", lambda *_: None
    )  # As if they went after the start.
    edit()
    ended = command("sweep.yaml", "--backend", "inline", "--quiet", "--set", "backbone.weights=pretrained")
    assert ended.code == 1
    assert ended.out.count("timm's weights of efficientnet_lite0 cannot be had") == 1
    assert "or take --base efficientnet, whose weights come with the install" in ended.out
    (record,) = AttemptFolder(next((place / "results").iterdir()) / "attempts").all()
    assert (record.state, record.content["error_kind"]) == (FAILED, "WeightsUnavailable")
