"""The trials that a page shows in detail: the best and worst of each variant or of the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.html_report.page_data import QUALITY, PageData
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.finished_trials import FinishedTrial


@dataclass(frozen=True)
class ExtremeTrial:
    """A trial, its variant's number, and its role, such as `lowest Image AUROC of the sweep`."""

    trial: FinishedTrial
    variant: int
    role: str


def extreme_trials(page: PageData) -> tuple[ExtremeTrial, ...]:
    """The best and worst trial of each variant, or of a large sweep, by mean image AUROC."""
    by_variant = [[(k, trial) for trial in variant.trials] for k, variant in enumerate(page.variants)]
    if page.is_large:
        return _extremes([one for trials in by_variant for one in trials], "of the sweep")
    return tuple(extreme for trials in by_variant for extreme in _extremes(trials, "of its variant"))


def _extremes(trials: Sequence[tuple[int, FinishedTrial]], scope: str) -> tuple[ExtremeTrial, ...]:
    ranked = [(value, k, trial) for k, trial in trials if (value := trial.values.get((MEAN, QUALITY))) is not None]
    if not ranked:
        return ()
    _, of_best, best = max(ranked, key=lambda one: one[0])
    _, of_worst, worst = min(ranked, key=lambda one: one[0])
    if best is worst:
        role = f"the only trial {scope}" if len(ranked) == 1 else f"a trial {scope}, all of which are equal"
        return (ExtremeTrial(best, of_best, role),)
    name = MAIN[QUALITY]
    highest = ExtremeTrial(best, of_best, f"highest {name} {scope}")
    return highest, ExtremeTrial(worst, of_worst, f"lowest {name} {scope}")
