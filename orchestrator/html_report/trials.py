"""Every trial: its numbers, its configuration, what differs from its baseline, how it was trained and what it told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.html_report.best_and_worst import extremes
from orchestrator.html_report.learning_curves import Curve
from orchestrator.html_report.page_data import PageData, UnfinishedTrial, variant_name
from orchestrator.html_report.sortable_table import SheetCell, SortableTable
from orchestrator.monitor.trial_log import describe_event
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import number, setting_text
from orchestrator.reports.render import ABSENT
from orchestrator.reports.tables import MAIN

TAIL = 20
LINE = 240
ERROR = 400
TRACEBACK = 4000
Settings = Mapping[str, object]


def trial_table(evidence: PageData) -> SortableTable:
    """One row a trial, finished or not."""
    roles: dict[str, list[str]] = {}
    for one in extremes(evidence):
        roles.setdefault(one.trial.trial_id, []).append(one.role)
    rows: list[tuple[SheetCell, ...]] = []
    for k, variant in enumerate(evidence.variants):
        for trial in variant.trials:
            own = [_value(trial, metric) for metric in MAIN]
            hours = f"{(trial.seconds_spent + trial.seconds_reused) / 3600:.3g}"
            said = "; ".join(roles.get(trial.trial_id, []))
            rows.append((_opens(trial.trial_id), k, str(trial.seed), "finished", *own, hours, said))
    for left in evidence.unfinished:
        seed = ABSENT if left.seed is None else str(left.seed)
        said = left.error[:ERROR].partition("\n")[0]
        label = variant_name(left.factors) or ABSENT
        rows.append((_opens(left.trial_id), label, seed, left.status, *([ABSENT] * len(MAIN)), ABSENT, said))
    head = ("Trial", "Variant", "Seed", "State", *(f"Mean {name}" for name in MAIN.values()), "Hours", "Remark")
    right = (False, False, True, False, *([True] * len(MAIN)), True, False)
    return SortableTable("Trials", head, rows, right)


def trial_details(evidence: PageData, curves: Sequence[Curve], folder: Path) -> dict[str, object]:
    """What opens for each trial, by its id. Of many trials only what differs and what went wrong; `shared` are settings of all."""
    settings = [*(t.settings for t in evidence.trials), *(one.settings for one in evidence.unfinished if one.settings)]
    shared = {} if evidence.many else _shared(settings)
    told = {} if evidence.many else _told(folder)
    by_trial: dict[str, list[dict[str, object]]] = {}
    for curve in curves:
        nll = [float(f"{value:.5g}") for value in curve.nll]
        by_trial.setdefault(curve.trial_id, []).append({"task": curve.task_name, "nll": nll})
    found: dict[str, dict[str, object]] = {}
    for k, variant in enumerate(evidence.variants):
        of = evidence.comparison.baselines[k]
        baseline = None if of is None else evidence.variants[of].settings
        differing = None if baseline is None else _differences(baseline, variant.settings)
        for trial in variant.trials:
            curves_of = by_trial.get(trial.trial_id, [])
            found[trial.trial_id] = {"of": k, "seed": trial.seed, "differs": differing, "curves": curves_of}
            if not evidence.many:
                found[trial.trial_id] |= {"settings": _own(trial.settings, shared), "log": told.get(trial.trial_id, [])}
                found[trial.trial_id]["facts"] = _facts(trial)
    for one in evidence.unfinished:
        found[one.trial_id] = _of_unfinished(one, evidence, shared, told)
    return {
        "shared": {path: setting_text(value) for path, value in shared.items()},
        "against": list(evidence.comparison.baselines),
        "many": evidence.many,
        "logs": event_logs(folder).is_dir(),
        "trials": found,
    }


def _opens(trial_id: str) -> SheetCell:
    return {"t": trial_id, "trial": trial_id}


def _value(trial: FinishedTrial, metric: str) -> str:
    value = trial.values.get((MEAN, metric))
    return ABSENT if value is None else number(value, metric == "routing_accuracy")


def _facts(trial: FinishedTrial) -> list[list[str]]:
    """What else is known of a trial: code, digests, where it ran."""
    digests = {
        "state digest": trial.state_digest,
        "scores digest": trial.scores_digest,
        "data digest": trial.data_digest,
    }
    facts = [["code", f"{trial.code_digest[:12]} ({trial.git})"]]
    facts += [[name, digest[:16]] for name, digest in digests.items() if digest]
    facts += [[name, value] for name, value in trial.environment.items() if name not in ("code_digest", "dataset")]
    return facts + [["flag", flag] for flag in trial.flags]


def _of_unfinished(
    one: UnfinishedTrial, evidence: PageData, shared: Settings, told: Mapping[str, list[str]]
) -> dict[str, object]:
    baselines = {of for of in evidence.comparison.baselines if of is not None}
    only = evidence.variants[baselines.pop()].settings if len(baselines) == 1 else None
    found: dict[str, object] = {
        "of": -1,
        "label": variant_name(one.factors),
        "seed": one.seed,
        "status": one.status,
        "differs": None if only is None or not one.settings else _differences(only, one.settings),
        "error": one.error[:ERROR],
        "curves": [],
    }
    if not evidence.many:
        found |= {"traceback": one.traceback[-TRACEBACK:], "log": told.get(one.trial_id, [])}
        found["settings"] = _own(one.settings, shared)
    return found


def _shared(settings: Sequence[Settings]) -> Settings:
    if not settings:
        return {}
    first, *others = settings
    return {
        path: value
        for path, value in first.items()
        if all(path in of and setting_text(of[path]) == setting_text(value) for of in others)
    }


def _own(settings: Settings, shared: Settings) -> dict[str, str]:
    return {path: setting_text(value) for path, value in sorted(settings.items()) if path not in shared}


def _differences(baseline: Settings, own: Settings) -> list[list[str]]:
    """[path, the baseline's value, the own one] of every setting that differs."""
    paths = sorted(baseline.keys() | own.keys())
    pairs = ((path, *(setting_text(of[path]) if path in of else ABSENT for of in (baseline, own))) for path in paths)
    return [[path, theirs, ours] for path, theirs, ours in pairs if theirs != ours]


def _told(folder: Path) -> dict[str, list[str]]:
    """The last lines that workers told of each trial. All logs are read once, whatever the number of trials."""
    found: dict[str, list[str]] = {}
    for entry in LogFollower(event_logs(folder)).look():
        attempt = entry.event.facts.get("attempt")
        words = ["" if attempt is None else f"attempt {attempt}", entry.worker, describe_event(entry.event)]
        found.setdefault(entry.event.trial_id, []).append("  ".join(filter(None, words))[:LINE])
    return {trial: lines[-TAIL:] for trial, lines in found.items()}
