"""Makes made_by_72d732b.tar.xz: all that commit 72d732b left of two sweeps, one of them in a queue.

    sudo .venv/bin/python tests/upgrade/make_fixture.py tests/upgrade/made_by_72d732b.tar.xz

It takes half a minute, a Python that has the packages which that commit needs, and root, for a
SLURM of its own (slurm/cluster.sh of that commit). Everything happens in /tmp/upgrade, which must
not exist before and does not afterwards: so the fixture names no folder of whoever makes it.
These commands of that commit, given in /tmp/upgrade/place on a host called `old`, made it:

    moleflow-sweep sweep.yaml --backend inline             four trials, all finished
    moleflow-sweep queued.yaml --backend inline            seed 0 alone: two of the same trials
    moleflow-sweep queued.yaml --backend slurm --detach    seeds 0 and 1: the other two wait

The cluster's nodes are drained, so that no job starts; the folder is copied while both wait. Made
anew, times, process ids and the names of jobs differ, and digits where a processor is of another
kind; test_upgrade.py takes any of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

COMMIT = "72d732b6ae33b9443dabe3ce36a449208da624d1"
WORK = Path("/tmp/upgrade")
PLACE, CODE, VENV = WORK / "place", WORK / "code", WORK / "venv"
CLUSTER = {"MOLEFLOW_SLURM_DIR": str(WORK / "cluster"), "MOLEFLOW_SLURM_PORT": "21817"}

BASE = """\
data: {tasks: [bolt, cloth], image_size: 32, mask_size: 32}
backbone: {model: efficientnet_lite0, weights: random, layers: [1], grid: 4}
flow: {blocks: 2}
lora: {rank: 2}
adapter: {hidden: 8}
loss: {focal_form: per_dim}
training: {epochs: 2, batch_size: 4, optimizer: adamw, learning_rate: 0.003}
"""
SWEEP = """\
name: %s
question: Does gamma matter?
version: v7
base: base.yaml
data: images
grid: {focal_gamma: [0, 2]}
seeds: %d
report: {baseline: {focal_gamma: 0}}
"""


def draw_class(folder: Path, seed: int) -> None:
    """One class in the MVTec AD layout: stripes in few shades, for small files, and odd squares."""
    draws = np.random.default_rng(seed)

    def save(name: str, pixels: npt.NDArray[np.uint8]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        os.utime(path, (1e9, 1e9))

    def texture() -> npt.NDArray[np.uint8]:
        stripes = 60 * np.sin(np.arange(32) / (2 + seed) + draws.uniform(0, 6))
        grey = np.clip(128 + stripes + 20 * draws.standard_normal((32, 32)), 0, 255) // 24 * 24
        return np.stack([grey, 0.75 * grey, (0.5 + 0.25 * seed) * grey], axis=-1).astype(np.uint8)

    for n in range(8):
        save(f"train/good/{n:03}.png", texture())
    for n in range(4):
        save(f"test/good/{n:03}.png", texture())
        defective, mask = texture(), np.zeros((32, 32), dtype=np.uint8)
        y, x = draws.integers(0, 20, 2)
        mask[y : y + 12, x : x + 12] = 255
        defective[mask > 0] = 255 - defective[mask > 0]
        save(f"test/hole/{n:03}.png", defective)
        save(f"ground_truth/hole/{n:03}_mask.png", mask)


def furnish() -> None:
    """The folder in which commands are given."""
    for seed, name in enumerate(("bolt", "cloth")):
        draw_class(PLACE / "images" / name, seed)
    (PLACE / "base.yaml").write_text(BASE)
    (PLACE / "sweep.yaml").write_text(SWEEP % ("small", 2))
    (PLACE / "queued.yaml").write_text(SWEEP % ("queued", 1))


def ran(*words: str | Path, **environment: str) -> str:
    """The output of a command in PLACE, on a host of another name; it must succeed."""
    named = ("unshare", "--uts", "sh", "-c", 'hostname old && exec "$@"', "sh")
    ended = subprocess.run(
        [*named, *words],
        cwd=PLACE,
        env=environment | {"PWD": str(PLACE)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(ended.stdout, flush=True)
    return ended.stdout


def sweep(*words: str, **environment: str) -> str:
    """The output of the old commit's command line."""
    mine = {"PATH": os.environ["PATH"], "HOME": str(WORK / "home"), "USER": "root", "LC_ALL": "C.UTF-8"}
    mine |= {"PYTHONPATH": str(CODE), "MOLEFLOW_CACHE": str(PLACE / "cache")} | environment
    return ran(VENV / "bin/python", "-m", "orchestrator.cli", *words, **mine)


def queue() -> None:
    """Submit the second sweep to a cluster that starts no jobs; copy all while they wait."""
    script, environment = CODE / "slurm/cluster.sh", dict(os.environ) | CLUSTER
    subprocess.run([script, "up"], env=environment, check=True)
    try:
        slurm = {"SLURM_CONF": str(WORK / "cluster/slurm.conf")}
        for node in ("n1", "n2"):
            change = ["scontrol", "update", f"nodename={node}", "state=drain", "reason=fixture"]
            subprocess.run(change, env=environment | slurm, check=True)
        sweep("queued.yaml", "--backend", "slurm", "--detach", **slurm)
        time.sleep(2)
        waiting = subprocess.run(["squeue", "-hro", "%T"], env=environment | slurm, capture_output=True, text=True)
        assert waiting.stdout.split() == ["PENDING"] * 2, waiting
        print(sweep("status", "results/queued", **slurm))
        shutil.copytree(PLACE, WORK / "kept", symlinks=True)
    finally:
        subprocess.run([script, "wipe"], env=environment, check=True)


def names_nothing_else(folder: Path) -> None:
    """No file names a folder of this machine, not within Parquet either."""
    here = {str(Path(__file__).resolve().parents[2]), sys.prefix, str(Path.home()), "/home"}
    for path in filter(Path.is_file, folder.rglob("*")):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pylist()).encode()
        found = [one for one in here if one.encode() in content]
        assert not found, f"{path}: names {found}"


def pack(folder: Path, target: Path) -> None:
    """One archive, the same bytes for the same files and times."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(member.mtime)
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(target, "w:xz", preset=9, format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)


def main() -> None:
    """Make it."""
    target = Path(sys.argv[1]).resolve()
    repository = Path(__file__).resolve().parents[2]
    WORK.mkdir()
    try:
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", repository, CODE], check=True)
        subprocess.run(["git", "-C", CODE, "checkout", "--quiet", COMMIT], check=True)
        VENV.symlink_to(sys.prefix, target_is_directory=True)  # A prefix that names no folder of this machine.
        (WORK / "home").mkdir()
        furnish()
        sweep("sweep.yaml", "--backend", "inline")
        sweep("queued.yaml", "--backend", "inline")
        (PLACE / "queued.yaml").write_text(SWEEP % ("queued", 2))
        queue()
        names_nothing_else(WORK / "kept")
        pack(WORK / "kept", target)
        print(f"{target}: {target.stat().st_size} bytes")
    finally:
        shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
