"""A sweep on Ray inside this process, nodes without its disk, and processes that a Ray leaves."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

import moleflow
import orchestrator
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import RunOutcome, TrialSource
from orchestrator.records.events import Event
from orchestrator.sweep.sweep import load_sweep

SMALL = {"object_store_memory": 80_000_000, "memory": 4_000_000_000, "include_dashboard": False}
ROOT = Path(__file__).parents[2]
PACKAGES = [Path(str(package.__file__)).parent for package in (moleflow, orchestrator)]


def installed_packages() -> list[Path]:
    """The folders of this project's packages that the environment itself would import."""
    code = "import moleflow, orchestrator; print(moleflow.__path__[0]); print(orchestrator.__path__[0])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    return [Path(line) for line in ran.stdout.split()]


class SeparateNode:
    """A Ray node in a mount namespace of its own.

    Args:
        address: the address of the cluster.
        hidden: folders that are empty on the node, in addition to the project's code.
        cpus: declared CPUs.
        trace: a file for what strace sees of the node's processes; None = no strace.
        network: the command that runs another one in the node's network namespace, and the node's
            address there; None = the network of this machine.

    """

    def __init__(
        self,
        address: str,
        hidden: Iterable[Path],
        cpus: int = 1,
        trace: Path | None = None,
        network: tuple[list[str], str] | None = None,
    ) -> None:
        folders = {path.resolve() for path in (*hidden, *PACKAGES, *installed_packages())}
        mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(path))}" for path in sorted(folders))
        watched = ["strace", "-f", "-qq", "-e", "trace=%file", "-o", str(trace)] if trace else []
        start = [
            *(
                *watched,
                str(Path(sys.executable).with_name("ray")),
                "start",
                "--block",
                f"--address={address}",
                f"--num-cpus={cpus}",
            ),
            *("--object-store-memory=80000000", "--memory=4000000000", "--disable-usage-stats"),
        ]
        within, ip = network or ([], None)
        start += [f"--node-ip-address={ip}"] if ip else []
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.output = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115
        self.process = subprocess.Popen(
            [*within, "unshare", "--mount", "bash", "-c", f"{mounts} && cd / && exec {shlex.join(start)}"],
            env=environment,
            stdout=self.output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.output.close()

    def is_up(self) -> bool:
        """True once the node has joined the cluster."""
        return b"Ray runtime started" in Path(self.output.name).read_bytes()

    def end(self) -> None:
        """Kill every process of the node at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        Path(self.output.name).unlink(missing_ok=True)


@pytest.fixture
def network() -> Iterator[Any]:
    """A network of two nodes in network namespaces of their own, 20 ms from this machine."""
    spec = importlib.util.spec_from_file_location("node_network", ROOT / "benchmarks/node_network.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    with module.node_network(2) as made:
        made.delay(20)
        yield made


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of a head that runs no trials; it is in the test's network, if that has one."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    enable_token_auth_by_default()  # What `ray.init` does on its own where it starts a Ray.
    ensure_token_if_auth_enabled()
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    network = request.getfixturevalue("network") if "network" in request.fixturenames else None
    where = {"node_ip_address": network.head} if network else {}
    made = Cluster(initialize_head=True, head_node_args={**SMALL, **where, "num_cpus": 0, "_system_config": quick})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def separate_node(head: Cluster, place: Path, images: Path) -> Iterator[Callable[..., SeparateNode]]:
    """Add a node to the cluster that shares no disk with the driver."""
    nodes: list[SeparateNode] = []

    def add(more_hidden: Iterable[Path] = (), **options: Any) -> SeparateNode:
        nodes.append(SeparateNode(head.address, [place, images.parent, *more_hidden], **options))
        return nodes[-1]

    yield add
    for node in nodes:
        node.end()


@pytest.fixture
def on_ray(place: Path) -> Callable[..., RunOutcome]:
    """Run the sweep of the folder on Ray; `listen` gets every event. Returns the outcome."""

    def run(listen: Callable[[Event], None] = lambda _: None, time_min: Any = None, **options: Any) -> RunOutcome:
        sweep = load_sweep(place / "sweep.yaml")
        chosen = Options(out=place / "results/small", cache=place / "cache", backend="ray")
        prepared = prepare(sweep, chosen)
        source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, sweep.retries)

        def tell(event: Event) -> None:
            source.events(event)
            listen(event)

        options = {"dashboard": False} | options
        setup = replace(worker_config(prepared, chosen), time_min=time_min or sweep.resources.time_min)
        RayBackend(setup, sweep.resources, **options).run(source, tell)
        return source.tally

    return run


@dataclass(frozen=True)
class Long:
    """A folder in which four longer trials have finished; `changes` make the same sweep."""

    folder: Path
    changes: dict[str, Any]


@pytest.fixture(scope="session")
def long_run(tmp_path_factory: pytest.TempPathFactory, images: Path, furnish: Callable[..., Path]) -> Long:
    """Four trials that take long enough to be killed in their midst, run inline."""
    changes = {"grid": {"focal_gamma": [0, 2], "epochs": [200]}}
    folder = tmp_path_factory.mktemp("long_run")
    sweep = load_sweep(furnish(folder, images, **changes))
    prepared = prepare(sweep, Options(out=folder / "results/small", cache=folder / "cache"))
    source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, sweep.retries)
    from orchestrator.backends.inline import InlineBackend

    InlineBackend(worker_config(prepared, Options(backend="inline"))).run(source, source.events)
    assert len(source.tally.finished) == 4
    return Long(folder, changes)


@pytest.fixture
def long_sweep(place: Path, edit: Callable[..., Path], long_run: Long) -> Path:
    """The same sweep, not run yet, with its features computed."""
    edit(**long_run.changes)
    shutil.copytree(long_run.folder / "cache" / "features", place / "cache" / "features")
    return place


def processes(is_wanted: Callable[[bytes], bool]) -> set[int]:
    """The processes of this machine with such a command line."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if is_wanted(path.read_bytes()):
                found.add(int(path.parent.name))
    return found


@pytest.fixture
def ray_processes() -> Callable[[], set[int]]:
    """The processes of every Ray that the backend started, and all worker processes of Ray."""
    return lambda: processes(lambda words: b"moleflow-ray-" in words or words.startswith(b"ray::"))


@pytest.fixture
def actors(head: Cluster) -> Callable[[], set[int]]:
    """The worker processes of this machine's clusters that serve a driver, trials and files."""
    idle = (b"ray::IDLE", b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
    return lambda: processes(lambda words: words.startswith(b"ray::") and not words.startswith(idle))
