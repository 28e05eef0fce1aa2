"""Run sweeps of the embedded images by two checkouts, and compare every digit that they store.

    python benchmarks/same_digits.py EARLIER_CHECKOUT [SWEEP ...] [--set epochs=1]

The default sweeps train every version. Both checkouts run with this Python and caches of their own.
Stored features are compared byte for byte, and the tables of the results in all columns but those
that hold times, hosts, code or labels. If all are equal, the entries for moleflow/equal_code.py are
printed; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent.parent
SWEEPS = ("versions", "decoflow", "v2_ablation", "v4_ablation")
TABLES = ("metrics", "scores", "curves")
KEYS = {
    "metrics": ("trial_id", "after_task", "task", "split"),
    "scores": ("trial_id", "after_task", "task", "split", "image"),
    "curves": ("trial_id", "task", "epoch"),
}
_DIGESTS = """
import json
from moleflow import code_digest as c
own = getattr(c, "own_digest", c.code_digest)
print(json.dumps({phase: own(phase) for phase in c.ENTRY_MODULES}))
"""


def run(checkout: Path, words: list[str], **variables: str) -> str:
    """The output of a command of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), **variables}
    return subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def results(checkout: Path, sweep: Path, place: Path, settings: list[str]) -> dict[str, pa.Table]:
    """The tables of a sweep that a checkout ran."""
    out = place / sweep.stem
    words = ["run", str(sweep), "--base", "demo", "--out", str(out), "--cache", str(place / "cache"), "--quiet"]
    knobs = [word for setting in settings for word in ("--set", setting)]
    run(checkout, ["-m", "orchestrator.cli", *words, *knobs])
    return {table: pq.read_table(out / "parts" / table) for table in TABLES}


def differing(table: str, one: pa.Table, other: pa.Table) -> list[str]:
    """The columns of a table that both have, and that differ; `rows` if their numbers differ."""
    if len(one) != len(other):
        return [f"rows ({len(one)} and {len(other)})"]
    order = [(key, "ascending") for key in KEYS[table] if key in one.column_names and key in other.column_names]
    one, other = one.sort_by(order), other.sort_by(order)
    shared = [name for name in one.column_names if name in other.column_names and "seconds" not in name]
    aside = {"attempt"}
    return [name for name in shared if name not in aside and not _equal(one[name], other[name])]


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(one.type):
        return np.array_equal(one.to_numpy(), other.to_numpy(), equal_nan=True)
    return one.to_pylist() == other.to_pylist()


def features(cache: Path) -> set[str]:
    """The SHA-256 of every stored pack of features."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in (cache / "features").glob("*/*.npy")}


def main() -> None:
    """Compare two checkouts, and print the entries of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path, help="a checkout of the earlier code")
    parser.add_argument("sweeps", type=Path, nargs="*", help="sweep files that both can read")
    parser.add_argument("--set", action="append", default=[], help="knob=value for every trial; repeatable")
    given = parser.parse_args()
    sweeps = [path.absolute() for path in given.sweeps] or [HERE / "sweeps" / f"{name}.yaml" for name in SWEEPS]
    settings = given.set or ["epochs=1"]
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        places = {
            checkout: Path(folder) / name for checkout, name in ((HERE, "now"), (given.earlier.absolute(), "earlier"))
        }
        for sweep in sweeps:
            now, earlier = (results(checkout, sweep, place, settings) for checkout, place in places.items())
            for table in TABLES:
                columns = differing(table, now[table], earlier[table])
                equal &= not columns
                print(f"{sweep.stem}: {table}, {len(now[table]):,} rows: {', '.join(columns) or 'equal'}", flush=True)
        same = len({frozenset(features(place / "cache")) for place in places.values()}) == 1
        print(f"stored features: {'equal' if same else 'different'}")
    now, earlier = (json.loads(run(checkout, ["-c", _DIGESTS])) for checkout in places)
    if not (equal and same):
        raise SystemExit(1)
    for phase in now:
        if now[phase] != earlier[phase]:
            print(f'    "{now[phase]}": "{earlier[phase]}",  # {phase}')


if __name__ == "__main__":
    main()
