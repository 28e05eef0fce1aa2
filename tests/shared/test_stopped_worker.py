"""Workers that are stopped for longer than the silence after which others take them for dead."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

pytestmark = pytest.mark.shared
QUICK = {"SHARED_SILENCE": "0.3,4,1"}


def test_two_pid_namespaces_of_one_host(sweep_in, once):
    sweep = sweep_in()
    sweep.both({"host": "same", "own_pids": True}, {"host": "same", "own_pids": True})
    once(sweep)


@pytest.mark.parametrize("place", ["step", "claim", "part"])
def test_worker_that_wakes_up_after_its_death(place, sweep_in, wait_until):
    """Stopped in a training step, after it claimed the attempt's end, or within its part."""
    sweep = sweep_in()
    first = sweep.start(own_pids=True, SHARED_STOP=place, **QUICK)
    wait_until(first.is_stopped)
    second = sweep.start(own_pids=True, **QUICK)
    # With another trial finished, the second driver has met the first trial, and waits or goes on.
    assert second.end() == 0, second.said
    first.signal(signal.SIGCONT)
    assert first.end() == 0, first.said
    rows = sweep.rows()
    attempts = Counter((trial, number) for trial, number, _ in rows.elements())
    assert set(attempts.values()) == {1}
    finished = Counter(trial for trial, _, status in rows.elements() if status == "finished")
    assert len(finished) == 4
    # One that had claimed its end stores its rows when it wakes up. One that had not finds its end
    # claimed, and its rows are nowhere.
    statuses = Counter(status for _, _, status in rows.elements())
    assert statuses == ({"finished": 4, "failed": 1} if place == "step" else {"finished": 5}), rows
