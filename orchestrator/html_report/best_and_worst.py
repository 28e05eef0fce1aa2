"""The trials that are looked at closely: the best and the worst of each variant, or of the whole sweep where it is large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.html_report.page_data import QUALITY, PageData
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.tables import MAIN


@dataclass(frozen=True)
class Extreme:
    """A trial, the place of its variant, and what makes it worth a look."""

    trial: FinishedTrial
    place: int
    role: str


def extremes(evidence: PageData) -> tuple[Extreme, ...]:
    """The best and the worst trial of each variant by mean image AUROC; of the sweep where there are many trials."""
    placed = [(k, trial) for k, variant in enumerate(evidence.variants) for trial in variant.trials]
    if evidence.many:
        return _of(placed, "of the sweep")
    return tuple(
        extreme
        for k, variant in enumerate(evidence.variants)
        for extreme in _of([(k, trial) for trial in variant.trials], "of its variant")
    )


def _of(placed: Sequence[tuple[int, FinishedTrial]], where: str) -> tuple[Extreme, ...]:
    worth = [(value, k, trial) for k, trial in placed if (value := trial.values.get((MEAN, QUALITY))) is not None]
    if not worth:
        return ()
    _, k, best = max(worth, key=lambda one: one[0])
    _, other, worst = min(worth, key=lambda one: one[0])
    if best is worst:
        return (Extreme(best, k, f"the only trial {where}" if len(worth) == 1 else f"one {where}; all are alike"),)
    name = MAIN[QUALITY]
    return Extreme(best, k, f"highest {name} {where}"), Extreme(worst, other, f"lowest {name} {where}")
