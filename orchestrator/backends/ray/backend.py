"""The Ray backend, on this machine or a cluster.

Tune places the trials and shows them. They come from the source that all backends pull from.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import CheckpointConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from moleflow.code_digest import code_digest
from orchestrator.backends.ray.cluster import connected, trial_request, wait_for_nodes
from orchestrator.backends.ray.shipping import Shipping, shipping
from orchestrator.backends.ray.trial_actor import STOP_WITHIN_S, TrialActor, stop_file
from orchestrator.backends.ray.tune_source import LOOK_EVERY_S, NoMoreTrials, SourceSearcher, TuneCallback, TuneSource
from orchestrator.execution.backend import MakeWorker, TrialSupply, WorkerConfig
from orchestrator.execution.make_worker import make_worker
from orchestrator.records.events import Events
from orchestrator.sweep.file_schema import EarlyStopping, Resources

REDUCTION = 2  # At each rung of ASHA the better half continues.
MOST_TASKS = 1_000  # Larger than any sequence: ASHA must not end trials by itself.


@dataclass(frozen=True)
class RayBackend:
    """Trials on Ray.

    Args:
        setup: what the workers need. To nodes of a cluster that do not see its folders, the files
            travel (`orchestrator.backends.ray.shipping`).
        resources: what one trial needs.
        workers: items that run at once at most; None = as many as the cluster holds.
        address: the address of a running cluster, or `auto`; None = start Ray for this run.
        dashboard: whether a Ray that is started here has a dashboard.
        say: called with the dashboard's address.
        make: makes the worker of a process; a function that other processes can import.
        early_stopping: the rule by which Tune stops trials; None = it stops none.
        wait_for_nodes: nodes with room for a trial that must be there before the run begins.

    """

    setup: WorkerConfig
    resources: Resources = field(default_factory=Resources)
    workers: int | None = None
    address: str | None = None
    dashboard: bool = True
    say: Callable[[str], None] = print
    make: MakeWorker = make_worker
    early_stopping: EarlyStopping | None = None
    wait_for_nodes: int = 0

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run items until the source is DONE.

        Raises:
            InvalidInput: the cluster cannot be joined, or no node of it can hold a trial.

        """
        with self._cluster() as (storage, shipped):
            tune_source = TuneSource(self.setup, source, events, self.workers or math.inf)
            if shipped is not None:
                tune_source.collect_stalls = partial(shipped.collect_stalls, self.setup.folder / "attempts")
            try:
                self._tuner(storage, tune_source, shipped).fit()
            except NoMoreTrials:
                pass
            finally:
                self._stop_open_trials(tune_source)

    @contextmanager
    def _cluster(self) -> Iterator[tuple[Path, Shipping | None]]:
        """The folder for the files of Tune, and what serves files to the nodes of a joined cluster.

        Raises:
            InvalidInput: as `run`.

        """
        with connected(self.address, self.resources, self.setup, self.dashboard, self.say) as storage:
            wait_for_nodes(self.wait_for_nodes, self.resources, self.setup, self.say)
            trial_request(self.resources, self.setup)
            # Ray Client drives a cluster from outside: no node sees the driver's files for others.
            joined = self.address and not self.address.startswith("ray://")
            with shipping(self.setup, self.say) if joined else nullcontext() as shipped:
                yield storage, shipped

    def _tuner(self, storage: Path, tune_source: TuneSource, shipped: Shipping | None) -> Tuner:
        bundle = trial_request(self.resources, self.setup)
        given = {"setup": self.setup, "make": self.make, "code": code_digest()}
        actor = tune.with_parameters(TrialActor, **given, driver_files=shipped.files if shipped else None)
        return Tuner(
            tune.with_resources(actor, PlacementGroupFactory([bundle])),
            tune_config=TuneConfig(
                search_alg=SourceSearcher(tune_source),
                scheduler=_scheduler(self.early_stopping) if self.early_stopping else None,
                num_samples=-1,  # Until the source is done.
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=RunConfig(
                name=re.sub(r"\W", "_", self.setup.sweep),
                storage_path=str(storage),
                callbacks=[TuneCallback(tune_source)],
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )

    def _stop_open_trials(self, tune_source: TuneSource) -> None:
        """Have the actors record running trials as interrupted, within seconds."""
        file = stop_file(self.setup)
        if not tune_source.open_trials:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        deadline = time.monotonic() + STOP_WITHIN_S
        while tune_source.open_trials and time.monotonic() < deadline:
            tune_source.read_logs(every_s=0.0)
            time.sleep(LOOK_EVERY_S)
        file.unlink(missing_ok=True)


def _scheduler(early_stopping: EarlyStopping) -> TrialScheduler:
    """Tune's scheduler; its iterations are tasks: it compares trials after equally many tasks."""
    time_attr, metric = "training_iteration", f"validation_{early_stopping.metric}"
    if early_stopping.rule == "median":
        grace = early_stopping.grace_tasks
        return MedianStoppingRule(time_attr=time_attr, metric=metric, mode="max", grace_period=grace)
    return AsyncHyperBandScheduler(
        time_attr=time_attr,
        metric=metric,
        mode="max",
        grace_period=early_stopping.grace_tasks,
        max_t=MOST_TASKS,
        reduction_factor=REDUCTION,
    )


def _name(tune_trial: Any) -> str:
    """The name of a trial in Tune and the dashboard: version, factors, seed."""
    trial = tune_trial.config["placed"].trial
    return str(trial.label if "version" in trial.factors else f"{trial.config.version} {trial.label}")
