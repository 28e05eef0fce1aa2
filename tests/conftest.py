"""Small generated images, one small base, and the command line: run here, or as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from orchestrator.cli import entry
from orchestrator.results.store import ResultStore

# A shell that starts the tests in the background has SIGINT ignored, here and in every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

BASE = {
    "data": {"tasks": ["bolt", "cloth"], "image_size": 32, "mask_size": 32},
    "backbone": {
        "model": "efficientnet_lite0",
        "weights": "random",
        "layers": [1, 2],
        "aggregate": "concat",
        "grid": 4,
    },
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
    """One class in the MVTec AD layout: stripes with noise, and squares of inverted colour as defects."""
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


@pytest.fixture(scope="session")
def draw() -> Callable[[Path, int, int], None]:
    """Draw a class in the MVTec AD layout into a folder, at a size in pixels, from a seed."""
    return draw_class


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two classes."""
    root = tmp_path_factory.mktemp("data") / "images"
    draw_class(root / "bolt", 32, 0)
    draw_class(root / "cloth", 48, 1)
    for path in root.rglob("*.png"):  # The digests of files older than two seconds are remembered.
        os.utime(path, (1e9, 1e9))
    return root


@pytest.fixture(scope="session")
def furnish() -> Callable[..., Path]:
    """Put the base, a link to the images and the small sweep, with changes, into a folder."""
    return _furnish


def _furnish(folder: Path, images: Path, **changes: Any) -> Path:
    """Put the base, a link to the images and the small sweep with `changes` into a folder; None takes a key away."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    if not (folder / "images").exists():
        (folder / "images").symlink_to(images, target_is_directory=True)
    sweep = {key: value for key, value in (SWEEP | changes).items() if value is not None}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

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
    said = capture.readouterr() if capture else ("", "")
    return Ended(code, said[0], said[1])


@pytest.fixture
def place(tmp_path: Path, images: Path) -> Path:
    """A folder with base.yaml, images and sweep.yaml, from which commands are run."""
    _furnish(tmp_path, images)
    return tmp_path


@pytest.fixture
def edit(place: Path, images: Path) -> Callable[..., Path]:
    """Write sweep.yaml anew, with changes to the small sweep; None takes a key away."""
    return lambda **changes: _furnish(place, images, **changes)


@pytest.fixture
def command(place: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process."""

    def run(*words: object) -> Ended:
        return run_here(place, *map(str, words), capture=capfd)

    return run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A folder in which the small sweep has run to its end: four trials, never disturbed. Do not write there."""
    folder = tmp_path_factory.mktemp("small_run")
    _furnish(folder, images)
    assert run_here(folder, "sweep.yaml", "--backend", "inline", "--quiet").code == 0
    return folder


@pytest.fixture
def finished(place: Path, small_run: Path) -> Path:
    """A copy of that folder, to go on in."""
    for name in ("results", "cache"):
        shutil.copytree(small_run / name, place / name)
    return place


@pytest.fixture
def features(place: Path, small_run: Path) -> None:
    """The small sweep's features, so that a process need not load a backbone."""
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
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                # A zombie whose threads are still ending has its files open, and so its locks.
                ended = fields[0] == "Z" and len(list((stat.parent / "task").iterdir())) == 1
            except OSError:
                continue
            if int(fields[2]) == self.process.pid and not ended:
                found.add(int(stat.parent.name))
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
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """What a function gives, as soon as that is true."""

    def wait(true: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            found = true()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"it did not come true within {WAIT_S:.0f} s")

    return wait


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium with a profile of its own: a Selenium driver."""
    driver = pytest.importorskip("selenium.webdriver", reason="no Selenium: pip install selenium")
    program, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not service:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = driver.ChromeOptions()
    options.binary_location = program
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
    """Everything finished in a results folder that must not depend on where and when it was computed."""
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
