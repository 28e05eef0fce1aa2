"""Two trials side by side: the settings, the environment and the metrics in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.errors import InvalidInput, counted
from moleflow.suggestions import hint_at
from orchestrator.records.named_trials import named_trials, refuse_several
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.final_metrics import BY_CLASS, MAIN, MEAN, METRICS
from orchestrator.reports.finished_trials import ENVIRONMENT
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.stored_trials import StoredTrial, stored_trials
from orchestrator.results.store import ResultStore

SPLITS = ("test", "validation")
_ALSO = ("backend", "host", "git_commit", "git_dirty")


@dataclass(frozen=True)
class FoundTrial:
    """A trial and the folder that it was found in; `planned` if it is of the latest plan there."""

    folder: Path
    sweep: str
    trial: StoredTrial
    planned: bool

    @property
    def line(self) -> str:
        """The trial in one line: id, name, state, sweep."""
        trial = self.trial
        took = f" in {trial.attempt['seconds_spent']:.0f} s" if trial.attempt else ""
        return f"{trial.trial_id}  {trial.name}  {trial.state}{took}  ({self.folder})"


@dataclass(frozen=True)
class TrialDiff:
    """Two trials, the tables of what differs, and what is equal.

    Attributes:
        first: the trial of the column `a`.
        second: the trial of the column `b`.
        tables: Configuration, Environment and Metrics, without those in which nothing differs.
        equal: what is equal, in one line.
        notes: what could not be compared.
    """

    first: FoundTrial
    second: FoundTrial
    tables: tuple[Table, ...]
    equal: str
    notes: tuple[str, ...]


def diff_trials(first: str, second: str, folders: Sequence[Path], full: bool = False) -> TrialDiff:
    """Compare any two trials.

    Args:
        first: an id, the beginning of one, or a name such as `focal_gamma=2 seed=0`.
        second: likewise. Of two folders, the first trial is looked for in the first one, the second
            trial in the second one, and then in the other.
        folders: results folders.
        full: all metrics too, not only the means and those of the report's first table.

    Raises:
        InvalidInput: a folder holds no sweep, or a word names no trial, or several.
    """
    known = [
        [
            FoundTrial(folder, sweep.name, trial, trial.trial_id in sweep.trial_ids)
            for trial in stored_trials(ResultStore(folder), sweep, SPLITS, True)
        ]
        for folder in folders
        for sweep in [read_sweep_folder(folder)]
    ]
    a, b = found_trial(first, known), found_trial(second, known[1:] + known[:1])
    equal: list[str] = []
    tables = [_settings_table(a, b, equal), _environment_table(a, b, equal)]
    tables += [_metrics_table(a, b, split, full, equal) for split in SPLITS]
    equal += _equal_digests(a, b)
    notes = tuple(_notes(a, b))
    return TrialDiff(a, b, tuple(table for table in tables if table), "; ".join(equal) or "nothing", notes)


def _notes(a: FoundTrial, b: FoundTrial) -> Iterator[str]:
    for one in (a, b):
        if not one.trial.attempt:
            yield f"{one.trial.trial_id}: no attempt has ended, so its configuration and metrics are not known"
    for split in SPLITS:
        has = [one.trial.trial_id for one in (a, b) if split in one.trial.metrics]
        if len(has) == 1 and a.trial.attempt and b.trial.attempt:
            yield f"{split} metrics: only {has[0]} has them"


def found_trial(given: str, known: Sequence[Sequence[FoundTrial]]) -> FoundTrial:
    """Return the trial that a word names, from the first folder that has it.

    Trials of the latest plan of a folder come before those of earlier plans.

    Raises:
        InvalidInput: no folder has it, or the word names several trials of one.
    """
    for of_folder in known:
        # An edit of the base leaves trials of the same name: those of the latest plan are meant.
        for group in ([one for one in of_folder if one.planned], of_folder):
            matches = named_trials(given, {one.trial.trial_id: one.trial.name for one in group})
            refuse_several(given, matches)
            if matches:
                return next(one for one in group if one.trial.trial_id == matches[0])
    everyone = [one for of_folder in known for one in of_folder]
    ids = [one.trial.trial_id for one in everyone]
    begun = [trial_id[: len(given)] for trial_id in ids]
    near = hint_at(given, [*(one.trial.name for one in everyone), *ids, *begun])
    where = ", ".join(str(of_folder[0].folder) for of_folder in known if of_folder) or "the folder"
    raise InvalidInput(
        f"'{given}': is no trial of {where}; give an id, its first digits, or a name, as `status DIR --all` "
        f"shows them{near}"
    )


def _settings_table(a: FoundTrial, b: FoundTrial, equal: list[str]) -> Table | None:
    if not (a.trial.settings and b.trial.settings):
        return None
    first, second = ({"seed": str(one.trial.seed)} | _texts(one.trial.settings) for one in (a, b))
    return _two_columns("Configuration", "Setting", first, second, equal, "settings")


def _environment_table(a: FoundTrial, b: FoundTrial, equal: list[str]) -> Table | None:
    if not (a.trial.attempt and b.trial.attempt):
        return None
    first, second = (_environment(one.trial) for one in (a, b))
    return _two_columns("Environment", "Entry", first, second, equal, "entries of the environment")


def _environment(trial: StoredTrial) -> dict[str, str]:
    row = trial.attempt
    packages = {f"package {name}": str(version) for name, version in json.loads(row["packages"]).items()}
    return _texts({name: row[name] for name in (*ENVIRONMENT, *_ALSO)}) | packages


def _two_columns(
    title: str, kind: str, first: Mapping[str, str], second: Mapping[str, str], equal: list[str], nouns: str
) -> Table | None:
    names = list(dict.fromkeys([*first, *second]))
    differ = [name for name in names if first.get(name) != second.get(name)]
    same = len(names) - len(differ)
    equal.append(f"{same} of {len(names)} {nouns}" if differ else f"all {len(names)} {nouns}")
    rows = [(name, (Cell(first.get(name, ABSENT)), Cell(second.get(name, ABSENT)))) for name in differ]
    return Table(title, (kind, "a", "b"), tuple(rows)) if rows else None


def _metrics_table(a: FoundTrial, b: FoundTrial, split: str, full: bool, equal: list[str]) -> Table | None:
    of_a, of_b = a.trial.metrics.get(split), b.trial.metrics.get(split)
    if of_a is None or of_b is None:
        return None
    rows, same, hidden = [], 0, 0
    for class_name, metric in _cells(of_a.classes, of_b.classes):
        x, y = (of[class_name, metric] if class_name in of.rows else None for of in (of_a, of_b))
        if x == y:
            same += x is not None
        elif full or metric in MAIN or (class_name == MEAN and not metric.startswith("oracle_")):
            change = ABSENT if x is None or y is None else f"{y - x:+.4g}"
            rows.append((f"{class_name} {metric}", (Cell(_number(x)), Cell(_number(y)), Cell(change))))
        else:
            hidden += 1
    equal.append(f"{same} of {same + len(rows) + hidden} {split} metrics")
    notes = (f"{counted(hidden, 'further metric')} {'differs' if hidden == 1 else 'differ'}; --full shows them.",)
    title = f"Metrics after the final task, {split} images"
    return Table(title, ("Metric", "a", "b", "b - a"), tuple(rows), notes * bool(hidden)) if rows else None


def _cells(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from ((MEAN, metric) for metric in BY_CLASS)
    yield from ((name, metric) for name in dict.fromkeys([*first, *second]) for metric in METRICS)


def _equal_digests(a: FoundTrial, b: FoundTrial) -> Iterator[str]:
    words = {
        "state_digest": "the trained state, to the bit",
        "scores_digest": "all scores, to the bit",
    }
    for name, text in words.items():
        digests = [one.trial.attempt.get(name) for one in (a, b)]
        if digests[0] is not None and digests[0] == digests[1]:
            yield text


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: ABSENT if value is None else setting_text(value) for name, value in values.items()}


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.6g}"
