"""Fixtures for all tests: generated images, a small sweep, and the command line."""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

# Numeric libraries read these when they are loaded, so they are set before any is imported. Tests
# run side by side on few cores, where more threads only slow them. Child processes inherit them.
os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
)
# No test waits two minutes for a file server that its own fault has taken away.
os.environ["MOLEFLOW_FILE_RETRY_S"] = "0.1"

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import yaml
from PIL import Image

from orchestrator.cli import entry
from orchestrator.results.store import ResultStore

# A shell that starts the tests in the background ignores SIGINT, and child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

BACKBONE = {"model": "efficientnet_lite0", "weights": "random", "layers": [1, 2], "aggregate": "concat", "grid": 4}
BASE = {
    "data": {"tasks": ["bolt", "cloth"], "image_size": 32, "mask_size": 32},
    "backbone": BACKBONE,
    "flow": {"blocks": 2},
    "lora": {"rank": 2},
    "training": {"epochs": 2, "batch_size": 4, "optimizer": "adamw"},
}
SWEEP = {
    "name": "small",
    "question": "Does [gamma] matter?",
    "version": "v7",
    "base": "base.yaml",
    "data": "images",
    "grid": {"focal_gamma": [0, 2]},
    "seeds": 2,
    "report": {"baseline": {"focal_gamma": 0}},
}
WAIT_S = 60.0


def draw_class(folder: Path, size: int, seed: int) -> None:
    """Draw a class in the MVTec AD layout: noisy stripes, with inverted squares as defects."""
    draws = np.random.default_rng(seed)

    def save(name: str, pixels: npt.NDArray[np.uint8]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def texture() -> npt.NDArray[np.uint8]:
        stripes = 60 * np.sin(np.arange(size) / (2 + seed) + draws.uniform(0, 6))
        grey = 128 + stripes + 20 * draws.standard_normal((size, size))
        return np.clip(np.stack([grey, 0.9 * grey, (0.5 + 0.3 * seed) * grey], axis=-1), 0, 255).astype(np.uint8)

    for n in range(12):
        save(f"train/good/{n:03}.png", texture())
    for n in range(4):
        save(f"test/good/{n:03}.png", texture())
        defective, mask = texture(), np.zeros((size, size), dtype=np.uint8)
        y, x = draws.integers(0, size - 12, 2)
        mask[y : y + 12, x : x + 12] = 255
        defective[mask > 0] = 255 - defective[mask > 0]
        save(f"test/hole/{n:03}.png", defective)
        save(f"ground_truth/hole/{n:03}_mask.png", mask)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Set torch back to one thread, if an earlier test has loaded it and changed that."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def draw() -> Callable[[Path, int, int], None]:
    """The function that draws a class into a folder, at a size in pixels, from a seed."""
    return draw_class


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two classes."""
    root = tmp_path_factory.mktemp("data") / "images"
    draw_class(root / "bolt", 32, 0)
    draw_class(root / "cloth", 48, 1)
    for path in root.rglob("*.png"):  # Only digests of files older than two seconds are cached.
        os.utime(path, (1e9, 1e9))
    return root


@pytest.fixture(scope="session")
def small_backbone() -> dict[str, Any]:
    """A copy of the settings of a backbone that computes features in milliseconds."""
    return copy.deepcopy(BACKBONE)


@pytest.fixture(scope="session")
def furnish() -> Callable[..., Path]:
    """The function that writes the base, the small sweep and a link to the images into a folder."""
    return _furnish


def _furnish(folder: Path, images: Path, **changes: Any) -> Path:
    """Write the base, a link to the images and the small sweep; None removes one of its keys."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    if not (folder / "images").exists():
        (folder / "images").symlink_to(images, target_is_directory=True)
    sweep = {key: value for key, value in (SWEEP | changes).items() if value is not None}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def run_here(folder: Path, *words: str, capture: pytest.CaptureFixture[str] | None = None) -> Ended:
    """Run a command line in this process, in a folder whose `cache` is its cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MOLEFLOW_CACHE", str(folder / "cache"))
        patch.delenv("MOLEFLOW_DATA", raising=False)
        patch.setattr(sys, "argv", ["moleflow-sweep", *words])
        try:
            entry.main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
    out, err = capture.readouterr() if capture else ("", "")
    return Ended(code, out, err)


HANG = """
import os, time
link = os.link

def hang(source, target, **named):
    if os.environ["HANGS_AT"] in (os.fspath(target), os.path.dirname(target)):
        time.sleep(1000)
    link(source, target, **named)

os.link = hang
"""


@pytest.fixture
def hangs_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, str]]:
    """Variables with which a process hangs when it claims the file at a path, or one in it."""

    def variables(path: Path) -> dict[str, str]:
        hooks = tmp_path_factory.mktemp("hooks")
        (hooks / "sitecustomize.py").write_text(HANG)
        return {"PYTHONPATH": str(hooks), "HANGS_AT": str(path)}

    return variables


@pytest.fixture
def dead_pid() -> int:
    """The number of a process of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def place(tmp_path: Path, images: Path) -> Path:
    """A folder with base.yaml, images and sweep.yaml, in which commands run."""
    _furnish(tmp_path, images)
    return tmp_path


@pytest.fixture
def edit(place: Path, images: Path) -> Callable[..., Path]:
    """Write sweep.yaml again, with changes to the small sweep; None removes a key."""
    return lambda **changes: _furnish(place, images, **changes)


@pytest.fixture
def command(place: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process."""

    def run(*words: object) -> Ended:
        return run_here(place, *map(str, words), capture=capfd)

    return run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A folder in which the four trials of the small sweep have finished. Do not write there."""
    folder = tmp_path_factory.mktemp("small_run")
    _furnish(folder, images)
    assert run_here(folder, "sweep.yaml", "--backend", "inline", "--quiet").code == 0
    return folder


@pytest.fixture
def finished(place: Path, small_run: Path) -> Path:
    """A copy of the folder of `small_run`, in which a test may write."""
    for name in ("results", "cache"):
        shutil.copytree(small_run / name, place / name)
    return place


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A folder in which the small sweep has finished and kept all detectors. Do not write there.

    It holds normal images out, and draws defects on them, so it has validation images.
    """
    folder = tmp_path_factory.mktemp("kept_run")
    _furnish(folder, images, keep="all")
    base = copy.deepcopy(BASE)
    base["data"] |= {"validation_fraction": 0.25, "validation_anomalies": "synthetic"}  # type: ignore[operator]
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    assert run_here(folder, "sweep.yaml", "--backend", "inline", "--quiet").code == 0
    return folder


@pytest.fixture
def kept(place: Path, kept_run: Path) -> Path:
    """A copy of the results of `kept_run`, in which a test may write. It has no cache."""
    shutil.copytree(kept_run / "results", place / "results")
    return place


@pytest.fixture
def features(place: Path, small_run: Path) -> None:
    """The small sweep's features in the cache, so that no process needs to load a backbone."""
    for name in ("features", "backbones"):
        shutil.copytree(small_run / "cache" / name, place / "cache" / name)


@dataclass
class Started:
    """A command line that runs as a process group of its own."""

    process: subprocess.Popen[str]

    def signal(self, number: int) -> None:
        """Signal the whole group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def end(self, timeout: float = WAIT_S) -> Ended:
        """Wait for it to end by itself."""
        out, err = self.process.communicate(timeout=timeout)
        return Ended(self.process.returncode, out, err)

    def members(self) -> set[int]:
        """The living processes of the group."""
        found = set()
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(pid) == self.process.pid:
                    process = psutil.Process(pid)
                    # A zombie whose threads still run has its files open, and so keeps its locks.
                    if process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1:
                        found.add(pid)
        return found


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., Started]]:
    """Start a command line as a process of its own."""
    started: list[Started] = []

    def begin(*words: object, prefix: tuple[str, ...] = ()) -> Started:
        environment = {k: v for k, v in os.environ.items() if k != "MOLEFLOW_DATA"} | {
            "MOLEFLOW_CACHE": str(place / "cache")
        }
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "orchestrator.cli", *map(str, words)],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(Started(process))
        return started[-1]

    yield begin
    for one in started:
        if one.members():
            one.signal(signal.SIGKILL)
        one.process.communicate()


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Make the function that makes a worker which runs a statement at each step of seed 1."""

    def write(statement: str) -> Any:
        (tmp_path / "hanging_worker.py").write_text(
            dedent(
                f"""
                import ctypes, os, time

                from orchestrator.execution.make_worker import make_worker


                def make(setup, events):
                    worker = make_worker(setup, events)
                    from moleflow.training import train_task

                    def step(detector, images, task, config, optimizer):
                        if config.seed == 1:
                            {statement}
                        return own(detector, images, task, config, optimizer)

                    own, train_task.train_step = train_task.train_step, step
                    return worker
                """
            )
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)  # For the processes of Ray.
        monkeypatch.delitem(sys.modules, "hanging_worker", raising=False)
        return importlib.import_module("hanging_worker").make

    return write


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """The function that calls another one until its result is true, and returns that result."""

    def wait(condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if result := condition():
                return result
            time.sleep(0.02)
        raise AssertionError(f"the condition was not met within {WAIT_S:.0f} s")

    return wait


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A Selenium driver of a headless Chromium with a new profile."""
    driver = pytest.importorskip("selenium.webdriver", reason="no Selenium: pip install selenium")
    program, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not service:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = driver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    quiet = (
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-quic",
        "no-first-run",
    )
    alone = f"user-data-dir={tmp_path / 'browser'}"
    for word in ("headless", "no-sandbox", "disable-gpu", "window-size=1400,1400", alone, *quiet):
        options.add_argument(f"--{word}")
    opened = driver.Chrome(options=options, service=driver.ChromeService(service))
    yield opened
    opened.quit()


DIGITS = {
    "metrics": ("seconds_spent", "seconds_reused", "attempt"),
    "scores": ("attempt",),
    "curves": ("seconds", "reused", "attempt"),
}


@pytest.fixture
def digits() -> Callable[[Path], dict[str, list[dict[str, Any]]]]:
    """The function that reads the finished rows of a results folder, without times and attempts.

    Two runs of one sweep must agree in these rows, whatever the backend.
    """
    return _digits


def _digits(folder: Path) -> dict[str, list[dict[str, Any]]]:
    store = ResultStore(folder)
    found = {}
    for table, apart in DIGITS.items():
        rows = [
            {k: v for k, v in row.items() if k not in apart}
            for row in store.read(table).to_pylist()
            if row["status"] == "finished"
        ]
        found[table] = sorted(rows, key=lambda row: repr(sorted(row.items(), key=lambda item: item[0])))
    columns = ["trial_id", "status", "state_digest", "scores_digest"]
    ends = [row for row in store.read("attempts", columns).to_pylist() if row["status"] == "finished"]
    return found | {"attempts": sorted(ends, key=lambda row: str(row["trial_id"]))}
