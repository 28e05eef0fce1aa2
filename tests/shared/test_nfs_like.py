"""Sweeps on two mounts that behave as NFS clients do, without and with faults."""

from __future__ import annotations

import signal

import pytest

pytestmark = pytest.mark.shared
HOSTS = {"at": 0, "host": "one"}, {"at": 1, "host": "two"}
# Each Nth call of a kind fails. The numbers have no common divisor, so that faults meet in ever
# new places.
LOST_REPLIES = {"rename": 5, "mkdir": 3, "link": 3, "create": 2}
WRITE_ERRORS = {"close": 11, "fsync": 7}
STALE = {"open": 23, "read": 29}


@pytest.fixture
def faulty(nfs_like):
    """The mounts; a test may let calls fail, which ends with it."""
    yield nfs_like
    nfs_like.fail()


def test_two_drivers_on_two_hosts(nfs_like, sweep_in, once):
    sweep = sweep_in(nfs_like)
    sweep.both(*HOSTS)
    once(sweep)


def test_two_hosts_with_one_name(nfs_like, sweep_in, once):
    sweep = sweep_in(nfs_like)
    sweep.both(*({"at": at, "host": "same", "own_pids": True} for at in (0, 1)))
    once(sweep)


@pytest.mark.parametrize("faults", [LOST_REPLIES, WRITE_ERRORS, STALE], ids=["lost replies", "write errors", "stale"])
def test_one_driver_with_faults(faults, faulty, sweep_in, once):
    sweep = sweep_in(faulty)
    before = faulty.failed()
    faulty.fail(**faults)
    driver = sweep.start()
    assert driver.end() == 0, driver.said
    faulty.fail()
    assert (faulty.failed() - before).keys() == faults.keys()
    once(sweep)


def test_two_drivers_with_all_faults(faulty, sweep_in, once):
    sweep = sweep_in(faulty)
    before = faulty.failed()
    faulty.fail(**LOST_REPLIES, **WRITE_ERRORS, **STALE)
    sweep.both(*HOSTS)
    faulty.fail()
    assert len(faulty.failed() - before) == len(LOST_REPLIES | WRITE_ERRORS | STALE)
    once(sweep)


def test_two_drivers_without_hard_links(faulty, sweep_in, once):
    sweep = sweep_in(faulty)
    faulty.fail(no_link=1)
    sweep.both(*HOSTS)
    once(sweep)


def test_driver_with_old_listings_removes_no_part_of_another(nfs_like, sweep_in, once, wait_until):
    sweep = sweep_in(nfs_like)
    parts = nfs_like.served / sweep.places[0].name / "results/small/parts"
    writer = sweep.start(**HOSTS[0], SHARED_STOP="part")
    wait_until((parts / "attempts/00000000-empty.parquet").exists)
    # From here on the second host believes that there are no other files.
    assert not any((sweep.places[1] / "results/small/parts").glob("*/2*.parquet"))
    wait_until(writer.is_stopped)
    unfinished = {*parts.glob("*/2*.parquet"), *parts.glob(".tmp/.*.tmp")}
    assert len(unfinished) > 1
    cleaner = sweep.start(**HOSTS[1])
    wait_until(lambda: len(list(parts.parent.glob("attempts/*.json"))) > 1)
    assert unfinished <= {*parts.glob("*/*.parquet"), *parts.glob(".tmp/.*.tmp")}
    writer.signal(signal.SIGCONT)
    assert writer.end() == 0, writer.said
    assert cleaner.end() == 0, cleaner.said
    once(sweep)


def test_stat_now_of_a_file_that_another_host_changed(nfs_like, sees_changes):
    sees_changes(nfs_like.mounts)
