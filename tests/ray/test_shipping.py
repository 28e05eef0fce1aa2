"""A cluster whose nodes share no disk with the driver: their mount namespaces lack its folders."""

from __future__ import annotations

import importlib.util
import re
import signal
from itertools import product
from operator import mul
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import save_file

from moleflow.features.timm_import import import_timm
from moleflow.features.weights import PACKAGE, PRETRAINED, weights_file
from moleflow.settings.config import BackboneKnobs
from orchestrator.backends.ray.node import nodes_folder
from orchestrator.records.attempts import DIED, FAILED, FINISHED, INTERRUPTED, RUNNING, WORKER_DIED, AttemptFolder
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.results.store import ResultStore

pytestmark = pytest.mark.ray
RESULTS = "results/small"
OF_PACKAGE = BackboneKnobs(weights=PACKAGE)


def package_folders():
    """The folders of the package with weights, as the environment imports it."""
    return [Path(folder) for folder in importlib.util.find_spec(PACKAGE.replace("-", "_")).submodule_search_locations]


def probes(place):
    """The probes of drivers in the results and the cache."""
    return [*(place / RESULTS).rglob("*.probe"), *(place / "cache").rglob("*.probe")]


def leftovers(place):
    """Probes, and the folders of runs on nodes; all nodes of this machine share one."""
    return [*probes(place), *(path for path in nodes_folder().iterdir() if path.name != "lock")]


@pytest.fixture
def own_weights(place):
    """Write a base that names a file of weights in the folder of the driver; returns its name."""
    torch.manual_seed(0)
    save_file(import_timm().create_model("efficientnet_lite0", num_classes=0).state_dict(), place / "w.safetensors")
    base = yaml.safe_load((place / "base.yaml").read_text())
    base["backbone"]["weights"] = str(place / "w.safetensors")
    (place / "own.yaml").write_text(yaml.safe_dump(base))
    return "own.yaml"


def test_trials_on_a_node_without_the_drivers_disk_give_the_digits_of_inline(
    head, separate_node, place, images, own_weights, edit, command, digits
):
    """The node computes the features of the first run, and fetches those for the second one."""
    trace = place.parent / f"{place.name}.strace"
    separate_node(trace=trace)
    here = ("sweep.yaml", "--backend", "ray", "--address", head.address, "--wait-for-nodes", "1")
    edit(seeds=1, report=None, base=own_weights)
    first = command(*here)
    assert first.code == 0, first.err + first.out
    assert f"1 of 2 nodes do not see the results ({place / RESULTS}), the cache ({place / 'cache'})" in first.out
    edit(seeds=2, report=None, base=own_weights)
    second = command(*here)
    assert second.code == 0, second.err + second.out
    sent = [set(re.findall(r"MB of (\w+)", ran.out)) for ran in (first, second)]
    assert {"images", "weights"} <= sent[0]
    assert {"images", "weights", "features"} <= sent[1]
    assert not (place / "cache/ray").exists()
    assert not any(nodes_folder().glob("ray-*"))  # The copies are gone.
    assert not [path for path in (place / RESULTS).rglob("*.tmp") if path.is_file()]

    # No process of the node opened a file of the driver. It asked for the probes.
    seen = re.findall(rf'"({re.escape(str(place))}/[^"]*|{re.escape(str(images))}/[^"]*)"(.*)', trace.read_text())
    found = {path for path, rest in seen if "ENOENT" not in rest and "unfinished" not in rest}
    assert found == set()
    asked = {path for path, _ in seen}
    assert len([path for path in asked if path.endswith(".probe")]) == 4  # Of two runs, in two folders.
    assert len(asked) == 6, asked  # And one image, and the weights.

    assert command("sweep.yaml", "--backend", "inline", "--out", "other", "--cache", "other_cache").code == 0
    assert digits(place / RESULTS) == digits(place / "other")
    keys = [sorted(path.name for path in (place / cache).glob("*/*/*/")) for cache in ("cache", "other_cache")]
    assert keys[0] == keys[1]


@pytest.fixture
def hub(place, monkeypatch):
    """Fill the driver's cache of the Hugging Face hub with drawn weights; nodes have none."""
    monkeypatch.setenv("HF_HOME", str(place / "hub_of_nodes"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    repository, commit = place / "hub/models--timm--efficientnet_lite0.ra_in1k", "0" * 40
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    torch.manual_seed(1)
    save_file(import_timm().create_model("efficientnet_lite0").state_dict(), snapshot / "model.safetensors")


def test_trials_on_nodes_in_networks_of_their_own_give_the_digits_of_inline(
    network, head, separate_node, place, hub, edit, command, digits
):
    """Each node has folders of its own for Ray and for copies, and no weights of hub or package."""
    nodes_folder().mkdir(exist_ok=True)
    hidden = [Path(head.head_node.get_temp_dir_path()), nodes_folder(), *package_folders()]
    for node in network.nodes:
        separate_node(network=node, more_hidden=hidden)
    edit(grid={"backbone.weights": [PRETRAINED, PACKAGE]}, report=None)
    ran = command("sweep.yaml", "--backend", "ray", "--address", head.address, "--wait-for-nodes", "2")
    assert ran.code == 0, ran.err + ran.out
    assert "2 of 3 nodes do not see the results" in ran.out
    addresses = {node["NodeManagerAddress"] for node in head.global_state.node_table()}
    assert addresses == {network.head, *(address for _, address in network.nodes)}
    workers = {row["worker"] for row in ResultStore(place / RESULTS).read("attempts").to_pylist()}
    assert len(workers) > 1
    files = [*(place / "hub").rglob("*.safetensors"), weights_file(OF_PACKAGE)]
    sizes = [path.stat().st_size / 1e6 for path in files]
    by_nodes = [sum(map(mul, nodes, sizes)) for nodes in product((1, 2), repeat=2)]  # Each to one node or to both.
    sent = float(re.search(r"([\d.]+) MB of weights", ran.out)[1])
    assert any(sent == pytest.approx(size, abs=0.06) for size in by_nodes), (sent, by_nodes)
    assert command("sweep.yaml", "--backend", "inline", "--out", "other", "--cache", "other_cache").code == 0
    assert digits(place / RESULTS) == digits(place / "other")


def test_a_node_that_dies_costs_an_attempt_and_one_that_joins_goes_on(
    head, separate_node, long_sweep, long_run, on_ray, digits, wait_until
):
    first, workers, lost = separate_node(), {}, []

    def listen(event):
        if event.kind != "epoch":
            return
        if not workers:  # The driver hands out no further trial until the second node is there.
            wait_until(separate_node().is_up)
        workers.setdefault(event.facts["worker"], event.trial_id)
        if not lost and event.trial_id not in workers.values() and event.facts["epoch"] < 100:
            lost.append(event.trial_id)  # The second trial of the first node, at work.
            first.end()

    tally = on_ray(listen, address=head.address, wait_for_nodes=1)
    assert lost
    assert len(workers) == 2
    assert (len(tally.finished), tally.failed) == (4, {})
    rows = ResultStore(long_sweep / RESULTS).read("attempts").to_pylist()
    assert [row["error_kind"] for row in rows if row["status"] == FAILED] == [WORKER_DIED]
    ends = sorted(record.state for record in AttemptFolder(long_sweep / RESULTS / "attempts").all())
    assert ends == [FAILED, *[FINISHED] * 4]
    assert digits(long_sweep / RESULTS) == digits(long_run.folder / RESULTS)


@pytest.fixture
def epochs(long_sweep):
    """The function that reads the epochs logged so far: (trial, attempt, task, epoch) of each."""

    def read():
        logged = LogFollower(event_logs(long_sweep / RESULTS)).read_new()
        told = [(entry.event.trial_id, entry.event.facts) for entry in logged if entry.event.kind == "epoch"]
        return [(trial, facts["attempt"], facts["task"], facts["epoch"]) for trial, facts in told]

    return read


def test_ctrl_c_ends_trials_on_nodes_at_an_epoch_that_the_same_command_continues(
    head, separate_node, long_sweep, long_run, start, wait_until, digits, epochs, actors
):
    wait_until(separate_node().is_up)
    words = ("sweep.yaml", "--backend", "ray", "--address", head.address, "--wait-for-nodes", "1")
    running = start(*words)
    wait_until(epochs)
    assert actors()
    running.signal(signal.SIGINT)
    ended = running.end()
    assert ended.code == 130, ended.err + ended.out
    assert "Traceback" not in ended.err
    assert "to continue, run: " in ended.out
    wait_until(lambda: not actors())
    assert leftovers(long_sweep) == []
    records = AttemptFolder(long_sweep / RESULTS / "attempts").all()
    (stopped,) = [record.trial_id for record in records if record.state == INTERRUPTED]
    assert {record.state for record in records} <= {INTERRUPTED, FINISHED}

    again = start(*words).end(timeout=240)
    assert again.code == 0, again.err
    steps = {
        attempt: [step for trial, *step in epochs() if trial == stopped and step[0] == attempt] for attempt in (1, 2)
    }
    assert steps[2][0][1:] > [0, 1]  # The first task goes on, or is over.
    assert steps[2][0][1:] >= steps[1][-1][1:]
    assert digits(long_sweep / RESULTS) == digits(long_run.folder / RESULTS)
    assert leftovers(long_sweep) == []


def test_a_driver_that_is_killed_resumes_on_nodes_without_its_disk(
    head, separate_node, long_sweep, long_run, start, wait_until, digits, epochs
):
    wait_until(separate_node().is_up)
    words = ("sweep.yaml", "--backend", "ray", "--address", head.address, "--wait-for-nodes", "1")
    attempts = AttemptFolder(long_sweep / RESULTS / "attempts")

    running = start(*words)
    wait_until(epochs)
    running.process.send_signal(signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    wait_until(lambda: not [record for record in attempts.all() if record.state == RUNNING])
    assert [record for record in attempts.all() if record.state == DIED]
    assert any(nodes_folder().iterdir())
    assert len(probes(long_sweep)) == 2
    again = start(*words).end(timeout=240)
    assert again.code == 0, again.err
    assert digits(long_sweep / RESULTS) == digits(long_run.folder / RESULTS)
    assert leftovers(long_sweep) == []
