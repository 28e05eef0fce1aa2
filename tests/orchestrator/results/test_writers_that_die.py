"""Real writer processes: killed between two renames, read meanwhile, and on a full disk."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import polars
import pyarrow.dataset
import pytest

from orchestrator.results.schema import TABLES

ROOT = Path(__file__).parents[3]
ROWS = Path(__file__).with_name("conftest.py")

PROLOGUE = f"""
import os, runpy, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
generated_attempt = runpy.run_path({str(ROWS)!r})["generated_attempt"]
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter
store = ResultStore(Path(sys.argv[1]))
writer = PartWriter(store)
"""


def child(script, *arguments):
    command = [sys.executable, "-c", PROLOGUE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


DIE = """
renames, real = 0, os.replace
def replace_then_die(source, target):
    global renames
    real(source, target)
    renames += 1
    if renames == int(sys.argv[2]):
        os._exit(9)
if sys.argv[2] == "0":
    os.replace = lambda source, target: os._exit(9)
else:
    os.replace = replace_then_die
writer.add(generated_attempt(trial=2))
writer.flush()
"""


SLOW = pytest.mark.process


@pytest.mark.parametrize("renames", [3, *(pytest.param(n, marks=SLOW) for n in (0, 1, 2, 4))])
def test_death_after_some_renames_leaves_all_of_an_attempt_or_nothing(store, write, make_attempt, renames):
    write(make_attempt(trial=1))
    before = {p for t in TABLES for p in (store.parts / t).iterdir()}
    writer = child(DIE, store.folder, renames)
    writer.communicate()
    assert writer.returncode == 9
    there = {"000000000001"} | ({"000000000002"} if renames == 4 else set())
    left = [*{p for t in TABLES for p in (store.parts / t).iterdir()} - before, *(store.parts / ".tmp").iterdir()]
    assert len(left) == max(1, renames)

    def readers_see():
        assert store.damaged == ()
        assert set(store.finished()) == there
        for table in TABLES:
            assert set(store.read(table)["trial_id"].to_pylist()) == there

    readers_see()
    assert set(store.recover().removed) == (set(left) if renames < 4 else set())
    readers_see()
    assert duckdb.sql(f"select count(*) from '{store.parts}/metrics/*.parquet'").fetchall() == [(3 * len(there),)]


WRITE_ON = """
until, trial = time.monotonic() + 120, 0
while not (store.folder / "enough").exists() and time.monotonic() < until:
    for _ in range(2):
        trial += 1
        writer.add(generated_attempt(trial=trial, rows=5))
    writer.flush()
store.compact()
print(trial)
"""


@pytest.mark.process
def test_pyarrow_polars_and_duckdb_read_whole_attempts_while_a_writer_writes(store):
    folder = store.parts / "metrics"

    def read(name):
        if name == "pyarrow":
            return pyarrow.dataset.dataset(folder).to_table()["trial_id"].to_pylist()
        if name == "polars":
            return polars.read_parquet(folder)["trial_id"].to_list()
        return [row[0] for row in duckdb.sql(f"select trial_id from '{folder}/*.parquet'").fetchall()]

    seen = {"pyarrow": [0], "polars": [0], "duckdb": [0], "store": [0]}
    writer = child(WRITE_ON, store.folder)
    while True:
        ended = writer.poll() is not None
        for name in ("pyarrow", "polars", "duckdb"):
            ids = read(name)
            assert set(Counter(ids).values()) <= {5}
            seen[name].append(len(ids))
        seen["store"].append(store.read("metrics").num_rows)
        if ended:
            break
        # Each reader has met a table that grows.
        if min(len(set(counts)) for counts in seen.values()) > 3:
            (store.folder / "enough").touch()
    out, _ = writer.communicate()
    assert writer.returncode == 0
    for counts in seen.values():
        assert counts == sorted(counts)
        assert counts[-1] == 5 * int(out)
    assert any(0 < counts[k] < counts[-1] for counts in seen.values() for k in range(len(counts)))


FULL = """
import resource
writer.add(generated_attempt(trial=2))
writer.flush()
largest = max(p.stat().st_size for p in store.parts.rglob("*.parquet"))
limit = {"no room at all": 0, "too little for the largest file": largest - 100}[sys.argv[2]]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
writer.add(generated_attempt(trial=3))
try:
    writer.flush()
except OSError as error:
    print(type(error).__name__, error.errno)
print(sorted(store.finished()), [p.name for p in (store.parts / ".tmp").iterdir()])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.flush()
"""


@pytest.mark.parametrize("limit", [pytest.param("no room at all", marks=SLOW), "too little for the largest file"])
def test_a_disk_that_takes_no_more_raises_and_leaves_nothing_half_written(store, limit):
    writer = child(FULL, store.folder, limit)
    out, _ = writer.communicate()
    assert writer.returncode == 0
    error, kept = out.splitlines()
    assert error.startswith("OSError 27")  # EFBIG, from the kernel
    assert kept == "['000000000002'] []"
    assert sorted(store.finished()) == ["000000000002", "000000000003"]  # the second try had room
    assert store.damaged == ()
