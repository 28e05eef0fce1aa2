from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import moleflow.features.feature_cache
from moleflow.cache.array_packs import NodeCopies, OpenArrays, PackFolder
from moleflow.cache.claim import try_claim
from moleflow.cache.entries import feature_entries, remove_entry
from moleflow.code_digest import version
from moleflow.data.loading import load_image
from moleflow.data.samples import Sample
from moleflow.data.scan import scan
from moleflow.environment import Environment
from moleflow.errors import Damaged, InvalidInput
from moleflow.features.backbone import FrozenBackbone, timm
from moleflow.features.feature_cache import FeatureCache
from moleflow.features.weights import weights_identity
from moleflow.owner import process_identity
from moleflow.settings.config import TrialConfig

KNOBS: dict[str, dict[str, object]] = {
    "data": {"image_size": 32},
    "backbone": {"model": "test_vit", "weights": "random", "layers": [1, 3]},
}
CONFIG = TrialConfig.model_validate(KNOBS)


def other(**knobs: object) -> TrialConfig:
    """The configuration with other backbone knobs."""
    return TrialConfig.model_validate(KNOBS | {"backbone": KNOBS["backbone"] | knobs})


def draw(root: Path, count: int) -> tuple[Sample, ...]:
    """A class of `count` training images and one test image, scanned."""
    generator = np.random.default_rng(0)
    for i in range(count + 1):
        path = root / "bolt" / (f"train/good/{i}.png" if i < count else "test/good/0.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    (task,) = scan(root, ["bolt"])
    return task.train


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """20 images."""
    return draw(tmp_path_factory.mktemp("images"), 20)


def direct(config: TrialConfig, environment: Environment, samples: tuple[Sample, ...]) -> torch.Tensor:
    """The features without a cache."""
    images = np.stack([load_image(s, config.data.image_size, config.data.interpolation) for s in samples])
    return FrozenBackbone(config, environment).extract(images)


def refuse(config: TrialConfig, environment: Environment) -> FrozenBackbone:
    """A factory for a cache that must not need a backbone."""
    raise AssertionError("everything should be cached")


# --- computing once -------------------------------------------------------------------------------


def test_cached_features_are_the_backbones_to_the_bit(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    cache = FeatureCache(tmp_path)
    expected = direct(CONFIG, environment, samples)
    assert torch.equal(cache.get(CONFIG, environment, samples), expected)
    assert cache.forwards == 20
    shuffled = samples[7:] + samples[:7] + samples[:1]
    again = FeatureCache(tmp_path, refuse).get(CONFIG, environment, shuffled)
    assert torch.equal(again, torch.cat([expected[7:], expected[:7], expected[:1]]))


def test_only_what_is_missing_is_computed(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    cache = FeatureCache(tmp_path)
    cache.get(CONFIG, environment, samples[:8])
    seen: list[tuple[int, int]] = []
    features = cache.get(CONFIG, environment, samples, lambda done, wanted: seen.append((done, wanted)))
    assert cache.forwards == 20
    assert seen[0] == (8, 20) and seen[-1] == (20, 20)
    assert seen == sorted(seen)
    assert torch.equal(features, direct(CONFIG, environment, samples))


def test_images_are_known_by_content(tmp_path: Path, environment: Environment) -> None:
    first = draw(tmp_path / "one", 4)
    cache = FeatureCache(tmp_path / "cache")
    cache.get(CONFIG, environment, first)
    moved = draw(tmp_path / "two", 4)
    cache.get(CONFIG, environment, moved)
    assert cache.forwards == 4


def test_trials_that_differ_elsewhere_share_features(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    cache = FeatureCache(tmp_path)
    cache.get(CONFIG, environment, samples)
    elsewhere = {"seed": 4, "training": {"epochs": 3}, "loss": {"focal_gamma": 2.0}, "scoring": {"smoothing": 0.0}}
    FeatureCache(tmp_path, refuse).get(TrialConfig.model_validate(KNOBS | elsewhere), environment, samples)
    for change in ({"layers": [1, 2]}, {"weights_seed": 1}, {"grid": 4}, {"storage": "float16"}):
        assert cache.key(other(**change), environment) != cache.key(CONFIG, environment)


@pytest.mark.parametrize("package", ["timm", "pillow"])
def test_another_version_of_a_package_that_makes_features_is_another_key(
    package: str, tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow decodes and resizes the images; timm builds the backbone."""
    cache = FeatureCache(tmp_path)
    before = cache.key(CONFIG, environment)
    monkeypatch.setattr(
        moleflow.features.feature_cache, "version", lambda name: "0" if name == package else version(name)
    )
    assert cache.key(CONFIG, environment) != before


@pytest.mark.parametrize(
    ("field", "value"), [("device_kind", "cuda"), ("torch_version", "0"), ("threads", 2), ("processor", "another")]
)
def test_another_environment_is_another_key(
    field: str, value: object, tmp_path: Path, environment: Environment
) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.key(CONFIG, replace(environment, **{field: value})) != cache.key(CONFIG, environment)  # type: ignore[arg-type]


def test_the_backbone_is_kept_for_the_same_key(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    built: list[TrialConfig] = []

    def build(config: TrialConfig, environment: Environment) -> FrozenBackbone:
        built.append(config)
        return FrozenBackbone(config, environment)

    cache = FeatureCache(tmp_path, build)
    cache.get(CONFIG, environment, samples[:3])
    cache.get(CONFIG, environment, samples)
    cache.get(other(layers=[2]), environment, samples[:3])
    assert built == [CONFIG, other(layers=[2])]


def test_a_pack_holds_at_most_64_images(tmp_path: Path, environment: Environment) -> None:
    class Constant:
        """Features that are the image's mean, for many images."""

        def extract(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
            """One patch, one feature."""
            return torch.tensor(images).float().mean(dim=(1, 2, 3)).view(-1, 1, 1, 1)

    many = draw(tmp_path / "images", 1100)
    FeatureCache(tmp_path / "cache", lambda config, environment: Constant()).get(CONFIG, environment, many)
    counts = [len(json.loads(path.read_text())["images"]) for path in (tmp_path / "cache").glob("*/*.json")]
    assert sum(counts) == 1100
    assert max(counts) == 64


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_half_precision_is_a_knob(tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]) -> None:
    cache = FeatureCache(tmp_path)
    config = other(storage="float16")
    full = cache.get(CONFIG, environment, samples)
    bytes_before = stored_bytes(tmp_path)
    half = cache.get(config, environment, samples)
    assert half.dtype == torch.float32
    assert torch.equal(half, full.half().float())
    assert stored_bytes(tmp_path) - bytes_before < 0.75 * bytes_before


class Overflowing:
    """A backbone with one feature beyond half precision."""

    def __init__(self, value: float) -> None:
        self.value = value

    def extract(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """(N, 1, 1, 2)."""
        return torch.tensor([1.0, self.value]).expand(len(images), 1, 1, 2)


def test_features_that_do_not_fit_are_refused(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    with pytest.raises(InvalidInput, match="a feature is 70000, above 65504; take float32"):
        FeatureCache(tmp_path, lambda *_: Overflowing(7e4)).get(other(storage="float16"), environment, samples)
    with pytest.raises(InvalidInput, match="not finite"):
        FeatureCache(tmp_path, lambda *_: Overflowing(float("nan"))).get(CONFIG, environment, samples)
    assert FeatureCache(tmp_path).count() == 0


def test_weights_that_are_replaced_while_they_are_read(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    """The key was taken of the file of before, and nobody knows which one was loaded."""
    path = weight_file(tmp_path / "w.safetensors", 0)

    def replaced_before(config: TrialConfig, environment: Environment) -> FrozenBackbone:
        weight_file(path, 1)
        return FrozenBackbone(config, environment)

    config = other(weights=str(path))
    with pytest.raises(InvalidInput, match="were replaced while they were read; start the command again"):
        FeatureCache(tmp_path / "cache", replaced_before).get(config, environment, samples)
    assert FeatureCache(tmp_path / "cache").count() == 0


def test_weights_have_to_be_those_that_were_planned(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    config = other(weights=str(weight_file(tmp_path / "w.safetensors", 0)))
    planned = weights_identity(config.backbone)
    cache = FeatureCache(tmp_path / "cache")
    assert cache.get(config, environment, samples[:1], weights=planned).shape[0] == 1
    weight_file(tmp_path / "w.safetensors", 1)
    with pytest.raises(InvalidInput, match=f"was {planned} when the sweep was planned"):
        cache.get(config, environment, samples, weights=planned)


def weight_file(path: Path, seed: int) -> Path:
    """A file of weights drawn from `seed`."""
    torch.manual_seed(seed)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return path


def test_an_image_that_changed_since_the_scan(tmp_path: Path, environment: Environment) -> None:
    images = draw(tmp_path / "images", 2)
    images[0].path.write_bytes(images[1].path.read_bytes())
    with pytest.raises(Damaged, match="changed since"):
        FeatureCache(tmp_path / "cache").get(CONFIG, environment, images)


# --- ahead of time, and on a node's own disk ------------------------------------------------------


def test_what_was_ensured_is_there_for_whoever_comes(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    cache = FeatureCache(tmp_path)
    assert cache.missing(CONFIG, environment, samples) == 20
    cache.get(CONFIG, environment, samples[:8])
    assert cache.missing(CONFIG, environment, samples + samples) == 12
    cache.ensure(CONFIG, environment, samples)
    assert (cache.missing(CONFIG, environment, samples), cache.forwards) == (0, 20)
    later = FeatureCache(tmp_path, refuse)
    later.ensure(CONFIG, environment, samples)
    assert torch.equal(later.get(CONFIG, environment, samples), direct(CONFIG, environment, samples))


def test_ensuring_finds_damage_that_is_not_missing(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    FeatureCache(tmp_path).ensure(CONFIG, environment, samples)
    path = sorted(tmp_path.glob("*/*.npy"))[1]
    lost = len(json.loads(path.with_suffix(".json").read_text())["images"])
    path.write_bytes(path.read_bytes()[:-1])
    cache = FeatureCache(tmp_path)
    assert cache.missing(CONFIG, environment, samples) == 0
    cache.ensure(CONFIG, environment, samples)
    assert cache.forwards == lost
    FeatureCache(tmp_path, refuse).get(CONFIG, environment, samples)


def test_a_node_with_copies_reads_the_same_and_writes_to_the_shared_cache(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    shared, node = tmp_path / "shared", tmp_path / "node"
    expected = FeatureCache(shared).get(CONFIG, environment, samples[:15])
    cache = FeatureCache(shared, copies=NodeCopies(node))
    assert torch.equal(cache.get(CONFIG, environment, samples[:15]), expected)
    assert cache.forwards == 0
    cache.get(CONFIG, environment, samples)
    assert cache.forwards == 5
    FeatureCache(shared, refuse).get(CONFIG, environment, samples)
    arrays = sorted(path.relative_to(shared) for path in shared.glob("*/*.npy"))
    assert sorted(path.relative_to(node) for path in node.glob("*/*")) == arrays


def test_damage_in_the_shared_cache_is_repaired_through_copies(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    shared = tmp_path / "shared"
    expected = FeatureCache(shared).get(CONFIG, environment, samples)
    path = sorted(shared.glob("*/*.npy"))[0]
    lost = len(json.loads(path.with_suffix(".json").read_text())["images"])
    path.write_bytes(path.read_bytes()[:-1])
    cache = FeatureCache(shared, copies=NodeCopies(tmp_path / "node"))
    assert torch.equal(cache.get(CONFIG, environment, samples), expected)
    assert cache.forwards == lost


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["bit", "cut", "no json", "no npy", "bad json", "other shape"])
def test_damaged_entries_are_computed_again(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...], harm: str
) -> None:
    expected = FeatureCache(tmp_path).get(CONFIG, environment, samples)
    path = sorted(tmp_path.glob("*/*.npy"))[1]
    lost = len(json.loads(path.with_suffix(".json").read_text())["images"])
    if harm == "bit":
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "no json":
        path.with_suffix(".json").unlink()
    elif harm == "no npy":
        path.unlink()
    elif harm == "bad json":
        path.with_suffix(".json").write_bytes(b"\x00" * 10)
    else:
        np.save(path, np.zeros((lost, 1, 1, 2), dtype=np.float32))
    cache = FeatureCache(tmp_path)
    assert torch.equal(cache.get(CONFIG, environment, samples), expected)
    assert cache.forwards == lost
    FeatureCache(tmp_path, refuse).get(CONFIG, environment, samples)


@pytest.mark.parametrize(("damaged", "tries"), [(True, 3), (False, 100)])
def test_a_disk_that_does_not_keep_features_is_an_error(
    tmp_path: Path,
    environment: Environment,
    samples: tuple[Sample, ...],
    damaged: bool,
    tries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Damage is repaired three times, an eviction by another process a hundred times."""
    reads = 0

    def read(packs: PackFolder, images: Sequence[str]) -> tuple[None, set[str]]:
        nonlocal reads
        reads += 1
        return None, {f"{images[0][0]}-0"} if damaged else set()

    monkeypatch.setattr(PackFolder, "read", read)
    with pytest.raises(Damaged, match=f"damaged or gone {tries} times; check the disk"):
        FeatureCache(tmp_path).get(CONFIG, environment, samples[:1])
    assert reads == tries


def test_images_are_counted_over_all_settings(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    assert cache.count() == 0
    cache.get(CONFIG, environment, samples)
    cache.get(other(layers=[2]), environment, samples[:5])
    assert cache.count() == 25


def test_what_is_taken_away_before_it_is_read_is_computed_anew(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    """However often: that is no damage."""
    expected = direct(CONFIG, environment, samples)
    cache, removed = FeatureCache(tmp_path), 0

    def take_one_away(done: int, wanted: int) -> None:
        nonlocal removed
        if done == wanted and removed < 7 and (found := list(feature_entries(tmp_path))):
            removed += remove_entry(found[removed % len(found)])

    assert torch.equal(cache.get(CONFIG, environment, samples, take_one_away), expected)
    assert removed > 3  # Fewer than 7, once all arrays that are left are open.
    assert cache.forwards > 20
    removed = 0
    cache.ensure(CONFIG, environment, samples, take_one_away)
    assert removed == 7
    assert torch.equal(FeatureCache(tmp_path, refuse).get(CONFIG, environment, samples), expected)


def test_what_another_process_adds_is_found_and_what_it_removes_is_no_error(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    """Although this one has read all descriptions and keeps arrays open."""
    expected = direct(CONFIG, environment, samples)
    cache, other_process = FeatureCache(tmp_path), FeatureCache(tmp_path)
    cache.get(CONFIG, environment, samples[:8])
    other_process.get(CONFIG, environment, samples)
    assert torch.equal(cache.get(CONFIG, environment, samples), expected)
    assert cache.forwards == 8
    for entry in feature_entries(tmp_path):
        assert remove_entry(entry)
    assert torch.equal(cache.get(CONFIG, environment, samples), expected)
    cache.ensure(CONFIG, environment, samples)
    assert cache.forwards == 28
    assert torch.equal(FeatureCache(tmp_path, refuse).get(CONFIG, environment, samples), expected)


def test_a_removed_pack_is_made_again_when_its_array_is_not_open(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moleflow.features.feature_cache.OpenArrays", lambda: OpenArrays(at_most=0))
    cache = FeatureCache(tmp_path)
    expected = cache.get(CONFIG, environment, samples)
    for entry in feature_entries(tmp_path):
        assert remove_entry(entry)
    assert torch.equal(cache.get(CONFIG, environment, samples), expected)
    assert cache.forwards == 40


def test_the_remains_of_a_dead_writer_are_replaced(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    """It held a claim, had written an array without its description, and half of another array."""
    cache = FeatureCache(tmp_path)
    expected = cache.get(CONFIG, environment, samples)
    description = min(tmp_path.glob("*/*.json"))
    lost = len(json.loads(description.read_text())["images"])
    description.unlink()
    bucket = description.name[0]
    description.with_name(f".{bucket}-0.npy.0.tmp").write_bytes(b"half")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    owner = process_identity() | {"pid": dead.pid}
    description.with_name(f"{bucket}.claim").write_text(json.dumps(owner))
    again = FeatureCache(tmp_path)
    assert torch.equal(again.get(CONFIG, environment, samples), expected)
    assert again.forwards == lost
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".json", ".npy"}


# --- several processes ----------------------------------------------------------------------------

WORKER = """
    import json, os, sys, time
    from pathlib import Path
    import moleflow.files
    from moleflow.settings.config import TrialConfig
    from moleflow.data.scan import scan
    from moleflow.environment import open_environment
    from moleflow.features.feature_cache import FeatureCache

    root, folder, knobs, part, die_at, go = sys.argv[1:]
    replace, calls = os.replace, []

    def replace_or_die(source, target):
        calls.append(target)
        if len(calls) == int(die_at):
            os._exit(9)
        replace(source, target)

    moleflow.files.os.replace = replace_or_die
    (task,) = scan(Path(root), ["bolt"])
    first, last = map(int, part.split(":"))
    cache = FeatureCache(Path(folder))
    config = TrialConfig.model_validate(json.loads(knobs))
    print("ready", flush=True)
    while not os.path.exists(go):
        time.sleep(0.002)
    features = cache.get(config, open_environment("cpu"), task.train[first:last])
    print(json.dumps({"forwards": cache.forwards, "sum": features.double().sum().item()}))
"""


def start(root: Path, folder: Path, part: str, go: Path, die_at: int = 0) -> subprocess.Popen[str]:
    """A process that needs features of a part of the images once `go` exists, and may die."""
    arguments = [str(root), str(folder), json.dumps(KNOBS), part, str(die_at), str(go)]
    command = [sys.executable, "-c", textwrap.dedent(WORKER), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.process
def test_two_processes_that_want_the_same_images_compute_each_once(tmp_path: Path, environment: Environment) -> None:
    images = draw(tmp_path / "images", 100)
    parts = ("0:100", "20:100")
    go = tmp_path / "go"
    workers = [start(tmp_path / "images", tmp_path / "cache", part, go) for part in parts]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    go.touch()
    results = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sum(result["forwards"] for result in results) == 100
    expected = FeatureCache(tmp_path / "cache", refuse).get(CONFIG, environment, images)
    sums = [expected[slice(*map(int, part.split(":")))].double().sum().item() for part in parts]
    assert [result["sum"] for result in results] == sums
    assert list((tmp_path / "cache").glob("*/*.claim")) == []


def test_a_bucket_that_another_worker_holds_is_left_until_last(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...]
) -> None:
    cache = FeatureCache(tmp_path)
    taken = samples[0].digest[0]
    held = sum(sample.digest[0] == taken for sample in samples)
    claim = try_claim(tmp_path / cache.key(CONFIG, environment) / f"{taken}.claim")
    assert claim is not None
    seen: list[int] = []

    def report(done: int, _wanted: int) -> None:
        seen.append(done)
        if done == 20 - held:
            claim.release()

    assert len(cache.get(CONFIG, environment, samples, report)) == 20
    assert 20 - held in seen
    assert seen == sorted(seen)


@pytest.mark.process
@pytest.mark.parametrize("die_at", [1, 4])
def test_a_writer_that_dies_leaves_nothing_that_is_used(
    tmp_path: Path, environment: Environment, samples: tuple[Sample, ...], die_at: int
) -> None:
    """It dies before its first array is renamed, or before its second array's description."""
    root = samples[0].path.parents[3]
    worker = start(root, tmp_path, "0:20", root, die_at)
    worker.communicate(timeout=120)
    assert worker.returncode == 9
    assert len(list(tmp_path.glob("*/*.claim"))) == 1
    written = FeatureCache(tmp_path).count()
    assert (written > 0) == (die_at == 4)
    cache = FeatureCache(tmp_path)
    assert torch.equal(cache.get(CONFIG, environment, samples), direct(CONFIG, environment, samples))
    assert cache.forwards == 20 - written
    left = [path.name for path in tmp_path.glob("*/*") if path.suffix not in (".json", ".npy")]
    assert left == []
    assert len(list(tmp_path.glob("*/*.json"))) == len(list(tmp_path.glob("*/*.npy")))
