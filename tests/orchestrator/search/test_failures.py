"""The reason why a search found nothing."""

from __future__ import annotations

from optuna.trial import TrialState

from orchestrator.records.events import Event
from orchestrator.search.failures import failure_sentence


def fail(one, error):
    trial = one.ask()
    one.search.tell(trial, Event("failed", trial.id, {"error": error}))


def test_the_commonest_error_is_named_once_whatever_its_numbers(driven):
    one = driven({"seeds": 1}, trials=4)
    assert failure_sentence(one.study) == ""
    for error in ("OSError: full", "Diverged: task 1, epoch 3", "Diverged: task 0, epoch 12"):
        fail(one, error)
    assert failure_sentence(one.study) == (
        "each configuration failed; the commonest error, 2 of 3: Diverged: task 1, epoch 3"
    )


def test_one_complete_or_pruned_configuration_is_an_outcome(driven):
    for ends in ("finish", "prune"):
        one = driven({"seeds": 1}, trials=40)
        fail(one, "OSError: full")
        trial = one.ask()
        one.finish(trial, 0.5) if ends == "finish" else one.end(trial, "pruned")
        assert failure_sentence(one.study) == ""


def test_a_configuration_whose_driver_died_gives_no_reason(driven):
    one = driven({"seeds": 1}, trials=4)
    one.ask()
    (running,) = one.study.get_trials(deepcopy=False)
    one.study.tell(running.number, state=TrialState.FAIL)
    assert failure_sentence(one.study) == ""
    fail(one, "OSError: full")
    assert failure_sentence(one.study).endswith("1 of 1: OSError: full")
