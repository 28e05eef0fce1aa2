"""Two figures of the search: which sampler finds good settings sooner, and what suggesting costs as
a study grows.

    python benchmarks/search.py best SWEEP DIR [--trials 10 20 40 80] [--repeats 10] [--surrogate
    trees | gp] python benchmarks/search.py cost SWEEP [--trials 100 1000 10000] [--samplers random
    tpe] [--minutes 10]

`best`: the best value so far after so many trials, on a surrogate fitted to the results of a real
sweep (SWEEP is its file with `search:`, DIR its results folder), so that nothing is trained. Each
search is this project's own, from its first trial, the sweep file's base, with one trial in flight;
repeats differ in the search's seed alone. Random search is the baseline. How good the surrogate is
comes first: what follows is no better.

`cost`: seconds of one ask and its tell, the journal's size and this process's memory when the study
in SWEEP's space has so many trials. Values are drawn at random, for only time is measured. The
study grows by random search; up to each size every sampler has it for a few trials. The journal
lies in a temporary folder (TMPDIR says where): each of its lines waits for that disk.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import optuna
from optuna.trial import TrialState
from surrogate import METRIC, Model, Surrogate, fit

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig
from orchestrator.execution.backend import SourceSignal
from orchestrator.records.events import Event
from orchestrator.search.initial_trials import enqueue_initial_trials
from orchestrator.search.objective import Values
from orchestrator.search.optuna_search import OptunaSearch
from orchestrator.search.space import Space
from orchestrator.search.storage import JOURNAL, open_study
from orchestrator.sweep.file_schema import Sampler
from orchestrator.sweep.sweep import Sweep, load_sweep
from orchestrator.sweep.trial import Inputs, Trial

SAMPLERS = get_args(Sampler)
AT_EACH_SIZE = 20


def space_of(sweep: Sweep, sampler: Sampler, seed: int, trials: int) -> Space:
    """The sweep's space, for one search with one seed of a trial; no images are read, so none have
    to be there.
    """
    assert sweep.search is not None
    chosen = {"sampler": sampler, "seed": seed, "trials": trials, "hours": None, "parallel": None, "pruner": "none"}
    plain = {"objectives": {METRIC: "maximize"}, "constraints": {}, "start_from": [], "published": False}
    search = sweep.search.model_copy(update=chosen | plain)

    def inputs(config: TrialConfig) -> Inputs:
        return Inputs({task: task for task in config.data.tasks}, config.backbone.weights or "", "none")

    return Space(replace(sweep, search=search, seeds=(0,)), inputs)


@dataclass(frozen=True)
class Seconds:
    """Seconds of the clock, with waits for the disk and other processes, and of the processor."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        """Both, since some moment."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.clock + other.clock, self.processor + other.processor)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.clock - other.clock, self.processor - other.processor)


class Search:
    """A search whose trials are valued by a function.

    Args:
        study: where Optuna keeps what it knows.
        space: the space, and what is asked for.
        value: what a configuration is worth.

    """

    def __init__(self, study: optuna.Study, space: Space, value: Callable[[TrialConfig], float]) -> None:
        assert space.sweep.search is not None
        self.study, self._value = study, value
        self._known: dict[str, Values] = {}
        enqueue_initial_trials(study, space, Path())
        known = self._known
        self._search = OptunaSearch(
            study, space, lambda ids: {i: known[i] for i in ids if i in known}, "benchmark", lambda _: None
        )

    def step(self) -> Seconds | None:
        """Ask for a trial and tell its value; what both took, or None when the search is over."""
        start = Seconds.now()
        trial = self._search.ask()
        asked = Seconds.now() - start
        if not isinstance(trial, Trial):
            assert trial is SourceSignal.DONE
            return None
        values = {METRIC: self._value(trial.config), "seconds": 0.0, "parameters": 0.0}
        self._known[trial.id] = values
        facts = {"validation": {METRIC: values[METRIC]}, "parameters": 0, "cost": 0.0}
        start = Seconds.now()
        self._search.tell(trial, Event("finished", trial.id, facts))
        return asked + (Seconds.now() - start)


def best_so_far(search: Search) -> list[float]:
    """Run a search to its end; the best value after each of its trials."""
    while search.step() is not None:
        pass
    values = [t.values[0] for t in search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return [max(values[: n + 1]) for n in range(len(values))]


def best(sweep: Sweep, surrogate: Surrogate, sizes: Sequence[int], repeats: int, samplers: Sequence[Sampler]) -> None:
    """Print the table of best values so far."""
    print(surrogate)
    print(f"mean ± standard deviation over {repeats} searches of the best surrogate value so far, by trials")
    print(f"{'sampler':8} " + " ".join(f"{n:>15}" for n in sizes) + f" {'s a trial':>10}", flush=True)
    for sampler in samplers:
        curves, start = [], time.perf_counter()
        for seed in range(repeats):
            study = optuna.create_study(direction="maximize")
            curves.append(best_so_far(Search(study, space_of(sweep, sampler, seed, max(sizes)), surrogate.value)))
        seconds = (time.perf_counter() - start) / repeats / max(sizes)
        cells = [[curve[n - 1] for curve in curves] for n in sizes]
        shown = [f"{statistics.mean(c):.4f} ± {statistics.stdev(c):.4f}" for c in cells]
        print(f"{sampler:8} " + " ".join(f"{cell:>15}" for cell in shown) + f" {seconds:>10.3f}", flush=True)


def cost(sweep: Sweep, sizes: Sequence[int], samplers: Sequence[Sampler], minutes: float) -> None:
    """Print what asking and telling cost at each size, until the minutes are over."""
    end = time.monotonic() + 60 * minutes
    stream = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="moleflow-search-") as temporary:
        place = Path(temporary)
        print(f"seconds a trial, one in flight: medians of {AT_EACH_SIZE} trials; journal in {place.parent}")
        print(
            f"{'trials':>7} {'sampler':8} {'s clock':>8} {'s process':>10} {'journal MB':>11} {'memory MB':>10}",
            flush=True,
        )
        spaces = {sampler: space_of(sweep, sampler, 0, max(sizes) + 1) for sampler in {"random", *samplers}}
        study = open_study(spaces["random"].sweep, place, None)
        searches = {sampler: Search(study, space, lambda _: stream.random()) for sampler, space in spaces.items()}
        count = 0
        for size in sorted(sizes):
            while count < size - AT_EACH_SIZE * len(samplers):
                searches["random"].step()
                count += 1
                if time.monotonic() > end:
                    print(f"stopped at {count} trials: {minutes:g} minutes are over")
                    return
            for sampler in samplers:
                taken = [took for _ in range(AT_EACH_SIZE) if (took := searches[sampler].step())]
                count += AT_EACH_SIZE
                clock = statistics.median(took.clock for took in taken)
                processor = statistics.median(took.processor for took in taken)
                sizes_mb = f"{(place / JOURNAL).stat().st_size / 1e6:>11.1f} {resident_mb():>10.0f}"
                print(f"{size:>7} {sampler:8} {clock:>8.4f} {processor:>10.4f} {sizes_mb}", flush=True)


def resident_mb() -> float:
    """This process's resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Read the command line and print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    of_best, of_cost = kinds.add_parser("best"), kinds.add_parser("cost")
    for one, sizes, samplers in (
        (of_best, [10, 20, 40, 80], SAMPLERS),
        (of_cost, [100, 1000, 10000], ("random", "tpe")),
    ):
        one.add_argument("sweep", type=Path, help="a sweep file with `search:`")
        one.add_argument("--trials", type=int, nargs="+", default=sizes)
        one.add_argument(
            "--data", type=Path, help="the data root that the search has, if any: it chooses the base; not read"
        )
        one.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=samplers)
    of_best.add_argument("folder", type=Path, metavar="DIR", help="its results folder")
    of_best.add_argument("--repeats", type=int, default=10)
    of_best.add_argument("--surrogate", choices=get_args(Model), default="trees")
    of_cost.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    sweep = load_sweep(given.sweep, data_root=given.data, environment=os.environ)
    if sweep.search is None:
        raise InvalidInput(f"{given.sweep}: has no search; give a sweep file that has one")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if given.kind == "best" and given.repeats < 2:
        raise InvalidInput(
            f"--repeats: given {given.repeats}, allowed: a whole number >= 2, for there is no spread of one"
        )
    if given.kind == "best":
        surrogate = fit(space_of(sweep, "random", 0, 1), given.folder, given.surrogate, seed=0)
        best(sweep, surrogate, given.trials, given.repeats, given.samplers)
    else:
        cost(sweep, given.trials, given.samplers, given.minutes)


if __name__ == "__main__":
    try:
        main()
    except InvalidInput as error:
        raise SystemExit(f"error: {error}") from None
