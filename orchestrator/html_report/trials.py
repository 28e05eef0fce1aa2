"""The trials on the page: a table of all, and the settings, curves and log of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.html_report.best_and_worst import extreme_trials
from orchestrator.html_report.learning_curves import Curve
from orchestrator.html_report.page_data import PageData, UnfinishedTrial, factors_text
from orchestrator.html_report.sortable_table import SortableTable, TableCell
from orchestrator.monitor.trial_log import describe_event
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import grouped, metric_text, setting_text
from orchestrator.reports.render import ABSENT

LOG_LINES = 20
LINE_CHARACTERS = 240
ERROR_CHARACTERS = 400
TRACEBACK_CHARACTERS = 4000
Settings = Mapping[str, object]


def trial_table(page: PageData) -> SortableTable:
    """Return a table with one row for each trial, finished or not."""
    roles = grouped((one.trial.trial_id, one.role) for one in extreme_trials(page))
    rows: list[tuple[TableCell, ...]] = []
    for k, variant in enumerate(page.variants):
        for trial in variant.trials:
            values = [(trial.values.get((MEAN, metric)), metric == "routing_accuracy") for metric in MAIN]
            metrics = [ABSENT if value is None else metric_text(value, share) for value, share in values]
            hours = f"{(trial.seconds_spent + trial.seconds_reused) / 3600:.3g}"
            remark = "; ".join(roles.get(trial.trial_id, []))
            rows.append((_link(trial.trial_id), k, str(trial.seed), "finished", *metrics, hours, remark))
    for left in page.unfinished:
        seed = ABSENT if left.seed is None else str(left.seed)
        remark = left.error[:ERROR_CHARACTERS].partition("\n")[0]
        label = factors_text(left.factors) or ABSENT
        rows.append((_link(left.trial_id), label, seed, left.status, *([ABSENT] * len(MAIN)), ABSENT, remark))
    head = ("Trial", "Variant", "Seed", "State", *(f"Mean {name}" for name in MAIN.values()), "Hours", "Remark")
    right = (False, False, True, False, *([True] * len(MAIN)), True, False)
    return SortableTable("Trials", head, rows, right)


def trial_details(page: PageData, curves: Sequence[Curve], folder: Path) -> dict[str, object]:
    """Return the details that the page shows of each trial, and the settings that all trials share.

    A large sweep's details are differences and errors only, as the page would grow too large. The
    workers' logs are read from the results folder.
    """
    shared = {} if page.is_large else _shared(page)
    logs = {} if page.is_large else _logs(folder)
    shown_curves = [{"task": of.task_name, "nll": [float(f"{value:.5g}") for value in of.nll]} for of in curves]
    by_trial = grouped(zip((curve.trial_id for curve in curves), shown_curves, strict=True))
    details: dict[str, dict[str, object]] = {}
    for k, variant in enumerate(page.variants):
        number = page.comparison.baselines[k]
        baseline = None if number is None else page.variants[number].settings
        differing = None if baseline is None else _differences(baseline, variant.settings)
        for trial in variant.trials:
            shown = by_trial.get(trial.trial_id, [])
            details[trial.trial_id] = {"variant": k, "seed": trial.seed, "differs": differing, "curves": shown}
            if not page.is_large:
                settings, log = _not_shared(trial.settings, shared), logs.get(trial.trial_id, [])
                details[trial.trial_id] |= {"settings": settings, "log": log, "facts": _facts(trial)}
    for one in page.unfinished:
        details[one.trial_id] = _unfinished_details(one, page, shared, logs)
    return {
        "shared": {path: setting_text(value) for path, value in shared.items()},
        "baselines": list(page.comparison.baselines),
        "isLarge": page.is_large,
        "logs": event_logs(folder).is_dir(),
        "trials": details,
    }


def _link(trial_id: str) -> TableCell:
    return {"t": trial_id, "trial": trial_id}


def _facts(trial: FinishedTrial) -> list[list[str]]:
    """Return [name, value] of a trial's code, digests and environment."""
    digests = {"state": trial.state_digest, "scores": trial.scores_digest, "data": trial.data_digest}
    facts = [["code", f"{trial.code_digest[:12]} ({trial.git})"]]
    facts += [[f"{name} digest", digest[:16]] for name, digest in digests.items() if digest]
    facts += [[name, value] for name, value in trial.environment.items() if name not in ("code_digest", "dataset")]
    return facts + [["flag", flag] for flag in trial.flags]


def _unfinished_details(
    one: UnfinishedTrial, page: PageData, shared: Settings, logs: Mapping[str, list[str]]
) -> dict[str, object]:
    baselines = {k for k in page.comparison.baselines if k is not None}
    # The trial is no column, so that it is compared only if the sweep has a single baseline.
    baseline = page.variants[baselines.pop()].settings if len(baselines) == 1 else None
    details: dict[str, object] = {
        "variant": -1,
        "label": factors_text(one.factors),
        "seed": one.seed,
        "status": one.status,
        "differs": None if baseline is None or not one.settings else _differences(baseline, one.settings),
        "error": one.error[:ERROR_CHARACTERS],
        "curves": [],
    }
    if not page.is_large:
        details |= {"traceback": one.traceback[-TRACEBACK_CHARACTERS:], "log": logs.get(one.trial_id, [])}
        details["settings"] = _not_shared(one.settings, shared)
    return details


def _shared(page: PageData) -> Settings:
    settings = [*(t.settings for t in page.trials), *(one.settings for one in page.unfinished if one.settings)]
    return {
        path: value
        for path, value in (settings[0] if settings else {}).items()
        if all(path in of and setting_text(of[path]) == setting_text(value) for of in settings)
    }


def _not_shared(settings: Settings, shared: Settings) -> dict[str, str]:
    return {path: setting_text(value) for path, value in sorted(settings.items()) if path not in shared}


def _differences(baseline: Settings, settings: Settings) -> list[list[str]]:
    """Return [path, the baseline's value, the trial's value] of every setting that differs."""
    paths = sorted(baseline.keys() | settings.keys())
    texts = [
        [path, *(setting_text(of[path]) if path in of else ABSENT for of in (baseline, settings))] for path in paths
    ]
    return [text for text in texts if text[1] != text[2]]


def _logs(folder: Path) -> dict[str, list[str]]:
    """Return {trial id: last lines of the workers' logs about it}; every log is read once."""
    by_trial: dict[str, list[str]] = {}
    for entry in LogFollower(event_logs(folder)).read_new():
        attempt = entry.event.facts.get("attempt")
        words = ["" if attempt is None else f"attempt {attempt}", entry.worker, describe_event(entry.event)]
        by_trial.setdefault(entry.event.trial_id, []).append("  ".join(filter(None, words))[:LINE_CHARACTERS])
    return {trial: lines[-LOG_LINES:] for trial, lines in by_trial.items()}
