"""Processor seconds of the report's bootstrap, and Monte Carlo errors of its bounds, by resamples.

    python benchmarks/bootstrap.py [--resamples 1000 20000]

One row is the committed results/measured/all-versions: the comparisons of its report, over three
classes and five seeds (drawn too). The others are generated: fifteen classes of the size of
MVTec AD's, eight variants, with three seeds (not drawn) and with ten (drawn too). "worst error" is
the largest Monte Carlo standard error of any bound, in points of AUROC (.01 = one point), as the
report computes it. "spread" is the largest standard deviation of a bound over 20 bootstrap seeds.
benchmarks/README.md quotes this output.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from orchestrator.reports.bootstrap import ClassScores, Contrast, bootstrap_intervals, read_scores
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.variants import group_variants
from orchestrator.results.store import ResultStore

MEASURED = Path(__file__).parents[1] / "results" / "measured" / "all-versions"
CLASSES, GOOD, DEFECTIVE, VARIANTS = 15, 31, 84, 8
SPREAD_OVER = 20


def measured() -> list[Contrast]:
    """Every version of the committed results against the first."""
    store = ResultStore(MEASURED)
    variants = group_variants(finished_trials(store, None, "test"))
    scores = read_scores(store, {trial.trial_id for v in variants for trial in v.trials}, "test")
    first, *others = variants
    return [
        Contrast(
            v.seeds,
            tuple((scores[a.trial_id], scores[b.trial_id]) for a, b in zip(first.trials, v.trials, strict=True)),
            first.classes,
        )
        for v in others
    ]


def generated(seeds: int, rng: np.random.Generator) -> list[Contrast]:
    """Seven variants against one, with normal scores."""
    anomalous = np.arange(GOOD + DEFECTIVE) < DEFECTIVE
    names = tuple(map(str, range(len(anomalous))))

    def trial() -> dict[str, ClassScores]:
        return {
            f"class {k}": ClassScores(names, anomalous, rng.normal(size=len(anomalous)) + 2 * anomalous)
            for k in range(CLASSES)
        }

    columns = [[trial() for _ in range(seeds)] for _ in range(VARIANTS)]
    classes = tuple(columns[0][0])
    return [Contrast(tuple(range(seeds)), tuple(zip(columns[0], of, strict=True)), classes) for of in columns[1:]]


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, nargs="+", default=[1000, 20_000])
    counts = parser.parse_args().resamples
    cases = {
        "all-versions": measured(),
        "15 classes, 3 seeds": generated(3, np.random.default_rng(0)),
        "15 classes, 10 seeds": generated(10, np.random.default_rng(0)),
    }
    print("case                  resamples       s  worst error    spread  peak MB")
    for name, contrasts in cases.items():
        for resamples in counts:
            start = time.process_time()
            found = [of for of in bootstrap_intervals(contrasts, 0, resamples) if of is not None]
            seconds = time.process_time() - start
            worst = max(max(of.low_error, of.high_error) for of in found)
            spread = "-"
            if name == "all-versions":
                again = [bootstrap_intervals(contrasts, seed, resamples) for seed in range(SPREAD_OVER)]
                bounds = np.array([[(of.low, of.high) for of in one if of is not None] for one in again])
                spread = f"{bounds.std(axis=0, ddof=1).max():.5f}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{name:21s} {resamples:10,d} {seconds:7.2f}  {worst:11.5f}  {spread:>8s}  {peak:7.0f}", flush=True)


if __name__ == "__main__":
    main()
