"""Several Ray nodes on one machine: each has its own raylet and workers, and can die alone."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import ray

from moleflow.errors import InvalidInput
from orchestrator.backends.ray.cluster import _request, connected
from orchestrator.records.attempts import FAILED, FINISHED, WORKER_DIED, AttemptFolder
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources

pytestmark = pytest.mark.ray
SMALL = {"object_store_memory": 80_000_000, "memory": 4_000_000_000, "include_dashboard": False}


@pytest.fixture
def cluster(head):
    """A head that runs no trials and two nodes that run one each."""
    return head, [head.add_node(**SMALL, num_cpus=1) for _ in range(2)]


def test_a_node_that_dies_costs_the_attempt_that_ran_there(cluster, long_sweep, long_run, on_ray, digits):
    made, nodes = cluster
    workers, lost = {}, []

    def listen(event):
        if event.kind != "epoch":
            return
        workers.setdefault(event.facts["worker"], event.trial_id)
        if len(workers) == 2 and not lost and event.facts["epoch"] < 30:  # Both nodes are at work.
            lost.append(nodes[0])
            made.remove_node(nodes[0], allow_graceful=False)

    tally = on_ray(listen, address=made.address)
    assert lost
    assert len(tally.finished) == 4
    assert not tally.failed
    rows = ResultStore(long_sweep / "results/small").read("attempts").to_pylist()
    failed = [row for row in rows if row["status"] == FAILED]
    assert [row["error_kind"] for row in failed] == [WORKER_DIED]
    ends = {(r.trial_id, r.attempt): r.state for r in AttemptFolder(long_sweep / "results/small/attempts").all()}
    assert sorted(ends.values()) == [FAILED, *[FINISHED] * 4]
    assert digits(long_sweep / "results/small") == digits(long_run.folder / "results/small")


def test_a_cluster_that_a_run_starts_listens_on_this_machine_alone(monkeypatch):
    """Ray by itself binds to all interfaces, where anybody in the network may run code."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    setup = SimpleNamespace(device="cpu", threads=1)
    with connected(None, SimpleNamespace(cpus=1, mem_gb=0.5, gpus=0), setup, True, lambda _: None):
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        listening = {
            connection.laddr.ip
            for process in psutil.Process().children(recursive=True)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert listening


def test_what_no_node_can_hold_is_refused_before_anything_runs(cluster, place, edit, command):
    made, _ = cluster
    edit(resources={"cpus": 3})
    refused = command("sweep.yaml", "--backend", "ray", "--address", made.address)
    assert refused.code == 2
    assert "a trial asks for 3 CPUs, 4.0 GB, and no node of this Ray cluster has as much" in refused.err
    assert "the most of each on one node: 1 CPUs" in refused.err


@pytest.mark.parametrize(
    ("gpus", "device", "request_"),
    [(None, "auto", 0.25), (None, "cpu", None), (0.0, "auto", None), (1.0, "auto", 0.25), (4.0, "auto", 1.0)],
)
def test_the_share_of_a_gpu_that_a_trial_requests(gpus, device, request_):
    needs = Resources(gpus=gpus, trials_per_gpu=4)
    setup = SimpleNamespace(device=device, threads=1)
    assert _request(needs, setup, [{"CPU": 8.0, "GPU": 4.0}]).get("GPU") == request_


def test_no_gpu_and_a_gpu_contradict_each_other():
    with pytest.raises(InvalidInput, match="leave one of them out"):
        _request(Resources(gpus=0), SimpleNamespace(device="cuda", threads=1), [{"CPU": 8.0, "GPU": 4.0}])
