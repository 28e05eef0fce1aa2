"""`moleflow-sweep prefetch`: weights and features of a whole sweep, made before any trial starts, here or in one SLURM job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from rich.console import Console

from moleflow.budget import in_use
from moleflow.config import TrialConfig
from moleflow.data.digests import DigestCache
from moleflow.data.mvtec import scan
from moleflow.environment import Environment, open_environment
from moleflow.features import FeatureCache
from moleflow.prefetch import FeatureSet, distinct, feature_sets, fill
from orchestrator import launch, listing
from orchestrator.backbones import remember
from orchestrator.hub import asked_once
from orchestrator.spec import Sweep
from orchestrator.starting import check_slurm
from orchestrator.sweep_file import Resources
from orchestrator.trial import counted
from orchestrator.work import Setup

INTERRUPTED = 130
SAY_EVERY_S = 30.0


@dataclass(frozen=True)
class Reached:
    """How far it is: the feature setting at hand, counted from 0, and images there and wanted with it."""

    setting: int
    settings: int
    done: int
    wanted: int


@dataclass(frozen=True)
class Made:
    """What is there at the end: images count once with each setting; `computed` of them were not there before."""

    settings: int
    images: int
    computed: int
    device: str


Show = Callable[[Reached], None]


def run(sweep: Sweep, options: launch.Options, console: Console) -> int:
    """Make what is missing for any trial of the sweep; the exit code.

    Raises:
        InvalidInput: any mistake in the sweep, the images, the model, the weights or the site's profile.
        MoleflowError: the job failed, or SLURM did not take it.
        OSError: the cache cannot be written.

    """
    on_slurm = options.backend == "slurm"
    if on_slurm:
        check_slurm(options)
    # Whether the compute nodes have a GPU is not to be seen here.
    prepared = launch.prepare(sweep, replace(options, device="auto") if on_slurm else options)
    setup, configs = launch.setup(prepared, options), distinct(trial.config for trial in prepared.sample)
    console.print("\n".join(listing.header(sweep, prepared.plan, prepared.inputs, prepared.folder)))
    try:
        with _View(console) as view:
            if on_slurm:
                from orchestrator.profile import load_profile
                from orchestrator.slurm.prefetch import in_a_job

                profile = load_profile(options.profile)
                made = in_a_job(setup, configs, sweep.resources, profile, console, view.show)
            else:
                _warn_of_gpus(setup, sweep.resources, console)
                made = make(setup, configs, view.show)
    except KeyboardInterrupt:
        console.print("interrupted: what was stored is kept; the same command goes on from there")
        return INTERRUPTED
    for config in configs:
        remember(config, setup.cache)
    console.print(_summary(made, setup.cache))
    return 0


def make(setup: Setup, configs: Sequence[TrialConfig], show: Show) -> Made:
    """Compute what is missing in this process, and compare what is stored with its checksums.

    Raises:
        InvalidInput, Damaged, OSError: as `moleflow.prefetch.fill`.

    """
    environment, cache = open_environment(setup.device, setup.threads), features_of(setup)
    sets = sets_of(setup, configs, cache, environment)
    with in_use(setup.cache), asked_once({config.backbone.weights for config in configs}):
        fill(sets, cache, environment, lambda n, done, wanted: show(Reached(n, len(sets), done, wanted)))
    return Made(len(sets), sum(len(one.samples) for one in sets), cache.forwards, environment.device_kind)


def features_of(setup: Setup) -> FeatureCache:
    """The cache that trials will read."""
    return FeatureCache(setup.cache / "features")


def sets_of(
    setup: Setup, configs: Sequence[TrialConfig], cache: FeatureCache, environment: Environment
) -> list[FeatureSet]:
    """What the trials need.

    Raises:
        InvalidInput: as `scan` and `feature_sets`.

    """
    names = list(dict.fromkeys(name for config in configs for name in config.data.tasks))
    found = scan(setup.data_root, names, DigestCache(setup.cache / "digests.json"))
    return feature_sets(configs, {data.name: data for data in found}, cache, environment, setup.cache / "synthetic")


def _warn_of_gpus(setup: Setup, needs: Resources, console: Console) -> None:
    if needs.gpus and setup.device == "auto" and open_environment("auto", setup.threads).device_kind == "cpu":
        console.print(
            "note:     features are computed for the CPU here, and trials on a GPU need their own: --backend slurm makes those in a job"
        )


def _summary(made: Made, cache: Path) -> str:
    settings = f"{made.settings} feature setting{'s' if made.settings != 1 else ''}"
    computed = f"{made.computed} computed now" if made.computed else "nothing was computed"
    return (
        f"everything is there: {settings} on {made.device}, {counted(made.images, 'image')}, {computed}; cache: {cache}"
    )


class _View:
    """Shows how far it is: one line that changes on a terminal, elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._status = console, console.status("starting")
        self._last, self._said = "", -math.inf

    def __enter__(self) -> _View:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._status.stop()

    def show(self, at: Reached) -> None:
        text = f"setting {at.setting + 1} of {at.settings}: {at.done} of {at.wanted} images"
        self._status.update(text)
        now = time.monotonic()
        due = at.done == at.wanted or now - self._said >= SAY_EVERY_S
        if due and not self._console.is_terminal and text != self._last:
            self._console.print(f"features: {text}")
            self._last, self._said = text, now
