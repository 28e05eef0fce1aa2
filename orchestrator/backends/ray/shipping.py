"""The driver's side of shipping: which nodes see its folders; it serves the others."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import moleflow
import orchestrator
from moleflow import files
from moleflow.cache.claim import is_stale, try_claim
from moleflow.data.folders import files_below
from moleflow.errors import InvalidInput
from moleflow.passing_errors import read
from orchestrator.backends.ray.file_server import THREADS, FileServer, Traffic
from orchestrator.backends.ray.node import CACHE, IMAGES, RESULTS, DriverFiles, remove_run, stalls_of
from orchestrator.execution.backend import WorkerConfig
from orchestrator.host.hub import cache_folder

SAMPLED_IMAGES = 8
ASK_WITHIN_S, END_WITHIN_S = 60.0, 10.0
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SHIPPED = "runtime_resources"  # The folder of Ray on a node for code that travelled there.


def code_of_nodes() -> dict[str, Any]:
    """The runtime environment in which nodes run the code of this process."""
    packages = [str(Path(str(package.__file__)).parent) for package in (moleflow, orchestrator)]
    # In a submitted job that brought the code, every process of the job has it already.
    if _JOB in os.environ and all(_SHIPPED in Path(package).parts for package in packages):
        return {}
    return {"py_modules": packages, "excludes": ["__pycache__"]}


class Shipping:
    """The driver's files for the nodes of a cluster, while a sweep runs.

    Attributes:
        files: what workers get.

    """

    def __init__(self, files: DriverFiles) -> None:
        self.files = files

    def unseen(self) -> dict[str, frozenset[str]]:
        """The folders that each live node does not see, by the node's id."""
        return self._ask_nodes(DriverFiles.unseen, self.files, ASK_WITHIN_S)

    def collect_stalls(self, attempts: Path) -> None:
        """Bring the tracebacks of stalled processes from nodes into the folder of attempts."""
        for stalls in self._ask_nodes(stalls_of, self.files.run, END_WITHIN_S).values():
            for name, content in stalls.items():
                with contextlib.suppress(OSError):
                    files.write_atomically(attempts / name, content, durable=False)

    def traffic(self) -> Traffic:
        """The bytes that went to nodes and came from them."""
        found: Traffic = cast(Any, ray).get(self.files.server.traffic.remote(), timeout=END_WITHIN_S)
        return found

    def end(self) -> None:
        """Remove the copies from the nodes."""
        self._ask_nodes(remove_run, self.files.run, END_WITHIN_S)

    def _ask_nodes(self, function: Callable[[Any], Any], argument: object, within_s: float) -> dict[str, Any]:
        """The answer of each live node that answers in time."""
        alive = [str(node["NodeID"]) for node in cast(Any, ray).nodes() if node["Alive"]]
        task = cast(Any, ray).remote(function)
        asked = {node: task.options(num_cpus=0, max_retries=0, **_on(node)).remote(argument) for node in alive}
        ray.wait([*asked.values()], num_returns=len(asked), timeout=within_s)
        answers = {}
        for node, reference in asked.items():
            with contextlib.suppress(RayError):  # It died, or hangs.
                answers[node] = cast(Any, ray).get(reference, timeout=0)
        return answers


def _on(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


@contextlib.contextmanager
def shipping(setup: WorkerConfig, say: Callable[[str], None]) -> Iterator[Shipping]:
    """Serve the driver's files to the nodes of the cluster within the block.

    Args:
        setup: results, cache and images.
        say: called with lines for the user.

    Raises:
        InvalidInput: the node of this machine does not see the driver's folders.

    """
    run = f"{setup.worker}-{os.urandom(4).hex()}"
    with _probe(setup.folder / "ray", run) as of_results, _probe(setup.cache / "ray", run) as of_cache:
        probes = {RESULTS: of_results, CACHE: of_cache}
        sample = {
            path: hashlib.sha256(read(path)).hexdigest()
            for path in islice(files_below(setup.data_root), SAMPLED_IMAGES)
        }
        own = ray.get_runtime_context().get_node_id()
        actor = cast(Any, ray).remote(FileServer)
        server = actor.options(num_cpus=0, max_concurrency=THREADS, max_restarts=-1, **_on(own)).remote(
            (setup.folder, setup.cache), setup.data_root, cache_folder()
        )
        shipped = Shipping(DriverFiles(server, run, probes, sample))
        unseen = shipped.unseen()
        if unseen.get(own):
            raise InvalidInput(
                f"--address: the Ray node of this machine does not see {_listed(unseen[own], setup)}; start it "
                "(`ray start`) where these folders exist"
            )
        without = {node: names for node, names in unseen.items() if names}
        if without:
            names = frozenset().union(*without.values())
            say(f"{len(without)} of {len(unseen)} nodes do not see {_listed(names, setup)}: the files travel there")
        try:
            yield shipped
        finally:
            with contextlib.suppress(RayError):
                shipped.end()
                if said := _spelled(shipped.traffic()):
                    say(said)
                cast(Any, ray).kill(server)


@contextlib.contextmanager
def _probe(folder: Path, run: str) -> Iterator[Path]:
    """A file by which nodes see within the block that they share a folder with this driver.

    It is a claim, so that a probe of a driver that was killed can be told from one in use.
    """
    probe = folder / f"{run}.probe"
    _remove_stale_probes(folder)
    claim = try_claim(probe)
    try:
        yield probe
    finally:
        # Whether a driver of another host has died shows only after some seconds.
        _remove_stale_probes(folder)
        if claim:
            claim.release()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _remove_stale_probes(folder: Path) -> None:
    for probe in folder.glob("*.probe"):
        with contextlib.suppress(OSError):
            if is_stale(probe):
                files.remove(probe)


def _listed(names: frozenset[str], setup: WorkerConfig) -> str:
    places = {RESULTS: setup.folder, CACHE: setup.cache, IMAGES: setup.data_root}
    return ", ".join(f"the {name} ({place})" for name, place in places.items() if name in names)


def _spelled(traffic: Traffic) -> str:
    """The bytes that travelled, in one line; empty if none did."""
    sent = {name: amount for name, amount in traffic.items() if name not in ("requests", "written") and amount}
    if not sent:
        return ""
    parts = [f"{amount / 1e6:.1f} MB of {name}" for name, amount in sorted(sent.items(), key=lambda one: -one[1])]
    return f"sent to nodes: {', '.join(parts)}; received: {traffic.get('written', 0) / 1e6:.1f} MB"
