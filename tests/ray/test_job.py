"""A sweep that `ray job submit` starts, on a cluster that grows when it is asked to.

Ray's fake provider of nodes starts them as processes of this machine. It reads no amount of memory,
so the trials ask for none.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records.attempts import FINISHED, AttemptFolder
from orchestrator.results.store import ResultStore

pytestmark = pytest.mark.ray
BIN = Path(sys.executable).parent
LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
PORT = 6379
"""The port where the nodes of the fake provider look for their head."""
AUTOSCALING = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {
            "resources": {"CPU": 1, "object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "auth": {"ssh_user": "nobody"},
    "docker": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    "idle_timeout_minutes": 5,
    "upscaling_speed": 1.0,
    **{name: [] for name in LISTS},
}


@pytest.fixture
def growing(tmp_path, wait_until, monkeypatch):
    """The address of the job server of a head without CPUs, whose cluster grows to two nodes."""
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        dashboard = found.getsockname()[1]
    (tmp_path / "growing.json").write_text(json.dumps(AUTOSCALING))
    options = ("--num-cpus=0", f"--port={PORT}", "--object-store-memory=80000000", f"--dashboard-port={dashboard}")
    log = tmp_path / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", *options, f"--autoscaling-config={tmp_path / 'growing.json'}"],
            env={**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text())
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def test_a_submitted_job_waits_for_the_nodes_that_it_asks_for(growing, place, features, edit, images):
    edit(seeds=1, report=None, resources={"mem_gb": 1e-10})
    sweep = [BIN / "moleflow-sweep", "run", place / "sweep.yaml", "--out", place / "results/small"]
    on_ray = ["--cache", place / "cache", "--backend", "ray", "--address", "auto", "--wait-for-nodes", "2"]
    submitted = subprocess.run(
        [BIN / "ray", "job", "submit", "--address", growing, "--", *sweep, *on_ray],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "waiting for 2 nodes with room for a trial; in the cluster now: 1" in submitted.stdout
    assert ResultStore(place / "results/small").read("attempts").num_rows == 2
    assert {record.state for record in AttemptFolder(place / "results/small/attempts").all()} == {FINISHED}
