"""The share of tables without any effect in which some variant reads better or worse.

    python benchmarks/false_verdicts.py

Each table compares 30 variants with one baseline, by the function that gives the verdicts of a
report. Every column is drawn from one normal distribution, so every such verdict is false. The
differences share the baseline. Verdicts by plain 95 % t intervals, one at a time, are counted next
to them. docs/statistics.md and benchmarks/README.md quote this output.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from orchestrator.reports.paired import PairedComparison, judge_family
from orchestrator.reports.statistics import seed_noise
from orchestrator.reports.verdicts import Outcome

VARIANTS = 30
SEEDS = (3, 5, 10)
TABLES = 2000
FALSE = (Outcome.ABOVE, Outcome.BELOW)


def table_without_effect(n: int, rng: np.random.Generator) -> list[PairedComparison]:
    """Return the comparisons of `VARIANTS` variants with a baseline over n seeds, all alike."""
    baseline, *columns = rng.normal(0.8, 0.01, size=(VARIANTS + 1, n)).tolist()
    rows = []
    for column in columns:
        differences = tuple(b - a for a, b in zip(baseline, column, strict=True))
        noise = seed_noise(baseline, column)
        rows.append(PairedComparison(tuple(range(n)), 0.8, sum(differences) / n, noise=noise, differences=differences))
    return rows


def false_shares(n: int, tables: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the shares of tables with a false verdict, simultaneous and plain, and of rows."""
    of_tables = of_tables_plain = of_rows = 0
    for _ in range(tables):
        rows = table_without_effect(n, rng)
        false = sum(row.outcome in FALSE for row in judge_family(rows))
        of_tables += false > 0
        of_rows += false
        of_tables_plain += any(judge_family([replace(row)])[0].outcome in FALSE for row in rows)
    return of_tables / tables, of_tables_plain / tables, of_rows / tables / VARIANTS


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{TABLES:,} tables of {VARIANTS} variants without effect; share with a false better or worse")
    print("seeds  of tables  +- 2 se  of rows  of tables, plain intervals")
    for n in SEEDS:
        share, plain, rows = false_shares(n, TABLES, np.random.default_rng(n))
        error = 2 * (share * (1 - share) / TABLES) ** 0.5
        print(f"{n:5d}  {share:9.4f}  {error:7.4f}  {rows:7.5f}  {plain:26.4f}", flush=True)
