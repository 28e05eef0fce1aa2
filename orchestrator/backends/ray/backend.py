"""Ray, on this machine or a cluster: Tune places trials and shows them; they come from the source that all backends pull from."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import CheckpointConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from moleflow.code_digest import code_digest
from orchestrator.backends.ray.cluster import Cluster, connected
from orchestrator.backends.ray.trial_actor import LEAVE_WITHIN_S, MakeWorker, TrialActor, make_worker, stop_mark
from orchestrator.backends.ray.tune_source import NoMoreTrials, SourceSearcher, TuneCallback, TuneSource
from orchestrator.execution.backend import TrialSupply, WorkerConfig
from orchestrator.records.events import Events
from orchestrator.sweep.file_schema import EarlyStopping, Resources

REDUCTION = 2  # At each task of ASHA's rungs, the better half goes on.
MOST_TASKS = 1_000  # Never reached: trials end by themselves.


class RayBackend:
    """Trials on Ray.

    Args:
        setup: what workers need; on a cluster its folders and the project must be seen by every node under the same paths.
        resources: what one trial needs.
        workers: how many items at once at most; None = as many as the cluster holds.
        address: a running cluster's, or `auto`; None = Ray is started here and ended with the run.
        dashboard: whether a Ray that is started here has one.
        say: where the dashboard's address goes.
        make: what runs trials in a process of Ray.
        early_stopping: by which rule Tune stops bad trials; None = it stops none.

    """

    def __init__(
        self,
        setup: WorkerConfig,
        resources: Resources | None = None,
        workers: int | None = None,
        address: str | None = None,
        dashboard: bool = True,
        say: Callable[[str], None] = print,
        make: MakeWorker = make_worker,
        early_stopping: EarlyStopping | None = None,
    ) -> None:
        self._setup, self._resources, self._most = setup, resources or Resources(), workers or math.inf
        self._early_stopping = early_stopping
        self._address, self._dashboard, self._say, self._make = address, dashboard, say, make

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run until the source is done.

        Raises:
            InvalidInput: the cluster cannot be joined, or no node of it can hold a trial.

        """
        with connected(self._address, self._resources, self._setup, self._dashboard, self._say) as cluster:
            account = TuneSource(self._setup, source, events, self._most)
            try:
                self._tuner(cluster, account).fit()
            except NoMoreTrials:
                pass
            finally:
                self._leave(account)

    def _tuner(self, cluster: Cluster, account: TuneSource) -> Tuner:
        bundle = cluster.request(self._resources, self._setup)
        given = tune.with_parameters(TrialActor, setup=self._setup, make=self._make, code=code_digest())
        return Tuner(
            tune.with_resources(given, PlacementGroupFactory([bundle])),
            tune_config=TuneConfig(
                search_alg=SourceSearcher(account),
                scheduler=_scheduler(self._early_stopping) if self._early_stopping else None,
                num_samples=-1,  # Until the source is done.
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=RunConfig(
                name=re.sub(r"\W", "_", self._setup.sweep),
                storage_path=str(cluster.storage),
                callbacks=[TuneCallback(account)],
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )

    def _leave(self, account: TuneSource) -> None:
        """Where trials still run, have them written down as interrupted, in seconds."""
        mark = stop_mark(self._setup)
        if not account.open:
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        deadline = time.monotonic() + LEAVE_WITHIN_S
        while account.open and time.monotonic() < deadline:
            account.look()
            time.sleep(0.1)
        mark.unlink(missing_ok=True)


def _scheduler(asked: EarlyStopping) -> TrialScheduler:
    """Tune's scheduler. One of its iterations is one task, so it compares trials after equally many tasks."""
    time, metric = "training_iteration", f"validation_{asked.metric}"
    if asked.rule == "median":
        return MedianStoppingRule(time_attr=time, metric=metric, mode="max", grace_period=asked.grace_tasks)
    return AsyncHyperBandScheduler(
        time_attr=time,
        metric=metric,
        mode="max",
        grace_period=asked.grace_tasks,
        max_t=MOST_TASKS,
        reduction_factor=REDUCTION,
    )


def _name(trial: Any) -> str:
    """What Tune and the dashboard call a trial: version, factors, seed."""
    names = []
    for placed in trial.config["placed"].trials:
        known = "version" in placed.factors
        names.append(placed.label if known else f"{placed.config.version} {placed.label}")
    return " + ".join(names)
