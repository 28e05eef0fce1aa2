"""A driver that dies at any of its writes: the next driver completes the search."""

from __future__ import annotations

import itertools

import pytest
from optuna.storages.journal import JournalFileBackend

from orchestrator.search.drivers import fail_trials_of_dead_drivers
from orchestrator.search.initial_trials import enqueue_initial_trials
from orchestrator.search.tried_configurations import TRIALS
from orchestrator.sweep.trial import Trial

TRIALS_WANTED, SEEDS = 2, 2


class Killed(BaseException):
    """The process is gone; no handler runs."""


def begun(driven, name, stored, **search):
    one = driven(
        {"seeds": SEEDS},
        {"name": name, "stored": stored},
        trials=TRIALS_WANTED,
        space={"learning_rate": {"loguniform": [1e-4, 1e-1]}, "lora_rank": {"choice": [2, 4, 8]}},
        **search,
    )
    enqueue_initial_trials(one.study, one.space, one.folder)
    fail_trials_of_dead_drivers(one.study, one.folder, name)
    return one


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_search_ends_whole_whichever_write_was_the_last(driven, tmp_path, monkeypatch, when):
    append = JournalFileBackend.append_logs
    base = None
    for last in itertools.count():
        folder = tmp_path / f"{last}"
        folder.mkdir()
        writes = itertools.count()

        def die(self, logs, last=last, writes=writes):
            at_last = next(writes) == last
            if at_last and when == "before":
                raise Killed
            append(self, logs)
            if at_last:
                raise Killed

        stored, ran = {}, []

        def work(name, folder=folder, stored=stored, ran=ran):
            one = begun(
                lambda also, setting, **search: driven(also, {"folder": folder} | setting, **search), name, stored
            )
            while isinstance(trial := one.search.ask(), Trial):
                ran.append(trial.id)
                one.finish(trial, trial.config.training.learning_rate)
            return one

        with monkeypatch.context() as patch:
            patch.setattr(JournalFileBackend, "append_logs", die)
            try:
                one = work("first")
                killed = False
            except Killed:
                killed = True
        if killed:
            one = work("second")
        assert len(ran) == len(set(ran)) == TRIALS_WANTED * SEEDS, last
        assert one.states.count("COMPLETE") == TRIALS_WANTED
        assert set(one.states) <= {"COMPLETE", "FAIL"}
        found = [trial for trial in one.trials if trial.state.name == "COMPLETE"]
        assert {trial_id for trial in found for trial_id in trial.user_attrs[TRIALS]} == set(ran)
        base = base or one.space.parameters(one.space.base())
        assert base in [trial.params for trial in found]
        if not killed:
            break
    assert last > 15
