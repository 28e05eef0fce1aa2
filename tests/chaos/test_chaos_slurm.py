"""SLURM jobs under faults: nothing is lost, nothing runs twice, and no job is left behind."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.slurm]

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"
MISSING = 'no development cluster: run `slurm/cluster.sh up`, then `eval "$(slurm/cluster.sh env)"`'
PROFILE = "partition: low\ntrials_per_job: 5\nparallelism: 2\nsignal_s: 30\n"
RESOURCES = "resources: {time_min: 3, mem_gb: 2}\n"


@dataclass(frozen=True)
class Jobs:
    """This user's jobs and the nodes they run on."""

    state: Path

    def ask(self, *words: str) -> str:
        """The output of a SLURM command."""
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, f"{' '.join(words)}: {ended.stderr}"
        return ended.stdout.strip()

    def does(self, *words: str) -> bool:
        """True if a SLURM command succeeded; its job may have ended by now."""
        return subprocess.run(words, capture_output=True, timeout=60).returncode == 0

    def script(self, *words: str) -> bool:
        """Run cluster.sh; true if it succeeded."""
        environment = os.environ | {"MOLEFLOW_SLURM_DIR": str(self.state)}
        return subprocess.run([SCRIPT, *words], env=environment, capture_output=True, timeout=120).returncode == 0

    def queued(self) -> list[str]:
        """The array tasks in the queue, as `7_0 RUNNING n1`."""
        listed = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--array", "--format=%i %T %N"]
        return self.ask(*listed).splitlines()

    def node_of(self, array_task: str) -> str | None:
        """The node on which an array task runs; None if it does not."""
        found = [line.split()[2:] for line in self.queued() if line.startswith(f"{array_task} RUNNING")]
        return found[0][0] if found and found[0] else None

    def set_node(self, node: str, state: str) -> None:
        """Have SLURM take a node for down, drained or usable."""
        self.ask("scontrol", "update", f"nodename={node}", f"state={state}", "reason=chaos")


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    given = os.environ.get("SLURM_CONF")
    found = Jobs(Path(given).parent) if given else None
    if found is None or not found.script("status"):
        pytest.fail(MISSING, pytrace=False)
    yield found
    found.ask("scancel", f"--user={getpass.getuser()}")
    assert found.script("up")


def test_jobs(siege, jobs, nothing_is_lost):
    sweep = siege(("--backend", "slurm", "--profile", "site.yaml"))
    (sweep.place / "site.yaml").write_text(PROFILE)
    with (sweep.place / "sweep.yaml").open("a") as file:
        file.write(RESOURCES)

    def running() -> tuple[str, str] | None:
        """A job whose worker is at a trial, and its node."""
        job = sweep.one_at_work().content["job"].partition("@")[0]  # After the @ stands its array's own name.
        node = jobs.node_of(job)
        return (job, node) if node else None

    def one_running() -> tuple[str, str]:
        found: tuple[str, str] = sweep.until(running, "a job that runs", driven=True)
        return found

    def kill_node() -> None:
        _, node = one_running()
        assert jobs.script("kill-node", node.removeprefix("n"))
        jobs.set_node(node, "down")
        time.sleep(sweep.random.uniform(1, 4))
        assert jobs.script("start-node", node.removeprefix("n"))

    def kill_slurmd() -> None:
        """Its jobs go on, and the next slurmd takes them up."""
        _, node = one_running()
        os.kill(int((jobs.state / f"run/{node}.pid").read_text()), signal.SIGKILL)
        time.sleep(sweep.random.uniform(1, 4))
        assert jobs.script("start-node", node.removeprefix("n"))

    def drain_node() -> None:
        _, node = one_running()
        jobs.set_node(node, "drain")
        time.sleep(sweep.random.uniform(1, 4))
        jobs.set_node(node, "resume")

    def requeue_and_damage(damage: Callable[[Path], None]) -> None:
        """A job told to go keeps a checkpoint, and comes back after some seconds."""
        damaged = 0
        while not damaged:
            if jobs.does("scontrol", "requeue", one_running()[0]):
                time.sleep(1)
                for path in sweep.checkpoints():
                    with suppress(FileNotFoundError):  # Its job may be back already and done with it.
                        damage(path)
                        damaged += 1

    sweep.run(
        {
            "worker killed": (2, lambda: sweep.signal_worker(signal.SIGKILL)),
            "process killed as it writes a part": (1, sweep.kill_writer),
            "driver killed": (2, sweep.kill_driver),
            "another driver": (1, sweep.start),
            "node killed": (1, kill_node),
            "slurmd killed": (1, kill_slurmd),
            "node drained": (1, drain_node),
            "job cancelled from outside": (1, lambda: jobs.ask("scancel", one_running()[0])),
            "job requeued from outside, its checkpoint cut": (1, lambda: requeue_and_damage(sweep.cut)),
            "job requeued from outside, a bit of its checkpoint flipped": (1, lambda: requeue_and_damage(sweep.flip)),
            "part cut": (1, lambda: sweep.cut(sweep.part())),
            "part with a flipped bit": (1, lambda: sweep.flip(sweep.part())),
        }
    )
    sweep.until(lambda: not jobs.queued(), "the queue to be empty")
    nothing_is_lost(sweep)
