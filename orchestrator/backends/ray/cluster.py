"""The Ray cluster: started for one run or joined, and the resources that a trial requests."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray._private import ray_constants
from ray.util.placement_group import placement_group, remove_placement_group

from moleflow.cache.claim import is_stale, try_claim
from moleflow.errors import InvalidInput, counted
from orchestrator.backends.ray.shipping import code_of_nodes
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.signals import hangup_ignored
from orchestrator.host.environment_variables import set_variables
from orchestrator.host.hardware import available_cores, memory_gb, visible_gpus
from orchestrator.sweep.file_schema import Resources

OBJECT_STORE_BYTES = 150_000_000
SHARES_OF_A_GPU = 10_000
ANSWER_WITHIN_S = 10.0
WAIT_S = 2.0
PREFIX, LONGEST_FOLDER = "moleflow-ray-", 40
DRIVER_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # Parts hold the results, event logs the progress.
    "RAY_AIR_NEW_OUTPUT": "0",  # The new output prints tables even at verbose=0.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "4",  # With 1, a process would wait for its next trial.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # The last result of a trial has no metric.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # A driver resumes from the results folder.
}


def trial_request(needs: Resources, setup: WorkerConfig) -> dict[str, float]:
    """The resources that one trial requests of Ray.

    `trials_per_gpu` trials share `gpus` GPUs. If the sweep file says nothing of GPUs and the
    cluster has some, a trial gets its share of one, unless it runs on the CPU.

    Raises:
        InvalidInput: no node has enough, or Ray does not know such a share of a GPU.

    """
    nodes = _live_nodes()
    request = _request(needs, setup, nodes)
    if not any(all(node.get(name, 0) >= amount for name, amount in request.items()) for node in nodes):
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in request}
        raise InvalidInput(
            f"resources: a trial asks for {_spelled(request)}, and no node of this Ray cluster has as much; "
            f"the most of each on one node: {_spelled(most)}"
        )
    return request


def wait_for_nodes(count: int, needs: Resources, setup: WorkerConfig, say: Callable[[str], None]) -> None:
    """Return once `count` nodes have room for a trial each. A cluster that can grow is asked to.

    Args:
        count: the number of nodes; 0 = do not wait.
        needs: what a trial needs.
        setup: what the workers need.
        say: called with the number of live nodes when it changes.

    Raises:
        InvalidInput: Ray does not know such a share of a GPU.

    """
    said = None
    while count:
        nodes = _live_nodes()
        # Its size may change with the first node that has a GPU.
        request = {name: amount for name, amount in _request(needs, setup, nodes, strict=False).items() if amount}
        if said != len(nodes):
            said = len(nodes)
            say(f"waiting for {counted(count, 'node')} with room for a trial; in the cluster now: {said}")
        # Ray reserves it once the nodes are there; its autoscaler starts those that are missing.
        group = placement_group([request] * count, strategy="STRICT_SPREAD")
        try:
            while not group.wait(timeout_seconds=WAIT_S) and len(_live_nodes()) == said:
                pass
            if group.wait(timeout_seconds=0):
                return
        finally:
            remove_placement_group(group)


def _live_nodes() -> list[dict[str, float]]:
    """The resources of each live node."""
    return [node["Resources"] for node in cast(Any, ray).nodes() if node["Alive"]]


def _request(
    needs: Resources, setup: WorkerConfig, nodes: Sequence[Mapping[str, float]], strict: bool = True
) -> dict[str, float]:
    """The request of one trial, given the nodes; `strict` refuses a device that no node has."""
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    if strict and setup.device == "cuda" and not has_gpus:
        raise InvalidInput("--device: given 'cuda', but no node of this Ray cluster has a GPU; allowed: auto | cpu")
    if setup.device == "cuda" and needs.gpus == 0:
        raise InvalidInput("--device: given 'cuda', but resources.gpus asks for no GPU; leave one of them out")
    each = float(has_gpus or setup.device == "cuda") if needs.gpus is None else needs.gpus
    wanted = 0.0 if setup.device == "cpu" else each / needs.sharing
    if wanted > 1 and wanted % 1:
        raise InvalidInput(f"resources.gpus: {wanted:g} for one trial; Ray gives a share of one GPU or whole ones")
    share = int(wanted * SHARES_OF_A_GPU) / SHARES_OF_A_GPU
    return {
        "CPU": float(max(setup.threads, needs.cpus)),
        **({"GPU": share} if share else {}),
        "memory": float(int(needs.mem_gb * 1e9)),
    }


@contextlib.contextmanager
def connected(
    address: str | None, needs: Resources, setup: WorkerConfig, dashboard: bool, say: Callable[[str], None]
) -> Iterator[Path]:
    """Connect to a running cluster within the block, or run one within it.

    Gives an empty folder for the files of Tune, which is removed after the block.

    Args:
        address: the address of a cluster, or `auto` for the one of this machine; None = start one.
        needs: what a trial needs; a Ray that is started here gets at least that.
        setup: what the workers need.
        dashboard: whether a Ray that is started here has a dashboard.
        say: called with the dashboard's address.

    Raises:
        InvalidInput: no cluster answers at `address`.

    """
    # Ray keeps Unix sockets in this folder; their paths may have 107 bytes.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= LONGEST_FOLDER else "/tmp"  # noqa: S108
    _remove_folders_of_dead_drivers(Path(short))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=short))
    claim = try_claim(folder / "owner")
    try:
        with set_variables(DRIVER_VARIABLES):
            dashboard_at = _join(address) if address else _start(folder, needs, setup, dashboard)
            if dashboard_at:
                say(f"dashboard: http://{dashboard_at}")
            yield folder / "tune"
    finally:
        ray.shutdown()
        if claim:
            claim.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_folders_of_dead_drivers(place: Path) -> None:
    """Remove the folders of drivers that were killed."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # Another user's.
            if is_stale(folder / "owner"):
                for content in {*folder.iterdir()} - {folder / "owner"}:
                    shutil.rmtree(content, ignore_errors=True)
                # Processes of Ray that are still ending may write again. The owner file stays then,
                # so that the next run removes the rest.
                if {*folder.iterdir()} == {folder / "owner"}:
                    shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, needs: Resources, setup: WorkerConfig, dashboard: bool) -> str | None:
    gpus = 0 if setup.device == "cpu" else len(visible_gpus())
    with hangup_ignored(), _loopback_only():
        context = ray.init(
            address="local",
            num_cpus=max(available_cores(), setup.threads, needs.cpus),
            num_gpus=gpus,
            _memory=int(max(min(memory_gb(), 1e6), needs.mem_gb) * 1e9),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=dashboard,
            _temp_dir=str(folder / "ray"),
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    return context.dashboard_url


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let the cluster that starts in the block listen on 127.0.0.1 alone.

    Ray does so by default on Windows and macOS only, and has a variable for it that it reads when
    it is imported. Its processes read it at their own start.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with set_variables({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def check_address(address: str) -> None:
    """Check that a cluster answers at an address. Only for `auto` it is joined for a moment.

    Raises:
        InvalidInput: it is no address, or no cluster answers.

    """
    if address == "auto":
        try:
            with set_variables(DRIVER_VARIABLES):
                _join(address)
        finally:
            ray.shutdown()
        return
    with _joinable(address):
        _connect(address)


def _join(address: str) -> str | None:
    with _joinable(address):
        if address != "auto":
            _connect(address)
        context = ray.init(
            address=address,
            runtime_env=code_of_nodes() or None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
        return context.dashboard_url


def _connect(address: str) -> None:
    # Without this check, Ray would wait for 15 minutes and then end this process.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("it is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_WITHIN_S).close()


@contextlib.contextmanager
def _joinable(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InvalidInput(
            f"--address: given '{address}', but no Ray cluster can be joined there ({why}); allowed: auto | HOST:PORT "
            "of a cluster that `ray start --head` began"
        ) from None


def _spelled(amounts: Mapping[str, float]) -> str:
    units = {"CPU": "{:g} CPUs", "GPU": "{:g} GPUs", "memory": "{:.1f} GB"}
    return ", ".join(
        units[name].format(amount / 1e9 if name == "memory" else amount) for name, amount in amounts.items()
    )
