"""The development cluster behaves as the other tests expect."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from moleflow.owner import process_started

pytestmark = pytest.mark.slurm


def lines(folder, job):
    path = folder / f"{job}.out"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_up_changes_nothing_where_all_is_up(cluster):
    before = {path.name: path.read_text() for path in (cluster.state / "run").glob("*.pid")}
    assert len(before) >= 4
    assert cluster.script("up").returncode == 0
    assert {path.name: path.read_text() for path in (cluster.state / "run").glob("*.pid")} == before


def test_nothing_listens_beyond_loopback(cluster):
    ports = {int(port) for port in re.findall(r"Port=\[?(\d+)", (cluster.state / "slurm.conf").read_text())}
    assert len(ports) == 3
    listening = [
        row.split()[1].split(":") for row in Path("/proc/net/tcp").read_text().split("\n")[1:-1] if " 0A " in row
    ]
    ours = [address for address, port in listening if int(port, 16) in ports]
    assert len(ours) >= 2
    assert set(ours) == {"0100007F"}


def test_an_array_has_hosts_and_gpus_of_its_own(cluster, tmp_path):
    all_started = f"[ $(ls {tmp_path} | wc -l) = 4 ]"
    command = f"echo $SLURMD_NODENAME $(hostname) $CUDA_VISIBLE_DEVICES; until {all_started}; do sleep 0.1; done"
    job = cluster.submit(tmp_path, command, "--array=0-3", "--gres=gpu:1")
    cluster.end(job)
    ran = [tuple(lines(tmp_path, f"{job}_{n}")[0].split()) for n in range(4)]
    assert {(node, gpu) for node, _, gpu in ran} == {("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")}
    hosts = {(node, host) for node, host, _ in ran}
    assert len(hosts) == len({host for _, host in hosts} - {socket.gethostname()}) == 2
    assert cluster.accounted(job, 4, "-X") == ["COMPLETED"] * 4


def test_an_array_above_the_limit_is_refused(cluster, tmp_path):
    most = int(re.findall(r"MaxArraySize\s+= (\d+)", cluster.ask("scontrol", "show", "config"))[0])
    refused = ["sbatch", "--hold", f"--array=0-{most}", "--output=/dev/null", "--wrap=true"]
    assert "Invalid job array" in subprocess.run(refused, capture_output=True, text=True, check=False).stderr
    cluster.ask("scancel", cluster.submit(tmp_path, "true", "--hold", f"--array=0-{most - 1}"))


def test_too_much_memory(cluster, tmp_path):
    job = cluster.submit(tmp_path, "python3 -c 'bytearray(300 << 20)'", "--mem=100")
    assert cluster.end(job) in ("FAILED", "OUT_OF_MEMORY")
    assert "OUT_OF_MEMORY" in cluster.accounted(job, 3)


def test_a_preempted_job_is_told_and_comes_back(cluster, tmp_path):
    report = "trap 'echo told' USR2; echo start ${SLURM_RESTART_COUNT:-0}"
    # It runs until it is killed: a job that ends by itself has completed and is not requeued.
    first = f"{report}; [ $SLURM_RESTART_COUNT ] || while sleep 0.2; do :; done"
    job = cluster.submit(tmp_path, first, "-p", "low", "-w", "n1", "--gres=gpu:2", "--signal=USR2@30")
    cluster.wait(lambda: lines(tmp_path, job))
    urgent = cluster.submit(tmp_path, "true", "-p", "high", "-w", "n1", "--gres=gpu:2")
    assert cluster.end(urgent) == "COMPLETED"
    assert cluster.end(job) == "COMPLETED"
    said = lines(tmp_path, job)
    assert said[0] == "start 0"
    assert "told" in said
    assert "start 1" in said
    assert cluster.accounted(job, 2, "-X", "--duplicates") == ["PREEMPTED", "COMPLETED"]


def test_a_node_that_dies_takes_everything_with_it_and_its_job_starts_anew(cluster, tmp_path):
    command = "echo $SLURMD_NODENAME; [ $SLURM_RESTART_COUNT ] || { setsid sleep 600 & echo $!; sleep 600; }"
    job = cluster.submit(tmp_path, command)
    cluster.wait(lambda: len(lines(tmp_path, job)) == 2)
    node, left_behind = lines(tmp_path, job)
    assert process_started(int(left_behind))
    try:
        assert cluster.script("kill-node", node).returncode == 0
        assert not process_started(int(left_behind))
        assert cluster.script("status").returncode == 1
        cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        assert cluster.end(job) == "COMPLETED"
    finally:
        started = cluster.script("start-node", node)
    assert started.returncode == 0, started.stderr
    assert lines(tmp_path, job)[-1] != node
    assert cluster.accounted(job, 2, "-X", "--duplicates") == ["NODE_FAIL", "COMPLETED"]
    assert cluster.script("status").returncode == 0


def test_mistakes_are_answered_in_one_line(cluster):
    ended = cluster.script("kill-node", "99")
    assert (ended.returncode, ended.stderr) == (1, "cluster.sh: kill-node: given '99', allowed: n1 to n2\n")


def test_no_root_no_cluster():
    command = ["unshare", "--user", Path(__file__).parents[2] / "slurm/cluster.sh", "up"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "cluster.sh: up: needs root, and this is nobody\n")
