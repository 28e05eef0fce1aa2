"""Ray itself: started here for one run, or joined; and what a trial asks of it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray

from moleflow.cache.claim import is_stale, try_claim
from moleflow.errors import InvalidInput
from orchestrator.execution.backend import WorkerConfig
from orchestrator.host.environment_variables import set_variables
from orchestrator.host.hardware import available_cores, memory_gb, visible_gpus
from orchestrator.sweep.file_schema import Resources

OBJECT_STORE_BYTES = 150_000_000
SHARES_OF_A_GPU = 10_000
ANSWER_WITHIN_S = 10.0
PREFIX, LONGEST_FOLDER = "moleflow-ray-", 40
DRIVER_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # Results are in the parts and progress in the event logs.
    "RAY_AIR_NEW_OUTPUT": "0",  # The new one prints tables even when told to be silent.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "4",  # Handed over ahead: with one, a process waits for its next trial.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # A trial's last word has no metric.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # A driver resumes from the results folder.
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        storage: an empty folder for what Tune keeps of a run; it goes when the connection ends.

    """

    storage: Path

    def request(self, needs: Resources, setup: WorkerConfig) -> dict[str, float]:
        """What one trial asks of Ray.

        A GPU is shared as the sweep file says: `gpus` of `trials_per_gpu` trials together. Where it asks for none and the cluster has some,
        a trial gets its share of one, unless it is told to run on the CPU.

        Raises:
            InvalidInput: no node has as much, or the share of a GPU is none that Ray knows.

        """
        nodes = [node["Resources"] for node in cast(Any, ray).nodes() if node["Alive"]]
        there = any(node.get("GPU", 0) > 0 for node in nodes)
        if setup.device == "cuda" and not there:
            raise InvalidInput("--device: given 'cuda', but no node of this Ray cluster has a GPU; allowed: auto | cpu")
        wanted = 0.0 if setup.device == "cpu" else (needs.gpus or float(there)) / needs.trials_per_gpu
        if wanted > 1 and wanted % 1:
            raise InvalidInput(f"resources.gpus: {wanted:g} for one trial; Ray gives a share of one GPU or whole ones")
        share = int(wanted * SHARES_OF_A_GPU) / SHARES_OF_A_GPU
        asked = {
            "CPU": float(max(setup.threads, needs.cpus)),
            **({"GPU": share} if share else {}),
            "memory": float(int(needs.mem_gb * 1e9)),
        }
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in asked}
            raise InvalidInput(
                f"resources: a trial asks for {_spelled(asked)}, and no node of this Ray cluster has as much; "
                f"the most of each on one node: {_spelled(most)}"
            )
        return asked


@contextlib.contextmanager
def connected(
    address: str | None, needs: Resources, setup: WorkerConfig, dashboard: bool, say: Callable[[str], None]
) -> Iterator[Cluster]:
    """Ray, started here and ended with the block, or a cluster that was there before and stays.

    Args:
        address: of a running cluster, or `auto` for the one of this machine; None = start one.
        needs: what a trial needs; where Ray is started here, it gets at least that.
        setup: what workers need.
        dashboard: whether to start one where Ray is started here.
        say: where the dashboard's address goes.

    Raises:
        InvalidInput: no cluster answers at `address`.

    """
    # Ray keeps its sockets in this folder, and their paths must be short.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= LONGEST_FOLDER else "/tmp"  # noqa: S108
    _clear_after_the_dead(Path(short))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=short))
    claim = try_claim(folder / "owner")
    try:
        with set_variables(DRIVER_VARIABLES):
            shown_at = _join(address) if address else _start(folder, needs, setup, dashboard)
            if shown_at:
                say(f"dashboard: http://{shown_at}")
            yield Cluster(folder / "tune")
    finally:
        ray.shutdown()
        if claim:
            claim.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _clear_after_the_dead(place: Path) -> None:
    """Remove what drivers left that were killed."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # Another user's.
            if is_stale(folder / "owner"):
                for content in {*folder.iterdir()} - {folder / "owner"}:
                    shutil.rmtree(content, ignore_errors=True)
                # Processes of Ray that still end may write again: what they leave then is the next run's to remove.
                if {*folder.iterdir()} == {folder / "owner"}:
                    shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, needs: Resources, setup: WorkerConfig, dashboard: bool) -> str | None:
    gpus = 0 if setup.device == "cpu" else len(visible_gpus())
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


def check_address(address: str) -> None:
    """See that a cluster can be joined at an address, without joining one whose host and port are given.

    Raises:
        InvalidInput: it is no address, or nobody answers there.

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
        return ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL).dashboard_url


def _connect(address: str) -> None:
    """Ray itself would wait for a quarter of an hour, and then end this process."""
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
