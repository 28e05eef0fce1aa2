"""The export of a results folder to an experiment tracker."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from moleflow.errors import InvalidInput, counted
from orchestrator.host.command_line import install_command
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.make import stored_report
from orchestrator.results.store import ResultStore
from orchestrator.trackers.tracked_run import Outcome, WriteRun, tracked_runs


@dataclass(frozen=True)
class Tracker:
    """A tracker's client.

    Attributes:
        open: opens the folder for the runs of a sweep, and yields the function that writes one.
        viewer: the command that shows the runs of a folder.
    """

    open: Callable[[Path, str], AbstractContextManager[WriteRun]]
    viewer: Callable[[Path], tuple[str, ...]]


@dataclass(frozen=True)
class ExportedRuns:
    """The result of an export: how many runs were written, the folder, the command to see them."""

    outcomes: Mapping[Outcome, int]
    folder: Path
    viewer: tuple[str, ...]

    def counts(self) -> str:
        """The numbers in words, such as `10 runs (4 new, 6 unchanged)`."""
        each = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.items() if count)
        return f"{counted(sum(self.outcomes.values()), 'run')}" + (f" ({each})" if each else "")


def _open_mlflow(folder: Path, sweep: str) -> AbstractContextManager[WriteRun]:
    from orchestrator.trackers.mlflow_runs import open_mlflow

    return open_mlflow(folder, sweep)


def _open_tensorboard(folder: Path, sweep: str) -> AbstractContextManager[WriteRun]:
    from orchestrator.trackers.tensorboard_runs import open_tensorboard

    return open_tensorboard(folder, sweep)


def _open_wandb(folder: Path, sweep: str) -> AbstractContextManager[WriteRun]:
    from orchestrator.trackers.wandb_runs import open_wandb

    return open_wandb(folder, sweep)


TRACKERS: Mapping[str, Tracker] = MappingProxyType(
    {
        "mlflow": Tracker(
            _open_mlflow, lambda folder: ("mlflow", "ui", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}")
        ),
        "tensorboard": Tracker(_open_tensorboard, lambda folder: ("tensorboard", "--logdir", str(folder))),
        "wandb": Tracker(_open_wandb, lambda folder: ("wandb", "leet", str(folder))),
    }
)
"""{name: tracker}; each is an optional group of packages of that name."""


def export_runs(place: Path, tracker: str, into: Path, everything: bool = False) -> ExportedRuns:
    """Write one run for each trial of which an attempt has ended.

    A run that the folder holds is left as it is, or replaced if the trial's results have changed.
    The report in each run is today's.

    Args:
        place: a results folder.
        tracker: one of TRACKERS.
        into: the folder in which the tracker's own folder lies, or is made.
        everything: also the stored trials that are not in the latest plan.

    Raises:
        InvalidInput: the tracker's client is not installed, the folder holds no sweep or no ended
            trial, or `into` is no folder.
        OSError: the folder cannot be written.
    """
    sweep, store = read_sweep_folder(place), ResultStore(place)
    if re.match(r"\w+:/", str(into)) or into.is_file():  # A path has one slash where a URL has two.
        raise InvalidInput(f"--into: given '{into}', allowed: a folder; runs are written without a network")
    runs = tracked_runs(store, sweep, everything)
    if not runs:
        raise InvalidInput(f"{place}: no attempt of a trial has ended yet; there is no run to export")
    report = stored_report(place, sweep, everything, store=store).body()
    chosen, folder = TRACKERS[tracker], into / tracker
    outcomes: Counter[Outcome] = Counter({"new": 0, "replaced": 0, "unchanged": 0})
    with _client_of(tracker), contextlib.ExitStack() as stack:
        write = stack.enter_context(chosen.open(folder, sweep.name))
        for run in runs:
            outcomes[write(run, report)] += 1
    return ExportedRuns(outcomes, folder, chosen.viewer(folder))


@contextlib.contextmanager
def _client_of(tracker: str) -> Iterator[None]:
    """Explain in one line that a tracker's client is not installed."""
    try:
        yield
    except ImportError as error:
        raise InvalidInput(
            f"--to {tracker}: its client cannot be imported ({error}); run {install_command(tracker)}"
        ) from None
