"""Eviction: least recently used entries go first, entries in use and files of others stay."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import moleflow.cache.eviction
from moleflow.cache.array_packs import PackFolder
from moleflow.cache.claim import try_claim
from moleflow.cache.entries import CacheEntry, cache_entries, mark_used, remove_entry
from moleflow.cache.eviction import VARIABLE, budget_of, clear_cache, evict, pinned_within_budget, read_size, set_budget
from moleflow.cache.pins import pinned, pins
from moleflow.cache.protect_planned import stage_settings_digest
from moleflow.cache.stage_state import Epoch, Stage, state_digest
from moleflow.cache.stages import StageId, StageStore
from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig

LONG_AGO = time.time() - 1e6


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def images(of: str, count: int = 3) -> list[str]:
    """Image digests of one bucket."""
    return [of + hashlib.sha256(bytes([i])).hexdigest()[1:] for i in range(count)]


def name(text: str) -> str:
    """A digest."""
    return hashlib.sha256(text.encode()).hexdigest()


def add_pack(cache: Path, key: str, of: str, last_use: float = LONG_AGO) -> Path:
    """Store three images' features; their description."""
    folder = cache / "features" / name(key)
    folder.mkdir(parents=True, exist_ok=True)
    PackFolder(folder).write(images(of), np.ones((3, 2, 2, 5), dtype=np.float32))
    (path,) = folder.glob(f"{of}-*.json")
    os.utime(path, (last_use, last_use))
    return path


def add_stage(cache: Path, key: str, last_use: float = LONG_AGO, settings: str | None = None) -> Path:
    """Store a stage with the maps of an image; its folder."""
    store, stage = StageStore(cache / "stages"), StageId(name(key), "line")
    state = {"a": torch.ones(20)}
    facts = {} if settings is None else {"settings": settings}
    store.save(stage, Stage(state, (Epoch(1, 0.1, 1.0, 1e-3, 0.3, 0.5),), 1.0, state_digest(state)), facts)
    place = cache / "stages" / stage.key[:2] / stage.key
    PackFolder(place).write(images("a", 1), np.zeros((1, 2, 3, 3), dtype=np.float32))
    os.utime(place / "stage.json", (last_use, last_use))
    return place


def add_defect(cache: Path, key: str, last_use: float = LONG_AGO) -> Path:
    """A generated image and its mask, by their names and sizes alone."""
    path = cache / "synthetic" / f"{name(key)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in (path, path.with_suffix(".mask.png")):
        one.write_bytes(b"0" * 100)
        os.utime(one, (last_use, last_use))
    return path


def held(cache: Path) -> int:
    return sum(entry.bytes for entry in cache_entries(cache))


def kinds(found: Iterable[CacheEntry]) -> list[str]:
    return sorted(entry.kind for entry in found)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what there is -------------------------------------------------------------------------------


def test_every_byte_is_counted_once(tmp_path: Path) -> None:
    add_pack(tmp_path, "k", "a")
    add_pack(tmp_path, "k", "b")
    stage = add_stage(tmp_path, "s")
    add_defect(tmp_path, "d")
    beside = stage.parent
    (beside / f"{stage.name}.checkpoint.safetensors").write_bytes(b"1234")
    (beside / f".{stage.name}.checkpoint.safetensors.0.tmp").write_bytes(b"12")
    (beside / f".{stage.name}.0").mkdir()
    (beside / f".{stage.name}.0" / "state.safetensors").write_bytes(b"123")
    found = cache_entries(tmp_path)
    assert kinds(found) == ["checkpoints", "defects", "features", "features", "leftovers", "leftovers", "stages"]
    assert held(tmp_path) == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert {entry.group for entry in found if entry.part == "stages"} == {f"stages/{stage.name}"}
    (beside / f".{stage.name}.0" / "state.safetensors").unlink()
    assert cache_entries(tmp_path / "nowhere") == []


def test_a_use_is_noted_once_a_minute(tmp_path: Path) -> None:
    path = add_pack(tmp_path, "k", "a")
    mark_used(path)
    noted = path.stat().st_mtime
    assert abs(time.time() - noted) < 30
    recent = time.time() - 20
    os.utime(path, (recent, recent))
    mark_used(path)
    assert path.stat().st_mtime == pytest.approx(recent, abs=1e-3)
    os.utime(path, (noted + 1e6, noted + 1e6))  # By a clock that was wrong.
    mark_used(path)
    assert path.stat().st_mtime < noted + 1000
    mark_used(tmp_path / "nowhere")


def test_reading_is_using(tmp_path: Path) -> None:
    pack, other, stage = add_pack(tmp_path, "k", "a"), add_pack(tmp_path, "k", "b"), add_stage(tmp_path, "s")
    packs = PackFolder(pack.parent)
    packs.read(images("a"))
    packs.mark_used(images("a"))
    assert StageStore(tmp_path / "stages").load(StageId(stage.name, "line")) is not None
    assert min(pack.stat().st_mtime, (stage / "stage.json").stat().st_mtime) > time.time() - 100
    assert other.stat().st_mtime == pytest.approx(LONG_AGO, abs=1e-3)
    packs.check(images("b"))
    packs.mark_used(images("b"))
    assert other.stat().st_mtime > time.time() - 100


# ---- the budget ----------------------------------------------------------------------------------


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    order = [
        add_stage(tmp_path, "oldest", LONG_AGO),
        add_pack(tmp_path, "k", "a", LONG_AGO + 1),
        add_defect(tmp_path, "d", LONG_AGO + 2),
        add_pack(tmp_path, "other", "b", LONG_AGO + 3),
        add_stage(tmp_path, "newest", LONG_AGO + 4),
    ]
    sizes = {path: entry.bytes for entry in cache_entries(tmp_path) for path in entry.paths}
    for gone in range(len(order) + 1):
        budget = sum(sizes[path] for path in order[gone:])
        evict(tmp_path, budget)
        assert [path.exists() for path in order] == [n >= gone for n in range(len(order))]
        assert held(tmp_path) == budget
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_budget_is_kept_and_no_more_than_needed_is_removed(tmp_path: Path) -> None:
    for number in range(20):
        add_pack(tmp_path, str(number % 3), "0123456789abcdef"[number % 16] if number < 16 else "f", LONG_AGO + number)
        add_stage(tmp_path, str(number), LONG_AGO + number / 2)
    largest = max(entry.bytes for entry in cache_entries(tmp_path))
    for budget in (held(tmp_path), held(tmp_path) - 1, held(tmp_path) // 2, 5000):
        done = evict(tmp_path, budget)
        assert budget - largest < held(tmp_path) <= budget
        assert done.stayed == ()
    last = [entry.last_use for entry in done.removed]
    assert last == sorted(last)
    assert max(last) <= min(entry.last_use for entry in cache_entries(tmp_path))


def test_leftovers_go_before_anything_of_use(tmp_path: Path) -> None:
    pack, stage = add_pack(tmp_path, "k", "a"), add_stage(tmp_path, "s")
    whole = held(tmp_path)
    left = [
        pack.with_name(f".{pack.name}.0.tmp"),
        pack.with_name(f"b-{name('x')[:32]}.npy"),
        stage.parent / f".{stage.name}.0",
    ]
    for path in left[:2]:
        path.write_bytes(b"half")
    left[2].mkdir()
    (left[2] / "state.safetensors").write_bytes(b"half")
    evict(tmp_path, whole)
    assert not any(path.exists() for path in left)
    assert held(tmp_path) == whole


def test_several_that_make_room_at_once_remove_no_more_than_one(tmp_path: Path) -> None:
    for number in range(60):
        add_pack(tmp_path, str(number % 7), "0123456789abcdef"[number % 16], LONG_AGO + number)
        add_stage(tmp_path, str(number), LONG_AGO + number)
    largest, budget = max(entry.bytes for entry in cache_entries(tmp_path)), held(tmp_path) // 3
    begin = threading.Barrier(4)

    def make_room(_: int) -> int:
        begin.wait()
        # A stage that another thread is removing counts as a leftover for a moment.
        return sum(entry.kind != "leftovers" for entry in evict(tmp_path, budget).stayed)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(make_room, range(4))) == 0
    assert budget - largest < held(tmp_path) <= budget
    store = StageStore(tmp_path / "stages")
    left = [entry for entry in cache_entries(tmp_path) if entry.kind == "stages"]
    assert kinds(cache_entries(tmp_path)).count("leftovers") == 0
    assert all(store.load(StageId(entry.paths[0].name, "line")) is not None for entry in left)


def test_what_is_used_after_it_was_listed_stays(tmp_path: Path) -> None:
    pack, stage = add_pack(tmp_path, "k", "a"), add_stage(tmp_path, "s")
    found = cache_entries(tmp_path)
    mark_used(pack)
    mark_used(stage / "stage.json")
    assert [remove_entry(entry) for entry in found] == [False, False]
    assert kinds(cache_entries(tmp_path)) == ["features", "stages"]
    again = cache_entries(tmp_path)
    assert [remove_entry(entry) for entry in again] == [True, True]
    assert [remove_entry(entry) for entry in again] == [True, True]  # It is gone already.


def test_what_the_cache_does_not_know_is_left_alone(tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    pack, stage = add_pack(outside, "k", "a"), add_stage(outside, "s")
    add_defect(outside, "d")
    own_pack, own_stage = add_pack(cache, "own", "b"), add_stage(cache, "own")
    (cache / "features" / pack.parent.name).symlink_to(pack.parent)
    (own_pack.parent / pack.name).symlink_to(pack)
    (own_pack.parent / f"{pack.stem}.npy").symlink_to(pack.with_suffix(".npy"))
    (cache / "stages" / "00").symlink_to(stage.parent)
    (own_stage.parent / f"{own_stage.name}f").symlink_to(stage)
    (own_stage / "there").symlink_to(stage)
    (cache / "synthetic").symlink_to(outside / "synthetic")
    for path in ("features/notes.txt", "features/mine/a.json", "stages/ab/notes/stage.json", "digests.json"):
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_text("mine")
    (own_pack.parent / "a-short.npy").write_text("mine")
    before, links = files(outside), {path for path in cache.rglob("*") if path.is_symlink()}
    evict(cache, 0)
    clear_cache(cache)
    assert files(outside) == before
    assert set(files(cache)) == {
        "features/notes.txt",
        "features/mine/a.json",
        "stages/ab/notes/stage.json",
        "digests.json",
        f"features/{own_pack.parent.name}/a-short.npy",
    } | {name for name in files(cache) if (cache / name).resolve().is_relative_to(outside)}
    assert {path for path in cache.rglob("*") if path.is_symlink()} == links - {own_stage / "there"}
    assert not own_stage.exists() and not own_pack.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("50GB", 50 * 10**9), ("1.5 TiB", 3 * 2**39), ("500mb", 5 * 10**8), ("0B", 0), ("none", None), (" None ", None)],
)
def test_sizes_are_read(text: str, size: int | None) -> None:
    assert read_size(text, "--budget") == size


@pytest.mark.parametrize("text", ["", "50", "GB", "-1GB", "1e9B", "50 GB a day", "nan B", "\u0661GB"])
def test_a_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--budget: given .* allowed: a number with a unit"):
        read_size(text, "--budget")


def test_the_budget_is_the_caches_unless_the_variable_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    assert budget_of(cache) is None
    set_budget(cache, 10**9)
    assert budget_of(cache) == 10**9
    monkeypatch.setenv(VARIABLE, "2GB")
    assert budget_of(cache) == 2 * 10**9
    monkeypatch.setenv(VARIABLE, "none")
    assert budget_of(cache) is None
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(InvalidInput, match=f"{VARIABLE}: given 'much'"):
        budget_of(cache)
    with pytest.raises(InvalidInput, match=VARIABLE), pinned_within_budget(cache):
        pass
    monkeypatch.delenv(VARIABLE)
    for content in ("", "[]", '{"bytes": "1"}', '{"bytes": null}'):
        (cache / "budget.json").write_text(content)
        with pytest.raises(InvalidInput, match="set the budget again"):
            budget_of(cache)
    set_budget(cache, None)
    assert budget_of(cache) is None
    assert list(cache.iterdir()) == []


# ---- what is in use ------------------------------------------------------------------------------


def test_a_passing_error_does_not_hide_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_budget(tmp_path, 4096)
    read, failed = os.open, list[str]()

    def fails_once(path: str | Path, *rest: int) -> int:
        if Path(path).name == "budget.json" and not failed:
            failed.append(str(path))
            raise OSError(errno.EIO, "Input/output error")
        return read(path, *rest)

    monkeypatch.setattr(os, "open", fails_once)
    assert budget_of(tmp_path) == 4096
    assert failed


def test_what_a_running_sweep_uses_survives_clearing_and_any_budget(tmp_path: Path) -> None:
    used, same_key, idle = add_pack(tmp_path, "k", "a"), add_pack(tmp_path, "k", "b"), add_pack(tmp_path, "idle", "a")
    stage, idle_stage, defect = add_stage(tmp_path, "s"), add_stage(tmp_path, "idle"), add_defect(tmp_path, "d")
    with pinned(tmp_path):
        mark_used(used)
        mark_used(stage / "stage.json")
        done = evict(tmp_path, 0)
        assert [path.exists() for path in (used, same_key, stage, defect)] == [True] * 4
        assert not idle.exists() and not idle_stage.exists()
        assert kinds(done.removed) == ["features", "stages"]
        assert kinds(done.stayed) == ["defects", "features", "features", "stages"]
        again = clear_cache(tmp_path)
        assert (again.removed, len(again.stayed)) == ((), 4)
        (pin,) = pins(tmp_path)
        assert pin.who.endswith(f":{os.getpid()}")
        assert abs(pin.since - time.time()) < 60
    assert pins(tmp_path) == []
    assert evict(tmp_path, 0).stayed == ()
    assert held(tmp_path) == 0


def test_the_oldest_of_several_sweeps_counts(tmp_path: Path) -> None:
    with pinned(tmp_path), pinned(tmp_path):
        early, late = sorted((tmp_path / "pins").glob("*.json"))
        text = early.read_text()
        since = pins(tmp_path)[0].since
        early.write_text(text.replace(text.rpartition('"since": ')[2], f"{LONG_AGO - 10}}}"))
        assert pins(tmp_path)[0].since == LONG_AGO - 10 < since
        add_pack(tmp_path, "k", "a", LONG_AGO)
        add_pack(tmp_path, "other", "a", LONG_AGO - 1000)
        assert len(clear_cache(tmp_path).stayed) == 1
        early.unlink()
        assert clear_cache(tmp_path).stayed == ()
        assert late.exists()


def test_a_dead_sweep_pins_nothing_and_one_that_is_being_written_everything(tmp_path: Path) -> None:
    add_pack(tmp_path, "k", "a")
    folder = tmp_path / "pins"
    folder.mkdir()
    path = folder / f"{name('pin')}.json"
    path.touch()
    assert len(clear_cache(tmp_path).stayed) == 1
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert clear_cache(tmp_path).stayed == ()
    assert not path.exists()


def test_a_group_in_which_a_worker_is_at_work_stays_without_any_pin(tmp_path: Path) -> None:
    pack, stage = add_pack(tmp_path, "k", "a"), add_stage(tmp_path, "s")
    checkpoint = stage.parent / f"{stage.name}.checkpoint.safetensors"
    checkpoint.write_bytes(b"1234")
    os.utime(checkpoint, (LONG_AGO, LONG_AGO))
    claims = [try_claim(pack.parent / "0.claim"), try_claim(tmp_path / "stages" / "claims" / stage.name)]
    assert clear_cache(tmp_path).removed == ()
    for claim in claims:
        assert claim is not None
        claim.release()
    assert kinds(clear_cache(tmp_path).removed) == ["checkpoints", "features", "stages"]


def test_only_a_part_is_cleared(tmp_path: Path) -> None:
    add_pack(tmp_path, "k", "a")
    stage = add_stage(tmp_path, "s")
    (stage.parent / f".{stage.name}.0.tmp").write_bytes(b"half")
    add_defect(tmp_path, "d")
    assert kinds(clear_cache(tmp_path, "stages").removed) == ["leftovers", "stages"]
    assert kinds(clear_cache(tmp_path, "features").removed) == ["features"]
    assert kinds(clear_cache(tmp_path, "synthetic").removed) == ["defects"]


def test_a_cache_in_use_is_kept_within_its_budget_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    idle, used = add_pack(tmp_path, "idle", "a"), add_pack(tmp_path, "k", "a")
    set_budget(tmp_path, 10)
    with pinned_within_budget(tmp_path, look_every_s=0.02):
        mark_used(used)
        end = time.monotonic() + 60
        while idle.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not idle.exists()
        assert used.exists()
    assert held(tmp_path) == 0
    assert list((tmp_path / "pins").glob("*.json")) == []


def test_stages_that_a_sweep_is_going_to_need_are_in_use_from_its_start(tmp_path: Path) -> None:
    """As stages that a leader trained for later followers, or those of a resumed sweep."""
    leader, follower = (
        TrialConfig.model_validate({"data": {"tasks": tasks}}) for tasks in (["a", "b"], ["a", "b", "c"])
    )
    others = [
        TrialConfig.model_validate({"data": {"tasks": ["a"]}} | change)
        for change in ({"seed": 1}, {"flow": {"blocks": 2}}, {"data": {"tasks": ["b"]}})
    ]
    needed = [add_stage(tmp_path, f"s{n}", settings=stage_settings_digest(leader, n)) for n in range(2)]
    idle = [add_stage(tmp_path, f"idle{n}", settings=stage_settings_digest(one, 0)) for n, one in enumerate(others)]
    idle.append(add_stage(tmp_path, "of earlier code"))
    with pinned_within_budget(tmp_path, needs=[follower]):
        end = time.monotonic() + 60
        while (
            any((place / "stage.json").stat().st_mtime == pytest.approx(LONG_AGO) for place in needed)
            and time.monotonic() < end
        ):
            time.sleep(0.005)
        assert len(clear_cache(tmp_path).stayed) == 2
        assert [place.exists() for place in needed + idle] == [True, True, False, False, False, False]


def test_a_sweep_that_starts_while_room_is_made_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moleflow.cache.eviction, "PINS_EVERY_S", 0.0)
    idle, used, same_key = add_pack(tmp_path, "idle", "a"), add_pack(tmp_path, "k", "a"), add_pack(tmp_path, "k", "b")
    os.utime(idle, (LONG_AGO - 10, LONG_AGO - 10))
    with contextlib.ExitStack() as stack:

        def remove_and_start(entry: CacheEntry) -> bool:
            gone = remove_entry(entry)
            stack.enter_context(pinned(tmp_path))
            mark_used(used)
            return gone

        monkeypatch.setattr(moleflow.cache.eviction, "remove_entry", remove_and_start)
        assert len(evict(tmp_path, 0).stayed) == 2
        assert (idle.exists(), used.exists(), same_key.exists()) == (False, True, True)


def test_without_a_budget_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = add_pack(tmp_path, "k", "a")
    looked = threading.Semaphore(0)

    def no_budget(cache: Path) -> None:
        looked.release()

    monkeypatch.setattr(moleflow.cache.eviction, "budget_of", no_budget)
    with pinned_within_budget(tmp_path, look_every_s=0.01):
        assert all(looked.acquire(timeout=30) for _ in range(4))  # At the start, and thrice by the thread.
    assert pack.exists()


def test_pins_are_listed_at_most_once_a_second_while_entries_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with a pause of five times as long as a listing takes."""
    now, listed = 0.0, []

    def list_pins(cache: Path) -> list[object]:
        nonlocal now
        now += 2.0 if listed else 0.0
        listed.append(now)
        return []

    monkeypatch.setattr(moleflow.cache.eviction, "pins", list_pins)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    groups = moleflow.cache.eviction._PinnedGroups(tmp_path, [])
    entry = CacheEntry("features", "features/ab", (), tmp_path, 1, 0.0)
    for moment in (0.9, 1.0, 12.9, 13.0):  # The listing at 1.0 ends at 3.0.
        now = moment
        assert not groups.includes(entry)
    assert listed == [0.0, 3.0, 15.0]


def test_two_checks_have_a_pause_of_twenty_checks_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a large cache takes minutes of a file server's time."""
    pauses: list[float] = []
    clock = iter(range(0, 10_000, 7))  # Each check takes 7 s.

    class Over:
        def wait(self, seconds: float) -> bool:
            pauses.append(seconds)
            return len(pauses) == 3

    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    moleflow.cache.eviction._check(tmp_path, 60.0, Over(), [])  # type: ignore[arg-type]
    assert pauses == [60.0, 140.0, 140.0]


def test_another_process_that_has_just_checked_spares_a_check(tmp_path: Path) -> None:
    pack, stamp = add_pack(tmp_path, "k", "a"), tmp_path / "pins" / "looked"
    set_budget(tmp_path, 0)
    stamp.parent.mkdir()

    class Once:
        def __init__(self) -> None:
            self.waits = 0

        def wait(self, seconds: float) -> bool:
            self.waits += 1
            return self.waits == 2

    for age, there in ((29, True), (31, False)):  # Half of the 60 s between two checks.
        stamp.touch()
        os.utime(stamp, (time.time() - age,) * 2)
        moleflow.cache.eviction._check(tmp_path, 60.0, Once(), [])  # type: ignore[arg-type]
        assert pack.exists() == there
    assert stamp.stat().st_mtime > time.time() - 20


def test_a_cache_that_cannot_be_written_is_used_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pins").write_text("in the way")
    with pinned_within_budget(tmp_path):
        assert pins(tmp_path) == []
    assert "may be cleared meanwhile" in caplog.text
