"""Trials taken back: by drivers before they are handed out, by workers in the middle of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator import launch
from orchestrator.attempts import CANCELLED, FINISHED, INTERRUPTED, AttemptFolder
from orchestrator.cancellation import Cancellations
from orchestrator.events import Event
from orchestrator.runner import TrialSource
from orchestrator.search import PlannedTrials
from orchestrator.spec import load_sweep
from orchestrator.work import Pause, WorkItem
from orchestrator.worker import Worker


def test_marks_hold_for_one_trial_or_for_all_until_they_are_cleared(tmp_path: Path) -> None:
    marks = Cancellations(tmp_path)
    assert not marks.holds("0123456789ab")
    marks.add(["0123456789ab"])
    assert marks.holds("0123456789ab")
    assert not marks.holds("ba9876543210")
    marks.add(None)
    assert marks.holds("ba9876543210")
    marks.clear()
    assert not marks.holds("0123456789ab")


def test_a_cancelled_trial_is_not_handed_out_and_the_others_are(place, features, edit) -> None:
    prepared = launch.prepare(load_sweep(edit()), launch.Options(out=place / "results/small", cache=place / "cache"))
    unwanted = {prepared.trials[1].id}
    source = TrialSource(PlannedTrials(prepared.trials), prepared.sweep.resources, 0, cancelled=unwanted.__contains__)
    handed = []
    while isinstance(item := source.next(), WorkItem):
        handed += item.trial_ids
        source.events(Event("finished", item.trial_ids[0]))
    assert item is Pause.DONE
    assert handed == [trial.id for trial in prepared.trials if trial.id not in unwanted]
    assert source.tally.cancelled == list(unwanted)


def test_a_running_trial_ends_at_the_next_epoch_and_runs_again_when_it_is_wanted_again(place, features, edit) -> None:
    sweep = load_sweep(edit(grid=None, seeds=1, report=None))
    prepared = launch.prepare(sweep, launch.Options(out=place / "results/small", cache=place / "cache"))
    (trial,) = prepared.trials
    marks, told = Cancellations(prepared.folder), []

    def tell(event: Event) -> None:
        told.append(event)
        if event.kind == "started":
            marks.add([trial.id])

    worker = Worker(replace(launch.setup(prepared, launch.Options()), worker="w"), tell)
    worker.run(trial)
    worker.flush()
    assert told[-1].kind == "cancelled"
    assert sum(event.kind == "epoch" for event in told) <= 1
    marks.clear()
    worker.run(trial)
    worker.flush()
    assert told[-1].kind == "finished"
    records = AttemptFolder(prepared.folder / "attempts").of_trial(trial.id)
    assert [(r.state, r.content.get("error_kind")) for r in records] == [(INTERRUPTED, CANCELLED), (FINISHED, None)]
