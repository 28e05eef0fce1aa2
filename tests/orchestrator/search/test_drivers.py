"""The drivers of a study: heartbeats, recovery after a dead driver, and two at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from optuna.trial import TrialState

from moleflow.cache.claim import try_claim
from moleflow.errors import InvalidInput
from orchestrator.execution.backend import SourceSignal
from orchestrator.search import drivers
from orchestrator.search.drivers import (
    DRIVER,
    check_study_owner,
    driver_heartbeat,
    fail_trials_of_dead_drivers,
    is_driver_alive,
    study_lock,
)


@pytest.fixture
def died(tmp_path):
    """Leave the claim of a driver whose process has ended, and return the driver's name."""

    def leave(folder: Path) -> str:
        code = (
            "import os, sys; from pathlib import Path; from orchestrator.search.drivers import driver_heartbeat\n"
            "with driver_heartbeat(Path(sys.argv[1])) as name: print(name, flush=True); os._exit(9)"
        )
        ended = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 9, ended.stderr
        return ended.stdout.strip()

    return leave


def test_a_driver_is_alive_while_its_block_lasts_and_not_once_its_process_is_gone(tmp_path, died):
    with driver_heartbeat(tmp_path) as name:
        assert is_driver_alive(tmp_path, name)
    assert not is_driver_alive(tmp_path, name)
    gone = died(tmp_path)
    assert (tmp_path / "drivers" / gone).exists()
    assert not is_driver_alive(tmp_path, gone)


def test_configurations_of_a_dead_driver_are_failed_and_queued_once(driven, died, tmp_path):
    name = died(tmp_path / "study")
    one = driven({"seeds": 2}, {"name": name}, trials=4)
    one.finish(one.ask(), 0.5)
    one.finish(one.ask(), 0.5)
    half, _, other = one.ask(), one.ask(), one.ask()
    one.finish(half, 0.3)
    assert one.states == ["COMPLETE", "RUNNING", "RUNNING"]
    lost = [trial.params for trial in one.trials[1:]]
    with driver_heartbeat(one.folder) as own:
        assert fail_trials_of_dead_drivers(one.study, one.folder, own) == 2
        assert fail_trials_of_dead_drivers(one.study, one.folder, own) == 0
        assert one.states == ["COMPLETE", "FAIL", "FAIL", "WAITING", "WAITING"]
        two = driven({"seeds": 2}, {"name": own, "stored": one.stored}, trials=4)
        ran = two.run(lambda _: 0.7)
    assert [trial.params for trial in two.trials[3:5]] == lost
    assert two.states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert two.trials[3].value == pytest.approx(0.5)
    assert half.id not in {trial.id for trial in ran}
    assert other.id in {trial.id for trial in ran}
    assert len(ran) == 1 + 2 + 2


def test_configurations_of_a_living_driver_keep_running(driven):
    with driver_heartbeat(driven().folder) as first, driver_heartbeat(driven().folder) as second:
        one, two = driven(None, {"name": first}), driven(None, {"name": second})
        one.ask()
        two.ask()
        assert fail_trials_of_dead_drivers(one.study, one.folder, first) == 0
        assert fail_trials_of_dead_drivers(two.study, two.folder, second) == 0
        assert one.states == ["RUNNING", "RUNNING"]


def test_a_death_between_queue_and_failure_queues_nothing_twice(driven):
    one = driven(None, {"name": "gone"}, trials=1)
    one.ask()
    one.study.enqueue_trial(one.trials[0].params, user_attrs={drivers.REPLACES: 0})
    taken = one.study.ask()  # Another driver was quick.
    taken.set_user_attr(DRIVER, "own")
    assert fail_trials_of_dead_drivers(one.study, one.folder, "own") == 1
    assert one.states == ["FAIL", "RUNNING"]


def test_a_driver_that_died_before_it_asked_for_every_knob_loses_none_that_was_fixed(driven):
    one = driven(
        {"seeds": 1}, trials=1, space={"learning_rate": {"loguniform": [1e-4, 1]}, "lora_rank": {"choice": [2, 4]}}
    )
    wanted = {"training.learning_rate": 0.5, "lora.rank": "4"}
    one.study.enqueue_trial(wanted)
    one.study.ask()
    assert fail_trials_of_dead_drivers(one.study, one.folder, "own") == 1
    one.study.ask()
    assert fail_trials_of_dead_drivers(one.study, one.folder, "own") == 1
    (ran,) = one.run(lambda _: 0.5)
    assert (ran.config.training.learning_rate, ran.config.lora.rank) == (0.5, 4)
    assert one.states == ["FAIL", "FAIL", "COMPLETE"]


def test_a_driver_that_died_before_its_sampler_said_anything_leaves_nothing_in_the_queue(driven):
    one = driven(None, None)
    one.study.ask()
    assert fail_trials_of_dead_drivers(one.study, one.folder, "own") == 1
    assert one.states == ["FAIL"]


def test_a_driver_waits_for_others_and_takes_over_from_a_dead_one(driven):
    one = driven({"seeds": 1}, {"name": "one"}, trials=2)
    two = driven({"seeds": 1}, {"name": "two"}, trials=2)
    first, second = one.ask(), two.ask()
    two.finish(second, 0.5)
    assert two.search.ask() is SourceSignal.WAIT
    assert two.search.other_drivers_run
    assert fail_trials_of_dead_drivers(two.study, two.folder, "two") == 1
    again = two.ask()
    assert again.id == first.id
    two.finish(again, 0.4)
    assert two.search.ask() is SourceSignal.DONE


def test_a_study_belongs_to_one_results_folder(driven, tmp_path):
    one = driven(None, {"url": f"sqlite:///{tmp_path}/study.db"})
    check_study_owner(one.study, one.folder)
    check_study_owner(one.study, one.folder)
    moved = one.folder.rename(tmp_path / "moved")
    check_study_owner(one.study, moved)
    with pytest.raises(InvalidInput, match="'small' there belongs to another results folder"):
        check_study_owner(one.study, tmp_path / "elsewhere")


def test_the_lock_of_a_dead_driver_is_taken_over(tmp_path):
    path = tmp_path / "drivers" / ".asking"
    claim = try_claim(path)
    claim.stop()
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"started": "0"}))
    with study_lock(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


DRIVE = """
import sys
import time
from pathlib import Path
from orchestrator.records.events import Event
from orchestrator.sweep.sweep import load_sweep
from orchestrator.search.drivers import driver_heartbeat, study_lock
from orchestrator.search.optuna_search import OptunaSearch
from orchestrator.search.space import Space
from orchestrator.search.initial_trials import enqueue_initial_trials
from orchestrator.search.storage import open_study
from orchestrator.sweep.trial import Inputs, Trial
from orchestrator.execution.backend import SourceSignal

folder, url = Path(sys.argv[2]), sys.argv[3] or None
sweep = load_sweep(Path(sys.argv[1]))
space = Space(sweep, lambda _: Inputs({"bolt": "b", "cloth": "c"}, "w", "made up"))
with driver_heartbeat(folder) as name:
    study = open_study(sweep, folder, url)
    with study_lock(folder):
        enqueue_initial_trials(study, space, folder)
    search = OptunaSearch(study, space, lambda _: {}, name, lambda _: None, lock=lambda: study_lock(folder))
    while (answer := search.ask()) is not SourceSignal.DONE:
        if isinstance(answer, Trial):
            (folder / f"at-{name}").touch()
            while len(list(folder.glob("at-*"))) < 2:
                time.sleep(0.01)
            facts = {"validation": {"image_auroc": 0.5}, "parameters": 1, "cost": 1.0}
            search.tell(answer, Event("finished", answer.id, facts))
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_two_processes_share_a_study_without_a_configuration_twice_and_within_the_budget(
    sweep_of, tmp_path, driven, kind
):
    trials = 10
    sweep = sweep_of({"seeds": 1}, trials=trials)
    folder = tmp_path / "study"
    folder.mkdir()
    url = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else ""
    words = [sys.executable, "-c", DRIVE, sweep.source, str(folder), url]
    with ExitStack() as running:
        both = [running.enter_context(subprocess.Popen(words, stderr=subprocess.PIPE, text=True)) for _ in range(2)]
        for process in both:
            _, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
    study = driven({"seeds": 1}, {"url": url or None}, trials=trials).study
    found = study.get_trials()
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * trials
    assert len({str(trial.params) for trial in found}) == trials
    shares = [sum(t.user_attrs[DRIVER] == name for t in found) for name in {t.user_attrs[DRIVER] for t in found}]
    assert len(shares) == 2
    assert found[0].params == {"training.learning_rate": 1e-4}  # The base, once, however many begin.
