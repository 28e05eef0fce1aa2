"""The development cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"
MISSING = 'no development cluster: run `slurm/cluster.sh up`, then `eval "$(slurm/cluster.sh env)"`'
WAIT_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `state` is its state folder."""

    state: Path

    def ask(self, *words: str) -> str:
        """The output of a SLURM command."""
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, f"{' '.join(words)}: {ended.stderr}"
        return ended.stdout.strip()

    def script(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run cluster.sh: `script("kill-node", "1")`."""
        environment = os.environ | {"MOLEFLOW_SLURM_DIR": str(self.state)}
        return subprocess.run(
            [SCRIPT, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def submit(self, folder: Path, command: str, *options: str) -> str:
        """Submit a shell command whose output goes to `folder`/<job>.out; returns the job id."""
        output = folder / ("%A_%a.out" if any(option.startswith("--array") for option in options) else "%j.out")
        common = ["--parsable", f"--output={output}", "--open-mode=append"]
        return self.ask("sbatch", *common, *options, "--wrap", f"srun bash -c {shlex.quote(command)}")

    def shown(self, job: str, field: str) -> str:
        """A field of `scontrol show job`."""
        fields = dict(
            word.split("=", 1) for word in self.ask("scontrol", "-o", "show", "job", job).split() if "=" in word
        )
        return fields[field]

    def wait(self, true: Callable[[], object]) -> None:
        """Wait until a function returns true."""
        end = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end, f"it did not come true within {WAIT_S:.0f} s\n{self.ask('squeue')}"
            time.sleep(0.2)

    def end(self, job: str) -> str:
        """Wait until a job has ended for good; returns its state."""
        self.wait(lambda: not self.ask("squeue", "-ho", "%T", "-j", job))
        return self.shown(job, "JobState")

    def accounted(self, job: str, count: int, *options: str) -> list[str]:
        """The states in the `count` records of an ended job in sacct, which is seconds behind."""

        def states() -> list[str]:
            found = self.ask("sacct", "-nPo", "State", "-j", job, *options).split("\n")
            return [state for state in found if state not in ("", "PENDING", "RUNNING")]

        self.wait(lambda: len(states()) >= count)
        return states()


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that SLURM_CONF names. Tests kill its nodes, so it must be one of cluster.sh."""
    given = os.environ.get("SLURM_CONF")
    found = Cluster(Path(given).parent) if given else None
    if found is None or found.script("status").returncode != 0:
        pytest.fail(MISSING, pytrace=False)
    return found
