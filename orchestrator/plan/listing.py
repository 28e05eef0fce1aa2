"""A plan in lines for people, and as JSON for programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moleflow.data.findings import ClassFindings, passed_over_note, undefined_note
from moleflow.errors import counted
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knobs import method_knobs
from orchestrator.host.durations import duration_text, rough_duration
from orchestrator.plan.cost_estimate import WorkEstimate
from orchestrator.plan.inputs import SweepInputs
from orchestrator.plan.lanes import has_lanes, with_lane_mates
from orchestrator.plan.plan import Plan, Spread, spread
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.sweep.file_schema import SearchKeys
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Trial, spell

MOST_VALUES = 12


def plan_header(sweep: Sweep, plan: Plan, inputs: SweepInputs, folder: Path) -> list[str]:
    """The first lines of `plan` and of a run; `folder` is the results folder."""
    dataset = inputs.dataset
    images = "embedded (generated images, not MVTec AD)" if dataset.generated else f"{dataset.name} ({dataset.root})"
    lines = [f"sweep:    {sweep.name}"]
    if sweep.question:
        lines.append(f"question: {' '.join(sweep.question.split())}")
    lines.append(f"dataset:  {images}")
    if sweep.note:
        lines.append(f"note:     {sweep.note}")
    lines += [f"note:     {note}" for note in class_notes(inputs.findings)]
    if inputs.outside:
        lines.append(f"note:     {passed_over_note(str(dataset.root), inputs.outside)}")
    lines += [f"note:     {copies.note}" for copies in inputs.copies]
    counts = [f"{len(plan.of('done'))} done", f"{len(plan.of('to run'))} to run"]
    if plan.of("pruned"):
        counts.append(f"{len(plan.of('pruned'))} stopped early")
    if plan.of("stale"):
        counts.append(f"{len(plan.of('stale'))} stale (made by other code; --rerun-stale runs them again)")
    if sweep.search is not None:
        lines.append(f"search:   {_search(sweep, sweep.search)}")
    lines.append(f"results:  {folder}")
    if sweep.search is not None and not plan.trials:
        return [*lines, f"trials:   none yet, on base {sweep.base}"]
    lines.append(f"trials:   {len(plan.trials)} on base {sweep.base}: {', '.join(counts)}")
    lines += _lanes([planned.trial for planned in plan.trials])
    return [*lines, *_no_longer(plan, sweep, folder)]


def _lanes(trials: Sequence[Trial]) -> list[str]:
    """The number of lanes and how many stay empty; nothing if no trial has any."""
    if not any(has_lanes(trial) for trial in trials):
        return []
    # By stages: trials that train the same ones take one lane.
    chains = stage_tree(trials).chains
    groups = {
        frozenset(chains[one.id] for one in (trial, *trial.lane_mates)): trial.config.training.lanes
        for trial in with_lane_mates(trials)
        if has_lanes(trial)
    }
    empty = sum(lanes - len(group) for group, lanes in groups.items())
    unused = f"{empty} of them empty" if empty else "all filled"
    return [f"lanes:    {counted(len(groups), 'group')} with {counted(sum(groups.values()), 'lane')}, {unused}"]


def class_notes(findings: Sequence[ClassFindings]) -> list[str]:
    """The notes on classes; one that is the same for several classes is one line for all."""
    classes: dict[str, list[str]] = {}
    for of_class in findings:
        for note in of_class.notes:
            classes.setdefault(note.removeprefix(f"{of_class.name}: "), []).append(of_class.name)
    return [f"{'each of ' * (len(names) > 1)}{', '.join(names)}: {text}" for text, names in classes.items()]


def _no_longer(plan: Plan, sweep: Sweep, folder: Path) -> list[str]:
    """A line on stored trials that left the plan; a search's trials are those of its study."""
    count = len(plan.no_longer)
    if not count or sweep.search is not None:
        return []
    are, them = ("is", "it") if count == 1 else ("are", "them")
    return [
        f"left:     {counted(count, 'stored trial')} {are} no longer in this sweep and in none of its tables; to see {them}: "
        f"moleflow-sweep report {shlex.quote(str(folder))} --all"
    ]


def _search(sweep: Sweep, search: SearchKeys) -> str:
    tried = (
        f"{counted(search.trials, 'configuration')} by {search.sampler}, each with {counted(len(sweep.seeds), 'seed')}"
    )
    best = "the best" if search.finalists == 1 else f"the best {search.finalists}" if search.finalists else "none"
    tested = f"{best} and the base with {counted(len(sweep.final_seeds or sweep.seeds), 'seed')}"
    return f"{tried}, on validation images; tested then: {tested if search.finalists else best}"


def unseen_lines(inputs: SweepInputs) -> list[str]:
    """A line on the checks of images that a plan leaves out; none for embedded images."""
    if inputs.dataset.generated:
        return []
    root = shlex.quote(str(inputs.dataset.root))
    return [f"copies:   plans look for exact copies of images alone; for near ones: moleflow-sweep data {root}"]


def work_lines(work: WorkEstimate | None) -> list[str]:
    """The work of a plan, with and without sharing."""
    if work is None or not work.stages[0]:
        return []
    return [
        f"stages:   {work.stages[1]:,} to train at most{_instead(*work.stages)}",
        f"forwards: {work.forwards[1]:,} images at most{_instead(*work.forwards)}",
        *expected_lines(work),
    ]


def expected_lines(work: WorkEstimate | None) -> list[str]:
    """The time that the work of a plan takes on one worker; empty without work."""
    if work is None or not work.stages[0]:
        return []
    text = "not known before a first trial has trained; --dry-run times a step"
    if work.hours is not None:
        alone, shared = (duration_text(3600 * hours) for hours in work.hours)
        text = f"{shared} of training by the steps measured so far"
        text += f", {alone} without sharing" if work.hours[0] > work.hours[1] else ""
    elif work.by_a_step is not None:
        text = f"about {rough_duration(work.by_a_step)} of training and features with 1 worker on this machine, by a step timed here"
    return [f"expected: {text}"]


def _instead(alone: int, shared: int) -> str:
    return f", {alone:,} without sharing" if alone > shared else ""


def plan_lines(plan: Plan, search: SearchKeys | None = None) -> list[str]:
    """The differing settings, the shared ones, and each trial with its state.

    For a search without trials: its space.
    """
    if search is not None and not plan.trials:
        return ["", "the space:", *_columns({knob: _range(given) for knob, given in search.space.items()})]
    settings = _spread_of_versions(plan)
    rows = [f"  {planned.trial.id}  {planned.state:<6}  {planned.trial.label}" for planned in plan.trials]
    return [*_differing(settings), *_shared(settings), "", "the trials:", *rows]


def _spread_of_versions(plan: Plan) -> Spread:
    """The settings of all trials but the yardstick's, which is not compared."""
    return spread([planned.trial for planned in plan.trials if not planned.trial.config.bank.enabled])


def _range(given: Mapping[str, Any]) -> str:
    """The values that a search draws a knob from, as the sweep file gives them."""
    ((kind, values),) = given.items()
    return _values(values) if kind == "choice" else f"{spell(values[0])} to {spell(values[1])} ({kind})"


def _differing(settings: Spread) -> list[str]:
    compared = {path: _values(values) for path, values in settings.compared.items()} | {"seed": _values(settings.seeds)}
    lines = ["", "what differs between them:", *_columns(compared)]
    of_version = [path for path in settings.following if "version" in settings.compared and path in method_knobs()]
    if of_version:
        lines.append(f"  set by the version: {', '.join(of_version)}")
    others = {path: _values(values) for path, values in settings.following.items() if path not in of_version}
    if others:
        lines += ["not compared, yet different:", *_columns(others)]
    return lines


def _shared(settings: Spread) -> list[str]:
    defaults = flatten_config(TrialConfig())
    changed = {path: spell(value) for path, value in settings.shared.items() if value != defaults[path]}
    rest = len(settings.shared) - len(changed)
    return ["", f"what they share ({rest} more settings have their default; `--json` lists all):", *_columns(changed)]


def _columns(entries: Mapping[str, str]) -> list[str]:
    width = max((len(name) for name in entries), default=0)
    return [f"  {name:<{width}}  {value}" for name, value in entries.items()]


def _values(values: Sequence[Any]) -> str:
    if len(values) <= MOST_VALUES:
        return " | ".join(map(spell, values))
    return " | ".join([*map(spell, values[: MOST_VALUES - 1]), "…", f"{spell(values[-1])} ({len(values)} values)"])


def plan_json(sweep: Sweep, plan: Plan, inputs: SweepInputs, folder: str, work: WorkEstimate | None) -> dict[str, Any]:
    """The plan as JSON: the sweep, the differing settings, the shared ones and each trial."""
    settings = _spread_of_versions(plan)
    return {
        "sweep": sweep.name,
        "question": sweep.question,
        "dataset": inputs.dataset.name,
        "base": sweep.base,
        "note": sweep.note,
        "undefined": [note for note in map(undefined_note, inputs.findings) if note],
        "passed_over": {one.name: [asdict(group) for group in one.passed_over] for one in inputs.findings},
        "passed_over_outside": [asdict(group) for group in inputs.outside],
        "wide_masks": [asdict(mask) for one in inputs.findings for mask in one.wide_masks],
        "not_looked_for": [] if inputs.dataset.generated else ["near copies"],
        "copies": [asdict(copies) for copies in inputs.copies],
        "folder": folder,
        "counts": {state: len(plan.of(state)) for state in ("done", "stale", "to run")},
        "no_longer": list(plan.no_longer),
        "to_do": asdict(work) if work else None,
        "compared": settings.compared,
        "yet_different": settings.following,
        "seeds": settings.seeds,
        "shared": settings.shared,
        "trials": [
            {
                "trial_id": planned.trial.id,
                "label": planned.trial.label,
                "state": planned.state,
                "version": planned.trial.config.version,
                "seed": planned.trial.config.seed,
                "factors": dict(planned.trial.factors),
            }
            for planned in plan.trials
        ],
    }
