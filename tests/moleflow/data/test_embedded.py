"""The embedded images: equal bits, exact masks, complete or not there, of medium difficulty."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moleflow.data.embedded import folder, rendering
from moleflow.data.embedded.drawing import NoiseSource
from moleflow.data.embedded.folder import complete, ensure_embedded, publish
from moleflow.data.embedded.rendering import DEFECTS, EMBEDDED_CLASSES, EMBEDDED_VERSION, render_image
from moleflow.data.scan import scan
from moleflow.features.feature_cache import FeatureCache

# Over all images, and over the second image of each folder.
DIGEST = "6c93eb6e612fbb37dea4423622ca5905557e42344d74b34a12b2abe2ddab0400"
FEW_DIGEST = "282ad3366c3658b574dbe8f6c5891520a7fe4a73aeface6e14454931879f1dd1"
CHANGED = "images changed: bump EMBEDDED_VERSION, measure the difficulty, pin anew"
FEW_GOOD, FEW_DEFECTS = 2, {name: dict.fromkeys(kinds, 2) for name, kinds in DEFECTS.items()}
DEFECTIVE = [(name, kind, index) for name in DEFECTS for kind in DEFECTS[name] for index in range(2)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which an earlier process died while it rendered."""
    cache = tmp_path_factory.mktemp("cache")
    left = cache / f".embedded-{EMBEDDED_VERSION}-left" / "whole/leather/train/good"
    left.mkdir(parents=True)
    Image.new("RGB", (256, 256)).save(left / "000.png")
    return cache


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    """Two images in each folder, but for the tests of all images."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (rendering, folder):
            patch.setattr(module, "TRAIN_GOOD", FEW_GOOD)
            patch.setattr(module, "TEST_GOOD", FEW_GOOD)
            patch.setattr(module, "DEFECTS", FEW_DEFECTS)
        yield


@pytest.fixture(scope="module")
def images(cache: Path) -> Path:
    """The folder of those images."""
    return ensure_embedded(cache)


@pytest.fixture(scope="module")
def all_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all embedded images."""
    cache = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for module in (rendering, folder):
            patch.setattr(module, "TRAIN_GOOD", 60)
            patch.setattr(module, "TEST_GOOD", 40)
            patch.setattr(module, "DEFECTS", DEFECTS)
        return ensure_embedded(cache)


def read(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def mask_of(images: Path, name: str, kind: str, index: int) -> Path:
    return images / name / "ground_truth" / kind / f"{index:03d}_mask.png"


def test_pixels_are_the_pinned_ones(images: Path) -> None:
    total = hashlib.sha256()
    for name in EMBEDDED_CLASSES:
        for part in ("train/good", "test/good", *(f"test/{kind}" for kind in DEFECTS[name])):
            total.update(read(images / name / part / "001.png").tobytes())
    assert total.hexdigest() == FEW_DIGEST, CHANGED


@pytest.mark.process
def test_all_pixels_are_the_pinned_ones(all_images: Path) -> None:
    whole = hashlib.sha256()
    for path in sorted(all_images.rglob("*.png"), key=lambda path: path.relative_to(all_images).as_posix()):
        with Image.open(path) as image:
            pixels = hashlib.sha256(image.tobytes()).hexdigest()
            whole.update(f"{path.relative_to(all_images).as_posix()} {image.mode} {image.size} {pixels}\n".encode())
    assert whole.hexdigest() == DIGEST, CHANGED


def test_there_are_160_images_of_each_class() -> None:
    assert (sum(DEFECTS["leather"].values()), sum(DEFECTS["grid"].values())) == (40, 40)
    assert sum(DEFECTS["transistor"].values()) == 40
    assert EMBEDDED_CLASSES == ("leather", "grid", "transistor")


def check_layout(images: Path, train: int, test: int, defects: dict[str, dict[str, int]]) -> None:
    """Every image of the MVTec AD layout is there, with its mask, and no other file."""
    good = [("train", i) for i in range(train)] + [("test", i) for i in range(test)]
    defective = [(name, kind, i) for name in defects for kind, count in defects[name].items() for i in range(count)]
    expected = {f"{name}/{split}/good/{i:03d}.png" for name in EMBEDDED_CLASSES for split, i in good}
    expected |= {f"{name}/test/{kind}/{i:03d}.png" for name, kind, i in defective}
    expected |= {f"{name}/ground_truth/{kind}/{i:03d}_mask.png" for name, kind, i in defective}
    assert {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()} == expected
    for path in images.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((256, 256), "L" if "ground_truth" in path.parts else "RGB"), path


def test_layout_and_counts(images: Path) -> None:
    check_layout(images, FEW_GOOD, FEW_GOOD, FEW_DEFECTS)


@pytest.mark.process
def test_all_images_are_there_and_none_twice(all_images: Path) -> None:
    check_layout(all_images, 60, 40, DEFECTS)
    files = [path.read_bytes() for path in all_images.rglob("*.png") if "ground_truth" not in path.parts]
    assert len(set(files)) == len(files) == 420  # one encoder wrote them all: equal pixels would be equal bytes
    check_masks(
        all_images, [(name, kind, i) for name in DEFECTS for kind in DEFECTS[name] for i in range(DEFECTS[name][kind])]
    )


def test_masks_survive_resizing_and_cover_less_than_the_image(images: Path) -> None:
    check_masks(images, DEFECTIVE)


def check_masks(images: Path, defective: list[tuple[str, str, int]]) -> None:
    for name, kind, index in defective:
        with Image.open(mask_of(images, name, kind, index)) as mask:
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            small = np.asarray(mask.resize((224, 224), Image.Resampling.NEAREST)) > 0
        assert small.sum() >= 20, f"{name}/{kind}/{index}: {small.sum()} pixels"
        assert small.mean() < 0.6, f"{name}/{kind}/{index}: {small.mean():.2f} of the image"


def test_masks_mark_exactly_what_the_defect_changed(images: Path) -> None:
    for name, kind, index in DEFECTIVE[::2]:
        without = render_image(name, "test", kind, index, with_defect=False).astype(int)
        change = np.abs(read(images / name / "test" / kind / f"{index:03d}.png").astype(int) - without).max(axis=2)
        mask = read(mask_of(images, name, kind, index)) > 0
        assert np.array_equal(mask, change > 0), f"{name}/{kind}/{index}"
        assert change[mask].mean() > 3, f"{name}/{kind}/{index}: no defect but a rounding"


def test_an_image_depends_on_nothing_but_its_own_key(images: Path) -> None:
    for name in reversed(EMBEDDED_CLASSES):
        assert np.array_equal(render_image(name, "train", "good", 1), read(images / name / "train/good/001.png"))
        assert np.array_equal(render_image(name, "test", "good", 0), read(images / name / "test/good/000.png"))


def test_draws_are_uniform_and_named() -> None:
    numbers = NoiseSource("a", 1).field(200, 200)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert np.array_equal(numbers, NoiseSource("a", 1).field(200, 200))
    assert not np.array_equal(numbers, NoiseSource("a", 2).field(200, 200))
    assert {NoiseSource("b", i).integer(3) for i in range(50)} == {0, 1, 2}


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
    (target / "grid/test/bent/001.png").unlink()
    publish(whole, target)
    assert (target / "grid/test/bent/001.png").is_file()
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


@pytest.mark.process
def test_a_memory_bank_finds_it_neither_trivial_nor_hopeless(
    all_images: Path, benchmark: ModuleType, tmp_path: Path
) -> None:
    features = FeatureCache(tmp_path)
    auroc = {
        task.name: benchmark.image_auroc(*benchmark.class_scores(task, features))
        for task in scan(all_images, EMBEDDED_CLASSES)
    }
    assert all(0.75 < value < 0.97 for value in auroc.values()), auroc
