"""The embedded images: the same to the last bit, exact masks, whole or not there, neither trivial nor hopeless."""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moleflow.data.embedded import (
    DEFECTS,
    EMBEDDED_CLASSES,
    EMBEDDED_VERSION,
    NoiseSource,
    content_digest,
    ensure_embedded,
    render_image,
)
from moleflow.data.embedded.folder import complete, publish
from moleflow.data.mvtec import scan
from moleflow.features.feature_cache import FeatureCache

DIGEST = "6c93eb6e612fbb37dea4423622ca5905557e42344d74b34a12b2abe2ddab0400"
DEFECTIVE = [(name, kind, index) for name in DEFECTS for kind in DEFECTS[name] for index in range(DEFECTS[name][kind])]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which an earlier process died while it rendered."""
    cache = tmp_path_factory.mktemp("cache")
    left = cache / f".embedded-{EMBEDDED_VERSION}-left" / "whole/leather/train/good"
    left.mkdir(parents=True)
    Image.new("RGB", (256, 256)).save(left / "000.png")
    return cache


@pytest.fixture(scope="module")
def images(cache: Path) -> Path:
    return ensure_embedded(cache)


def read(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def mask_of(images: Path, name: str, kind: str, index: int) -> Path:
    return images / name / "ground_truth" / kind / f"{index:03d}_mask.png"


def test_pixels_are_the_pinned_ones(images: Path) -> None:
    assert content_digest(images) == DIGEST, "images changed: bump EMBEDDED_VERSION, measure the difficulty, pin anew"


def test_layout_and_counts(images: Path) -> None:
    good = [("train", i) for i in range(60)] + [("test", i) for i in range(40)]
    expected = {f"{name}/{split}/good/{i:03d}.png" for name in EMBEDDED_CLASSES for split, i in good}
    expected |= {f"{name}/test/{kind}/{i:03d}.png" for name, kind, i in DEFECTIVE}
    expected |= {f"{name}/ground_truth/{kind}/{i:03d}_mask.png" for name, kind, i in DEFECTIVE}
    assert {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()} == expected
    assert {name: sum(kinds.values()) for name, kinds in DEFECTS.items()} == dict.fromkeys(EMBEDDED_CLASSES, 40)
    for path in images.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((256, 256), "L" if "ground_truth" in path.parts else "RGB"), path


def test_no_image_occurs_twice(images: Path) -> None:
    files = [path.read_bytes() for path in images.rglob("*.png") if "ground_truth" not in path.parts]
    assert len(set(files)) == len(files) == 420  # one encoder wrote them all: equal pixels would be equal bytes


def test_masks_survive_resizing_and_cover_less_than_the_image(images: Path) -> None:
    for name, kind, index in DEFECTIVE:
        with Image.open(mask_of(images, name, kind, index)) as mask:
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            small = np.asarray(mask.resize((224, 224), Image.Resampling.NEAREST)) > 0
        assert small.sum() >= 20, f"{name}/{kind}/{index}: {small.sum()} pixels"
        assert small.mean() < 0.6, f"{name}/{kind}/{index}: {small.mean():.2f} of the image"


def test_masks_mark_exactly_what_the_defect_changed(images: Path) -> None:
    for name, kind, index in DEFECTIVE[::4]:
        without = render_image(name, "test", kind, index, with_defect=False).astype(int)
        change = np.abs(read(images / name / "test" / kind / f"{index:03d}.png").astype(int) - without).max(axis=2)
        mask = read(mask_of(images, name, kind, index)) > 0
        assert np.array_equal(mask, change > 0), f"{name}/{kind}/{index}"
        assert change[mask].mean() > 3, f"{name}/{kind}/{index}: no defect but a rounding"


def test_an_image_depends_on_nothing_but_its_own_key(images: Path) -> None:
    for name in reversed(EMBEDDED_CLASSES):
        assert np.array_equal(render_image(name, "train", "good", 59), read(images / name / "train/good/059.png"))
        assert np.array_equal(render_image(name, "test", "good", 0), read(images / name / "test/good/000.png"))


def test_draws_are_uniform_and_named() -> None:
    numbers = NoiseSource("a", 1).field(200, 200)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert np.array_equal(numbers, NoiseSource("a", 1).field(200, 200))
    assert not np.array_equal(numbers, NoiseSource("a", 2).field(200, 200))
    assert {NoiseSource("b", i).integer(3) for i in range(50)} == {0, 1, 2}


def test_digest_sees_pixels_and_paths_but_not_the_encoder(tmp_path: Path) -> None:
    pixels = render_image("grid", "test", "good", 1)
    digests = []
    for folder, level, name, change in (("a", 0, "x", 0), ("b", 9, "x", 0), ("c", 0, "y", 0), ("d", 0, "x", 1)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels ^ np.uint8(change)).save(tmp_path / folder / f"{name}.png", compress_level=level)
        digests.append(content_digest(tmp_path / folder))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_second_call_renders_nothing_and_leaves_no_temporary_folder(cache: Path, images: Path) -> None:
    before = {path: path.stat().st_ino for path in sorted(cache.rglob("*"))}
    assert ensure_embedded(cache) == images == cache / f"embedded-{EMBEDDED_VERSION}"
    assert {path: path.stat().st_ino for path in sorted(cache.rglob("*"))} == before
    assert sorted(path.name for path in cache.iterdir()) == [f".{images.name}-left", images.name]


def copies(images: Path, folder: Path, count: int) -> list[Path]:
    """Finished folders as `count` writers would have rendered them (hard links: quick)."""
    made = [folder / f"beside{number}" / "whole" for number in range(count)]
    return [Path(shutil.copytree(images, copy, copy_function=os.link)) for copy in made]


def test_of_writers_that_finish_at_once_one_wins_and_none_fails(images: Path, tmp_path: Path) -> None:
    wholes, target = copies(images, tmp_path, 4), tmp_path / "target"
    inodes = {whole.stat().st_ino for whole in wholes}
    start = threading.Barrier(len(wholes))

    def write(whole: Path) -> None:
        start.wait()
        publish(whole, target)

    with ThreadPoolExecutor(len(wholes)) as writers:
        list(writers.map(write, wholes))
    assert target.stat().st_ino in inodes
    assert sum(whole.exists() for whole in wholes) == len(wholes) - 1
    assert complete(target)


def test_a_folder_with_files_missing_is_replaced(images: Path, tmp_path: Path) -> None:
    (whole,), target = copies(images, tmp_path, 1), tmp_path / "target"
    shutil.copytree(images, target, copy_function=os.link)
    (target / "grid/test/bent/003.png").unlink()
    publish(whole, target)
    assert (target / "grid/test/bent/003.png").is_file()
    assert complete(target)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "embedded_difficulty.py"
    specification = importlib.util.spec_from_file_location("embedded_difficulty", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_memory_bank_finds_it_neither_trivial_nor_hopeless(
    images: Path, benchmark: ModuleType, tmp_path: Path
) -> None:
    features = FeatureCache(tmp_path)
    auroc = {
        task.name: benchmark.image_auroc(*benchmark.class_scores(task, features))
        for task in scan(images, EMBEDDED_CLASSES)
    }
    assert all(0.75 < value < 0.97 for value in auroc.values()), auroc
