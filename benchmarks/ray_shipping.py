"""Bytes that travel to Ray nodes without the driver's disk, beside what a shared disk would read.

    python benchmarks/ray_shipping.py [--seeds 2] [--nodes 2]      (needs root: mount namespaces)
    python benchmarks/ray_shipping.py --delay-ms 20                (and network namespaces)

The nodes are on this machine, each in a mount namespace in which the driver's folders are empty.
They run a sweep of the embedded images: two tasks, two values of gamma. A second run of as many new
seeds finds the features stored. Then one process runs the same sweep through the same seam on this
disk, and counts what it reads: a shared disk would serve as much. It reads images past the seam,
so these are not counted there. Prints MB per trial.

With `--delay-ms`, the nodes are in network namespaces of their own. Runs of new seeds follow one
another without and with the delay each way, and their seconds are printed. A run's seconds hold
all of it, from joining the cluster to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice
from os import environ, killpg
from pathlib import Path

from node_network import NodeNetwork, node_network
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

from moleflow import files
from moleflow.file_service import FileAnswer, FileRequest, FileService, RemoteFiles
from orchestrator.backends.inline import InlineBackend
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.backends.ray.node import nodes_folder
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import make_sweep

PROJECT = Path(__file__).resolve().parent.parent
NEEDS = Resources(cpus=1, mem_gb=0.5)
DEMO = {"extends": "demo", "data": {"tasks": ["leather", "grid"]}}
TURNS = 3


@contextlib.contextmanager
def cluster(hidden: Path, nodes: int, network: NodeNetwork | None = None) -> Iterator[str]:
    """The address of a cluster whose head runs no trials and whose nodes lack `hidden`."""
    environ.pop("RAY_AUTH_MODE", None)
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled()
    head = {"object_store_memory": 200_000_000, "include_dashboard": False, "num_cpus": 0, "memory": 4_000_000_000}
    made = Cluster(initialize_head=True, head_node_args=head | ({"node_ip_address": network.head} if network else {}))
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--block", f"--address={made.address}", "--num-cpus=1", "--memory=4000000000"]
    folders = [hidden, PROJECT / "moleflow", PROJECT / "orchestrator"]
    if network:
        nodes_folder().mkdir(exist_ok=True)
        folders += [Path(made.head_node.get_temp_dir_path()), nodes_folder()]
    mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(path))}" for path in folders)
    without = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    started = []
    for prefix, address in network.nodes if network else [([], "")] * nodes:
        here = shlex.join([*start, f"--node-ip-address={address}"] if address else start)
        words = [*prefix, "unshare", "--mount", "bash", "-c", f"{mounts} && cd / && exec {here}"]
        started.append(subprocess.Popen(words, env=without, stdout=subprocess.DEVNULL, start_new_session=True))
    try:
        yield made.address
    finally:
        for node in started:
            killpg(node.pid, signal.SIGKILL)
        made.shutdown()


def perform(service: FileService, near: Path, place: Path, counted: Counter[str], request: FileRequest) -> FileAnswer:
    """Perform a request below `near` in `place`, and count the bytes that it reads by kind."""

    def real(value: object) -> object:
        return place / value.relative_to(near) if isinstance(value, Path) else value

    kwargs = {name: real(value) for name, value in request.kwargs.items()}
    moved = FileRequest(request.name, place / request.path.relative_to(near), tuple(map(real, request.args)), kwargs)
    answer = service.perform(moved)
    kind = next((part for part in ("features", "stages") if part in request.path.parts), "results")
    counted[kind] += len(answer.result) if isinstance(answer.result, bytes) else 0
    counted["requests"] += 1
    return answer


def run(
    place: Path, out: str, cache: str, seeds: list[int], address: str | None, nodes: int, epochs: int = 1
) -> dict[str, float]:
    """The bytes that a run of new trials took from the driver's disk, by kind, per trial."""
    base = DEMO | {"training": {"epochs": epochs}}
    document = {"name": "shipping", "version": "v7", "base": base, "grid": {"focal_gamma": [0, 2]}, "seeds": seeds}
    sweep = make_sweep(document, str(place / "sweep.yaml"), place)
    options = Options(out=place / out, cache=place / cache, backend="ray" if address else "inline")
    prepared = prepare(sweep, options)
    todo = [planned.id for planned in prepared.plan.of("to run")]
    trials = [trial for trial in prepared.trials if trial.id in todo]
    source = TrialSource(PlannedTrials(trials), NEEDS, 0)
    setup = worker_config(prepared, options)
    if address:
        said: list[str] = []
        RayBackend(setup, NEEDS, address=address, say=said.append, wait_for_nodes=nodes).run(source, source.events)
        sent = {kind: float(amount) * 1e6 for amount, kind in re.findall(r"([\d.]+) MB of (\w+)", said[-1])}
    else:
        counted = Counter[str]()
        # Another spelling of the folder, so that the service does not go through the route again.
        near = Path("/shared")
        setup = replace(setup, folder=near / out, cache=near / cache, scratch=place / "scratch")
        with files.routed(near, RemoteFiles(partial(perform, FileService([place]), near, place, counted))):
            InlineBackend(setup).run(source, source.events)
        sent = dict(counted)
    if len(source.tally.finished) != len(trials):
        raise SystemExit(f"{source.tally.failed or 'some trials did not finish'}")
    return {kind: amount / len(trials) for kind, amount in sent.items()}


def compare_delays(place: Path, delay_ms: float, nodes: int, seeds: int, epochs: int) -> None:
    """Print the seconds of runs without and with a delay, in turns."""
    seconds: dict[float, list[float]] = {0.0: [], delay_ms: []}
    fresh = count()
    with node_network(nodes) as network, cluster(place, nodes, network) as address:
        run(place, "warm", "cache", list(islice(fresh, seeds)), address, nodes, epochs)  # Stores the features.
        for turn in range(TURNS):
            for delay, measured in seconds.items():
                network.delay(delay)
                begin = time.monotonic()
                run(place, f"turn{turn}-{delay:g}", "cache", list(islice(fresh, seeds)), address, nodes, epochs)
                measured.append(time.monotonic() - begin)
    for delay, measured in seconds.items():
        print(f"{delay:g} ms each way: {', '.join(f'{each:.1f}' for each in measured)} s a run of {2 * seeds} trials")
    shares = [1 - without / with_ for without, with_ in zip(*seconds.values(), strict=True)]
    print(f"share of time lost to the delay: {', '.join(f'{share:.0%}' for share in shares)}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each run; two trials each")
    parser.add_argument("--nodes", type=int, default=2, help="nodes without the driver's disk")
    parser.add_argument("--delay-ms", type=float, help="compare runs without and with such a delay each way")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of a task")
    given = parser.parse_args()
    if given.delay_ms:
        with tempfile.TemporaryDirectory() as folder:
            compare_delays(Path(folder).resolve(), given.delay_ms, given.nodes, given.seeds, given.epochs)
        return
    first, second = list(range(given.seeds)), list(range(given.seeds, 2 * given.seeds))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        with cluster(place, given.nodes) as address:
            rows = {
                "nodes, first run": run(place, "first", "cache", first, address, given.nodes),
                "nodes, second run": run(place, "second", "cache", second, address, given.nodes),
            }
        rows["one disk, first run"] = run(place, "near_first", "near_cache", first, None, 0)
        rows["one disk, second run"] = run(place, "near_second", "near_cache", second, None, 0)
    kinds = sorted({kind for row in rows.values() for kind in row} - {"requests"})
    print(f"{'MB per trial':22}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"{row.get(kind, 0) / 1e6:10.2f}" for kind in kinds))


if __name__ == "__main__":
    main()
