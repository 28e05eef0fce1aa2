"""Sweeps on GlusterFS: two clients that keep attributes for a minute, and servers that go away."""

from __future__ import annotations

import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.shared
AWAY_S = 25.0  # Longer than most restarts of a server, shorter than MOLEFLOW_FILE_RETRY_S.
# A worker is taken for dead after 4 seconds instead of 60.
QUICK = {"SHARED_SILENCE": "0.3,4,1"}
STOPPING = {"SHARED_STOP": "step", "MOLEFLOW_FILE_RETRY_S": "0.5"}


def test_two_drivers_on_two_hosts(gluster, sweep_in, once):
    sweep = sweep_in(gluster)
    sweep.both({"at": 0, "host": "one"}, {"at": 1, "host": "two"})
    once(sweep)


def test_two_hosts_with_one_name(gluster, sweep_in, once):
    sweep = sweep_in(gluster)
    sweep.both({"at": 0, "host": "same", "own_pids": True}, {"at": 1, "host": "same", "own_pids": True})
    once(sweep)


def test_driver_goes_on_when_another_hosts_mount_dies(gluster, sweep_in, once, wait_until):
    sweep = sweep_in(gluster)
    first = sweep.start(at=0, host="one", **STOPPING)
    wait_until(first.is_stopped)
    gluster.kill_client(0)
    first.signal(signal.SIGCONT)
    try:
        assert first.end() != 0
        second = sweep.start(at=1, host="two", **QUICK)
        assert second.end() == 0, second.said
    finally:
        gluster.restart_client(0)
    once(sweep, lost=1)


def test_driver_goes_on_when_another_host_dies(gluster, sweep_in, once, wait_until):
    sweep = sweep_in(gluster)
    first = sweep.start(at=0, host="one", words=("--workers", "1"), **STOPPING)
    wait_until(first.is_stopped)
    second = sweep.start(at=1, host="two", **QUICK)
    first.signal(signal.SIGKILL)
    assert second.end() == 0, second.said
    once(sweep, lost=1)


def test_brick_goes_away(gluster, sweep_in, once, wait_until):
    sweep = sweep_in(gluster)
    driver = sweep.start()
    wait_until(lambda: any(sweep.places[0].glob("results/small/attempts/*.json")))
    gluster.stop_brick(1)
    time.sleep(AWAY_S)
    assert driver.process.poll() is None, driver.said
    gluster.restart_brick(1)
    assert driver.end() == 0, driver.said
    once(sweep)


def test_full_volume(new_gluster, sweep_in, once, wait_until):
    volume = new_gluster(brick_mb=24)
    sweep = sweep_in(volume)
    driver = sweep.start()
    wait_until(lambda: any(sweep.places[0].glob("results/small/attempts/*.json")))
    volume.fill()
    assert driver.end() == 1
    stopped = [line for line in driver.said.splitlines() if line.startswith("stopped: ")]
    assert len(stopped) == 1
    assert "No space left on device" in stopped[0]
    assert "Traceback" not in driver.said
    for path in (sweep.places[0] / "results/small/parts").rglob("*.parquet"):
        pq.read_table(pa.BufferReader(path.read_bytes()))
    volume.free()
    again = sweep.start()
    assert again.end() == 0, again.said
    once(sweep, lost=sum(sweep.rows().values()) - 4)


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["ahead", "behind"])
def test_clock_of_one_host_is_wrong(seconds, new_gluster, wrong_clock, sweep_in, once):
    # The client, too, has the wrong clock: it stamps the files of this host.
    sweep = sweep_in(new_gluster(clock=wrong_clock(seconds)))
    sweep.both({"at": 0, "host": "one"}, {"at": 1, "host": "two", **wrong_clock(seconds)})
    once(sweep)


def test_stat_now_of_a_file_that_another_host_changed(gluster, sees_changes):
    sees_changes(gluster.mounts)
