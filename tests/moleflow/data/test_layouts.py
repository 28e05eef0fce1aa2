"""Layouts of the field: small trees of the structure that each set was published in, as samples.

Real files of these sets are not here. The functions at the top draw one class each, with contents
that differ by `seed`.
"""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from moleflow.data.findings import findings_of, passed_over_note
from moleflow.data.layouts.table import BY_LOOKING, LAYOUTS, Reading, class_files, find_classes
from moleflow.data.loading import load_mask
from moleflow.data.normal_names import is_near_normal
from moleflow.data.outside import files_outside
from moleflow.data.samples import PassedOver, TaskData
from moleflow.data.scan import class_names, list_files, scan
from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs

SIDE = 24


def paint(path: Path, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """A random colour image; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def mark(path: Path, rows: slice = slice(4, 12), value: int = 255, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """A mask with the given rows defective."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[rows] = value
    Image.fromarray(mask).save(path)


def paint_all(folder: Path, names: Iterable[str], seed: int) -> None:
    """Images with these names in a folder."""
    for number, name in enumerate(names):
        paint(folder / name, seed + number)


def numbers(count: int, suffix: str = ".png", width: int = 3) -> list[str]:
    """Names such as 000.png, 001.png."""
    return [f"{number:0{width}}{suffix}" for number in range(count)]


def mvtec_ad(root: Path, name: str = "bottle", seed: int = 0, defects: Iterable[str] = ("broken", "hole")) -> None:
    """MVTec AD and MPDD: folders of defects, a mask for each image."""
    folder = root / name
    paint_all(folder / "train/good", numbers(5), seed)
    paint_all(folder / "test/good", numbers(2), seed + 100)
    for place, defect in enumerate(defects):
        paint_all(folder / "test" / defect, numbers(3), seed + 200 + 50 * place)
        for number in range(3):
            mark(folder / f"ground_truth/{defect}/{number:03}_mask.png", slice(number, number + 6))
    (folder / "readme.txt").write_text("about the set\n")
    (folder / "license.txt").write_text("terms\n")


def mvtec_ad_2(root: Path, name: str = "can", seed: int = 0) -> None:
    """MVTec AD 2: a public test with masks in it, a validation set and private tests."""
    folder = root / name
    paint_all(folder / "train/good", [f"{n:03}_regular.png" for n in range(4)], seed)
    paint_all(folder / "validation/good", [f"{n:03}_regular.png" for n in range(2)], seed + 50)
    names = ["000_regular.png", "000_overexposed.png", "001_underexposed.png"]
    paint_all(folder / "test_public/good", names, seed + 100)
    paint_all(folder / "test_public/bad", names, seed + 200)
    for place, one in enumerate(names):
        mark(folder / f"test_public/ground_truth/bad/{Path(one).stem}_mask.png", slice(place, place + 5))
    paint_all(folder / "test_private", numbers(2), seed + 300)
    paint_all(folder / "test_private_mixed", numbers(2), seed + 400)


def mvtec_loco(root: Path, name: str = "pushpins", seed: int = 0) -> None:
    """MVTec LOCO AD: a folder of masks for each image, one mask for each defect."""
    folder = root / name
    paint_all(folder / "train/good", numbers(4), seed)
    paint_all(folder / "validation/good", numbers(2), seed + 50)
    paint_all(folder / "test/good", numbers(2), seed + 100)
    for place, kind in enumerate(("logical_anomalies", "structural_anomalies")):
        paint_all(folder / "test" / kind, numbers(2), seed + 200 + 50 * place)
        mark(folder / f"ground_truth/{kind}/000/000.png", slice(0, 4), value=255)
        mark(folder / f"ground_truth/{kind}/000/001.png", slice(10, 13), value=254)
        mark(folder / f"ground_truth/{kind}/001/000.png", slice(6, 9), value=253)
    (folder / "defects_config.json").write_text("[]")


def visa(root: Path, name: str = "candle", seed: int = 0) -> None:
    """VisA: images by kind, and the table of its one-class setup."""
    images, masks = f"{name}/Data/Images", f"{name}/Data/Masks"
    paint_all(root / images / "Normal", numbers(6, ".JPG", 4), seed)
    paint_all(root / images / "Anomaly", numbers(3, ".JPG"), seed + 100)
    rows = [[name, "train" if n < 4 else "test", "normal", f"{images}/Normal/{n:04}.JPG", ""] for n in range(6)]
    for n in range(3):
        mark(root / f"{masks}/Anomaly/{n:03}.png", slice(n, n + 5), value=n + 1)
        rows.append([name, "test", "anomaly", f"{images}/Anomaly/{n:03}.JPG", f"{masks}/Anomaly/{n:03}.png"])
    (root / name / "image_anno.csv").write_text("image,label,mask\n")
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir(exist_ok=True)
    is_new = not table.exists()
    with table.open("a", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows] if is_new else rows)


def btad(root: Path, name: str = "01", seed: int = 0, suffix: str = ".bmp") -> None:
    """BTAD: ok and ko; masks are PNG files."""
    folder = root / name
    paint_all(folder / "train/ok", numbers(4, suffix, 4), seed)
    paint_all(folder / "test/ok", numbers(2, suffix, 4), seed + 100)
    paint_all(folder / "test/ko", numbers(3, suffix, 4), seed + 200)
    for number in range(3):
        mark(folder / f"ground_truth/ko/{number:04}.png", slice(number, number + 7))


def real_iad(root: Path, name: str = "audiojack", seed: int = 0, tables: str = "realiad_jsons/realiad_jsons") -> None:
    """Real-IAD: one JSON file a class, images by label, defect and sample."""
    folder = root / "realiad_1024" / name
    lists: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}
    for number in range(6):
        path = f"OK/S{number:04}/{name}_{number:04}_OK_C1_20230101.jpg"
        paint(folder / path, seed + number)
        entry = {"category": name, "anomaly_class": "OK", "image_path": path, "mask_path": None}
        lists["train" if number < 4 else "test"].append(entry)
    for place, defect in enumerate(("BX", "HS")):
        for number in range(2):
            path = f"NG/{defect}/S{number:04}/{name}_{number:04}_NG_{defect}_C1_20230101"
            paint(folder / f"{path}.jpg", seed + 100 + 10 * place + number)
            mark(folder / f"{path}_mask.png", slice(number, number + 5))
            lists["test"].append(
                {
                    "category": name,
                    "anomaly_class": defect,
                    "image_path": f"{path}.jpg",
                    "mask_path": f"{path}_mask.png",
                }
            )
    meta = {"normal_class": "OK", "prefix": f"{name}/"}
    (root / tables).mkdir(parents=True, exist_ok=True)
    (root / tables / f"{name}.json").write_text(json.dumps({"meta": meta, **lists}))


def real_iad_by_folders(root: Path, name: str = "audiojack", seed: int = 0) -> None:
    """Real-IAD without JSON files: samples seen by two cameras, one of which misses a defect."""

    def views(place: str, label: str, sample: int) -> list[Path]:
        stem = f"{name}_{sample:04}_{label}"
        return [root / name / place / f"S{sample:04}" / f"{stem}_C{camera}_20230101.jpg" for camera in (1, 2)]

    for sample in range(1, 6):
        for number, path in enumerate(views("OK", "OK", sample)):
            paint(path, seed + 2 * sample + number)
    for place, defect in enumerate(("BX", "HS")):
        for sample in (1, 2):
            for number, path in enumerate(views(f"NG/{defect}", f"NG_{defect}", sample)):
                paint(path, seed + 100 + 10 * place + 2 * sample + number)
                if (defect, sample, number) != ("HS", 2, 1):
                    mark(path.with_name(f"{path.stem}_mask.png" if place else f"{path.stem}.png"), slice(0, 3 + sample))


def kolektor_sdd2(root: Path, seed: int = 0) -> None:
    """Kolektor SDD2: an empty mask for each normal image; training images have defects too."""
    for split, first, defective in (("train", 10000, 2), ("test", 20000, 3)):
        for number in range(6):
            name = f"{split}/{first + number}"
            paint(root / f"{name}.png", seed + first + number)
            mark(root / f"{name}_GT.png", slice(0, 5 if number < defective else 0))


def manifest(root: Path, name: str = "bolt", seed: int = 0) -> list[dict[str, str]]:
    """A list of one's own: the rows, which `manifest.csv` then holds."""
    paint_all(root / "shots", numbers(9), seed)
    mark(root / "marks/7.png", slice(0, 5))
    mark(root / "marks/8.png", slice(5, 9))
    rows = [_row(n, name, "train" if n < 4 else "test", "good", "") for n in range(7)]
    rows += [_row(7, name, "test", "scratch", "marks/7.png"), _row(8, name, "test", "dent", "marks/8.png")]
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _row(number: int, name: str, split: str, label: str, mask: str) -> dict[str, str]:
    return {"image": f"shots/{number:03}.png", "class": name, "split": split, "label": label, "mask": mask}


def scan_one(root: Path, name: str, reading: Reading = BY_LOOKING) -> TaskData:
    """The only class."""
    (task,) = scan(root, [name], reading=reading)
    return task


def refusal(root: Path, name: str, reading: Reading = BY_LOOKING) -> str:
    """The message with which a scan is refused."""
    with pytest.raises(InvalidInput) as caught:
        scan(root, [name], reading=reading)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(task: TaskData) -> dict[str, int]:
    """Test images by defect."""
    return dict(Counter(sample.defect for sample in task.test))


def marked_rows(task: TaskData, name: str) -> list[int]:
    """The rows of the pixels that the masks of an image mark."""
    sample = next(sample for sample in task.test if sample.name == name)
    return load_mask(sample, SIDE)[:, 0].nonzero()[0].tolist()


Draw = Callable[[Path], Any]
PUBLISHED: dict[str, tuple[Draw, str, str, int, dict[str, int], str]] = {
    "MVTec AD": (mvtec_ad, "mvtec_ad", "bottle", 5, {"good": 2, "broken": 3, "hole": 3}, ""),
    "MPDD": (
        lambda root: mvtec_ad(root, "bracket_black", defects=("hole", "scratches")),
        "mvtec_ad",
        "bracket_black",
        5,
        {"good": 2, "hole": 3, "scratches": 3},
        "",
    ),
    "MVTec AD 2": (
        mvtec_ad_2,
        "mvtec_ad_2",
        "can",
        4,
        {"good": 3, "bad": 3},
        "can: 6 files passed over: 6 in folders that are not read (test_private/, test_private_mixed/ and 1 more)",
    ),
    "MVTec LOCO AD": (
        mvtec_loco,
        "mvtec_loco",
        "pushpins",
        4,
        {"good": 2, "logical_anomalies": 2, "structural_anomalies": 2},
        "pushpins: 2 files passed over: 2 in folders that are not read (validation/good/)",
    ),
    "VisA": (visa, "visa", "candle", 4, {"good": 2, "anomaly": 3}, ""),
    "BTAD": (btad, "btad", "01", 4, {"good": 2, "ko": 3}, ""),
    "Real-IAD": (real_iad, "real_iad", "audiojack", 4, {"good": 2, "BX": 2, "HS": 2}, ""),
    "Real-IAD, tables in one folder": (
        lambda root: real_iad(root, tables="realiad_jsons"),
        "real_iad",
        "audiojack",
        4,
        {"good": 2, "BX": 2, "HS": 2},
        "",
    ),
    "Real-IAD, by its folders": (
        real_iad_by_folders,
        "real_iad",
        "audiojack",
        6,
        {"good": 4, "BX": 4, "HS": 3},
        "audiojack: 1 file passed over: 1 of NG without a mask",
    ),
    "Kolektor SDD2": (
        kolektor_sdd2,
        "kolektor_sdd2",
        "kolektor_sdd2",
        4,
        {"good": 3, "defective": 3},
        "kolektor_sdd2: 2 files passed over: 2 defective training images",
    ),
    "a manifest": (manifest, "manifest", "bolt", 4, {"good": 3, "scratch": 1, "dent": 1}, ""),
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_a_published_structure_is_recognised_and_read(tmp_path: Path, published: str) -> None:
    draw, layout, name, train, test, over = PUBLISHED[published]
    draw(tmp_path)
    assert {one: found.name for one, found in find_classes(tmp_path).items()} == {name: layout}
    task = scan_one(tmp_path, name)
    assert (task.name, len(task.train), kinds(task), task.has_masks) == (name, train, test, True)
    assert all(sample.label == 0 and sample.mask is None for sample in task.train)
    for sample in task.test:
        assert sample.label == (sample.defect != "good") == (sample.mask is not None)
        assert load_mask(sample, SIDE).any() == (sample.label == 1)
    assert passed_over_note(name, task.passed_over) == over
    assert scan_one(tmp_path, name, Reading(layout)) == task


@pytest.mark.parametrize("published", PUBLISHED)
def test_a_count_without_opening_images_agrees_with_the_scan(tmp_path: Path, published: str) -> None:
    draw, _, name, train, test, _ = PUBLISHED[published]
    draw(tmp_path)
    files = class_files(tmp_path, name, find_classes(tmp_path))
    aside = sum(group.count for group in scan_one(tmp_path, name).passed_over if group.reason.startswith("defective"))
    assert (len(files.train) - aside, len(files.test)) == (train, sum(test.values()))


@pytest.mark.parametrize("published", PUBLISHED)
def test_renaming_the_root_changes_no_digest(tmp_path: Path, published: str) -> None:
    draw, _, name, *_ = PUBLISHED[published]
    (tmp_path / "here").mkdir()
    draw(tmp_path / "here")
    before = scan_one(tmp_path / "here", name)
    (tmp_path / "here").rename(tmp_path / "there")
    after = scan_one(tmp_path / "there", name)
    assert (after.digest, [sample.name for sample in after.test]) == (before.digest, [s.name for s in before.test])


def test_the_knob_names_every_layout() -> None:
    assert set(get_args(DataKnobs.model_fields["layout"].annotation)) == {"auto", *LAYOUTS}


def test_classes_of_several_layouts_may_be_side_by_side(tmp_path: Path) -> None:
    for draw in (mvtec_ad, mvtec_ad_2, mvtec_loco, btad):
        draw(tmp_path)
    assert class_names(tmp_path) == ["01", "bottle", "can", "pushpins"]
    assert [task.name for task in scan(tmp_path, ["pushpins", "01"])] == ["pushpins", "01"]
    assert class_names(tmp_path, Reading("btad")) == ["01"]


def test_a_class_that_has_two_layouts_needs_a_word(tmp_path: Path) -> None:
    visa(tmp_path)
    mvtec_ad(tmp_path, "candle", 7)
    said = refusal(tmp_path, "candle")
    assert "class 'candle' has two layouts, mvtec_ad (<class>/train/good) and visa (split_csv/1cls.csv)" in said
    assert "`layout: mvtec_ad` or `layout: visa` (or --set layout=mvtec_ad)" in said
    assert kinds(scan_one(tmp_path, "candle", Reading("visa"))) == {"good": 2, "anomaly": 3}
    assert kinds(scan_one(tmp_path, "candle", Reading("mvtec_ad"))) == {"good": 2, "broken": 3, "hole": 3}


def test_a_layout_that_the_root_does_not_have(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    said = refusal(tmp_path, "bottle", Reading("visa"))
    assert "layout visa: looked for split_csv/1cls.csv; folders there: bottle; it has the structure of mvtec_ad" in said
    mvtec_loco(tmp_path)
    said = refusal(tmp_path, "pushpins", Reading("mvtec_ad"))
    assert "no class 'pushpins' of layout mvtec_ad in" in said
    assert "; it has the structure of mvtec_ad and mvtec_loco; classes there: bottle" in said


def test_several_masks_of_an_image_are_united(tmp_path: Path) -> None:
    """LOCO marks each defect in a file of its own, by a value of its own."""
    mvtec_loco(tmp_path)
    task = scan_one(tmp_path, "pushpins")
    assert marked_rows(task, "pushpins/test/logical_anomalies/000.png") == [0, 1, 2, 3, 10, 11, 12]
    assert marked_rows(task, "pushpins/test/structural_anomalies/001.png") == [6, 7, 8]
    mark(tmp_path / "pushpins/ground_truth/logical_anomalies/000/001.png", slice(14, 15))
    changed = scan_one(tmp_path, "pushpins").digest
    assert changed != task.digest
    (tmp_path / "pushpins/ground_truth/logical_anomalies/000/000.png").rename(
        tmp_path / "pushpins/ground_truth/logical_anomalies/000/zzz.png"
    )
    assert scan_one(tmp_path, "pushpins").digest == changed  # The names of masks are no content.


def test_masks_in_folders_may_not_be_missing(tmp_path: Path) -> None:
    mvtec_loco(tmp_path)
    shutil.rmtree(tmp_path / "pushpins/ground_truth/logical_anomalies/001")
    said = refusal(tmp_path, "pushpins")
    assert "logical_anomalies/001.png: no mask; looked for ground_truth/logical_anomalies/001/000.png" in said


NEAR = ["ok", "OK", "Good", "GOOD", "normal", "Normal", "goood", "defect-free", "no_defect", "ok_images", "good 2"]


@pytest.mark.parametrize("near", NEAR)
@pytest.mark.parametrize("beside", [True, False])
def test_normal_test_images_under_another_name(tmp_path: Path, near: str, beside: bool) -> None:
    """Counted as defects they would give an AP of 1; the line that is asked for decides."""
    mvtec_ad(tmp_path)
    test = tmp_path / "bottle/test"
    shutil.rmtree(tmp_path / "bottle/ground_truth")
    shutil.copytree(test / "good", test / near) if beside else (test / "good").rename(test / near)
    said = refusal(tmp_path, "bottle")
    quoted = near if near.isalpha() or "-" in near or "_" in near else f'"{near}"'
    assert said.startswith(f"{test / near}: the folder '{near}' could hold normal images under another name; ")
    assert f"`normal_names: [good, {quoted}]` counts its images as normal, `normal_names: [good]` as defective" in said
    assert f"--set 'normal_names=[good, {quoted}]'" in said
    as_normal = scan_one(tmp_path, "bottle", Reading(normal_names=("good", near)))
    assert kinds(as_normal) == {"good": 4 if beside else 2, "broken": 3, "hole": 3}
    as_defect = scan_one(tmp_path, "bottle", Reading(normal_names=("good",)))
    assert kinds(as_defect) == {"broken": 3, "hole": 3, near: 2} | ({"good": 2} if beside else {})


PUBLISHED_DEFECTS = (
    *("broken_large", "contamination", "bent_wire", "cable_swap", "combined", "cut_inner_insulation"),
    *("missing_cable", "poke", "faulty_imprint", "squeeze", "color", "cut", "hole", "thread", "glue", "print"),
    *("fold", "flip", "pill_type", "manipulated_front", "scratch_head", "gray_stroke", "oil", "rough"),
    *("defective", "bent_lead", "damaged_case", "misplaced", "liquid", "broken_teeth", "fabric_border"),
    *("split_teeth", "bad", "ko", "logical_anomalies", "structural_anomalies", "scratches"),
    *("bend_and_parts_mismatch", "defective_painting", "major_rust", "total_rust", "flattening", "AK", "BX"),
    *("CH", "HS", "PS", "QS", "YW", "ZW"),
)
OTHERS = ("not_ok", "nok", "notgood", "no_good", "abnormal", "anomaly", "ng", "wood", "gold", "food", "images", "7")


@pytest.mark.parametrize("name", [*PUBLISHED_DEFECTS, *OTHERS])
def test_names_of_defects_are_not_near(name: str) -> None:
    assert not is_near_normal(name)


NORMAL_IN_OTHER_WORDS = (
    *("in Ordnung", "ohne_fehler", "fehlerfrei", "bons", "sans défaut", "zero_defaut", "conforme", "buoni"),
    *("senza difetti", "bueno", "goed", "dobry", "v pořádku", "хороший", "без дефектов", "良品", "正常样本"),
    *("正常品", "異常なし", "정상", "OKs", "negatives", "true_negative", "0", "no-fault", "not_defective"),
    *("fault_free", "good copy", "good.bak", "Good (2)", "\uff27\uff4f\uff4f\uff44", "nromal", "normla", "accepted"),
)
DEFECTS_IN_OTHER_WORDS = (
    *("n.i.O.", "nicht in Ordnung", "anormal", "kaputt", "mauvais", "不良品", "不正常", "異常", "1", "not_normal"),
    *("free", "none", "scratch free", "without_screw", "error", "unnormal", "formal", "mood"),
)


@pytest.mark.parametrize("name", NORMAL_IN_OTHER_WORDS)
def test_names_in_other_languages_are_near(name: str) -> None:
    assert is_near_normal(name)
    assert is_near_normal(unicodedata.normalize("NFD", name.upper()))


@pytest.mark.parametrize("name", DEFECTS_IN_OTHER_WORDS)
def test_names_of_defects_in_other_languages_are_not_near(name: str) -> None:
    assert not is_near_normal(name)


def test_a_kind_without_a_folder_of_masks_could_be_normal_by_any_name(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    paint_all(tmp_path / "bottle/test/zufriedenstellend", numbers(2), 900)
    said = refusal(tmp_path, "bottle")
    assert "there is no folder ground_truth/zufriedenstellend" in said
    assert "`normal_names: [good, zufriedenstellend]`" in said
    task = scan_one(tmp_path, "bottle", Reading(normal_names=("good", "zufriedenstellend")))
    assert sum(sample.label == 0 for sample in task.test) == 4


def test_a_folder_of_masks_in_another_case_is_named(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    (tmp_path / "bottle/ground_truth/hole").rename(tmp_path / "bottle/ground_truth/Hole")
    assert "rename ground_truth/Hole to hole" in refusal(tmp_path, "bottle")


@pytest.mark.parametrize("near", ["ok", "Good", "normal"])
def test_normal_training_images_under_another_name(tmp_path: Path, near: str) -> None:
    mvtec_ad(tmp_path, "bottle")
    (tmp_path / "bottle/train/good").rename(tmp_path / "bottle/train" / near)
    assert f"bottle/train/{near}: the folder '{near}' could hold normal images" in refusal(tmp_path, "bottle")
    mvtec_ad(tmp_path, "carpet", 1000)
    assert f"`normal_names: [good, {near}]`" in refusal(tmp_path, "bottle")
    task = scan_one(tmp_path, "bottle", Reading(normal_names=("good", near)))
    (tmp_path / "bottle/train" / near).rename(tmp_path / "bottle/train/good")
    assert scan_one(tmp_path, "bottle").digest == task.digest  # A folder's name is no content.


def test_one_line_answers_for_all_classes(tmp_path: Path) -> None:
    """A list that names `ok` alone would make defects of the `Normal` of another class."""
    mvtec_ad(tmp_path, "bottle")
    mvtec_ad(tmp_path, "carpet", 1000)
    (tmp_path / "bottle/train/good").rename(tmp_path / "bottle/train/Good")
    (tmp_path / "bottle/test/good").rename(tmp_path / "bottle/test/ok")
    (tmp_path / "carpet/test/good").rename(tmp_path / "carpet/test/Normal")
    assert "`normal_names: [good, Good, ok, Normal]` counts its images as normal" in refusal(tmp_path, "bottle")
    names = ("good", "Good", "ok", "Normal")
    for task in scan(tmp_path, ["bottle", "carpet"], reading=Reading(normal_names=names)):
        assert kinds(task)["good"] == 2


def test_normal_images_of_training_under_two_names(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    paint_all(tmp_path / "bottle/train/ok", numbers(3), 900)
    assert "bottle/train/ok: the folder 'ok'" in refusal(tmp_path, "bottle")
    assert len(scan_one(tmp_path, "bottle", Reading(normal_names=("good", "ok"))).train) == 8
    task = scan_one(tmp_path, "bottle", Reading(normal_names=("good",)))
    assert (len(task.train), passed_over_note("bottle", task.passed_over)) == (
        5,
        "bottle: 3 files passed over: 3 in folders that are not read (train/ok/)",
    )


@pytest.mark.parametrize("other", ["000.png", "000_mask.bmp", "000.tif"])
def test_two_masks_for_one_image(tmp_path: Path, other: str) -> None:
    mvtec_ad(tmp_path)
    mark(tmp_path / "bottle/ground_truth/hole" / other)
    said = refusal(tmp_path, "bottle")
    assert f"{tmp_path / 'bottle/test/hole/000.png'}: several masks could be its own: ground_truth/hole/" in said
    assert f"ground_truth/hole/{other}" in said
    assert "ground_truth/hole/000_mask.png" in said


@pytest.mark.parametrize("other", ["000_gt.png", "000-mask.png", "000_Mask.png", "000_mask_1.png", "000_mask.gif"])
def test_masks_under_near_names(tmp_path: Path, other: str) -> None:
    mvtec_ad(tmp_path)
    masks = tmp_path / "bottle/ground_truth/hole"
    shutil.copy(masks / "000_mask.png", masks / other)
    assert f"ground_truth/hole/000_mask.png and ground_truth/hole/{other}; keep one" in refusal(tmp_path, "bottle")
    (masks / "000_mask.png").unlink()
    said = refusal(tmp_path, "bottle")
    assert f"no mask; looked for ground_truth/hole/000_mask.png; convert or rename ground_truth/hole/{other}" in said


def test_a_file_of_another_kind_or_image_is_no_mask(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    masks = tmp_path / "bottle/ground_truth/hole"
    (masks / "000_mask.json").write_text("{}")
    mark(masks / "0007_mask.png")  # Of an image that was taken out.
    assert len(scan_one(tmp_path, "bottle").test) == 8


@pytest.mark.parametrize("keep", [True, False])
def test_masks_beside_their_images_are_refused(tmp_path: Path, keep: bool) -> None:
    mvtec_ad(tmp_path)
    for path in (tmp_path / "bottle/ground_truth/hole").iterdir():
        shutil.copy(path, tmp_path / "bottle/test/hole" / path.name)
    if not keep:
        shutil.rmtree(tmp_path / "bottle/ground_truth")
    said = refusal(tmp_path, "bottle")
    assert (
        "test/hole/000_mask.png: has the name of a mask of 000.png beside it; move masks to ground_truth/hole" in said
    )


def test_masks_that_mark_no_pixel_are_noted(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    mark(tmp_path / "bottle/ground_truth/hole/001_mask.png", value=0)
    assert findings_of(scan_one(tmp_path, "bottle")).notes == [
        "bottle: 1 of 6 masks mark no pixel, such as the one of bottle/test/hole/001.png; "
        "pixel metrics take such an image for normal"
    ]


def test_two_images_for_one_mask(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    paint(tmp_path / "bottle/test/hole/000.jpg", 5)
    assert "000_mask.png: could be the mask of 000.jpg and 000.png in" in refusal(tmp_path, "bottle")


@pytest.mark.parametrize(("rows", "flagged"), [(slice(0, 12), False), (slice(0, 13), True), (slice(0, 24), True)])
def test_a_mask_that_covers_most_of_its_image_is_noted(tmp_path: Path, rows: slice, flagged: bool) -> None:
    mvtec_ad(tmp_path)
    mark(tmp_path / "bottle/ground_truth/hole/001_mask.png", rows)
    task = scan_one(tmp_path, "bottle")
    share = (rows.stop - rows.start) / SIDE
    found = [("bottle/ground_truth/hole/001_mask.png", share)] if flagged else []
    assert [(mask.name, mask.share) for mask in task.wide_masks] == found
    note = (
        "bottle: 1 of 6 masks mark more than half of the image as defective, such as "
        f"bottle/ground_truth/hole/001_mask.png ({share:.0%}); if they mark the background, invert them"
    )
    assert findings_of(task).notes == ([note] if flagged else [])


def test_files_that_are_passed_over_are_counted_by_reason(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    folder = tmp_path / "bottle"
    before = scan_one(tmp_path, "bottle")
    paint_all(folder / "test/good/old", numbers(4), 500)
    paint_all(folder / "train/good/line 1/monday", numbers(2), 510)
    paint(folder / "test/stray.png", 520)
    paint(folder / "stray.png", 521)
    paint(folder / "test/hole/000.gif", 522)
    shutil.copy(folder / "test/hole/000.png", folder / "test/hole/copy of 000")
    mark(folder / "ground_truth/hole/777_mask.png")
    mark(folder / "ground_truth/good/000_mask.png")
    paint_all(folder / "val/good", numbers(3), 530)
    for name in ("Thumbs.db", "notes.txt", ".hidden.png", "README", "boxes.json"):
        (folder / "test/hole" / name).write_bytes(b"x")
    task = scan_one(tmp_path, "bottle")
    assert task.digest == before.digest
    groups = {group.reason: (group.count, group.where) for group in task.passed_over}
    assert groups == {
        "in nested folders": (6, ("test/good/old/", "train/good/line 1/monday/")),
        "outside the folders of images": (2, ("test/",)),
        ".gif": (1, ()),
        "without a suffix": (1, ()),
        "masks without a defective image": (2, ("ground_truth/good/", "ground_truth/hole/")),
        "in folders that are not read": (3, ("val/good/",)),
    }
    note = passed_over_note("bottle", task.passed_over)
    assert note.startswith("bottle: 15 files passed over: ")
    assert "6 in nested folders (test/good/old/, train/good/line 1/monday/)" in note
    assert class_files(tmp_path, "bottle", find_classes(tmp_path)).passed_over == task.passed_over


def test_a_link_to_a_folder_above_ends_the_walk(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    (tmp_path / "bottle/test/good/loop").symlink_to(tmp_path / "bottle", target_is_directory=True)
    assert scan_one(tmp_path, "bottle").passed_over == ()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_both_forms_of_a_letter_are_one_name(tmp_path: Path, form: Any, asked: Any) -> None:
    """macOS stores "ä" as "a" and two dots."""
    mvtec_ad(tmp_path, unicodedata.normalize(form, "Zähne"), defects=(unicodedata.normalize(form, "Löcher"),))
    knobs = DataKnobs(tasks=(unicodedata.normalize(asked, "Zähne"),))
    (task,) = scan(tmp_path, knobs.classes)
    assert knobs.tasks == ("Z\u00e4hne",)
    assert (task.name, kinds(task)) == ("Z\u00e4hne", {"good": 2, "L\u00f6cher": 3})
    mvtec_ad(tmp_path / "plain", "Z\u00e4hne", defects=("L\u00f6cher",))
    assert task.digest == scan_one(tmp_path / "plain", "Z\u00e4hne").digest


def test_an_image_and_its_mask_may_be_named_in_two_forms(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    folder = tmp_path / "bottle"
    (folder / "test/hole/000.png").rename(folder / "test/hole" / unicodedata.normalize("NFC", "ö.png"))
    mask = folder / "ground_truth/hole/000_mask.png"
    mask.rename(mask.with_name(unicodedata.normalize("NFD", "ö_mask.png")))
    assert kinds(scan_one(tmp_path, "bottle"))["hole"] == 3


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        mvtec_ad(tmp_path, unicodedata.normalize(form, "Zähne"))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system keeps one of the two forms")
    assert "two folders have the name 'Z\u00e4hne'" in refusal(tmp_path, "Z\u00e4hne")


def test_a_manifest_may_be_the_root_itself_or_json(tmp_path: Path) -> None:
    rows = manifest(tmp_path)
    by_folder = scan_one(tmp_path, "bolt")
    assert scan_one(tmp_path / "manifest.csv", "bolt") == by_folder
    (tmp_path / "list.json").write_text(json.dumps([{**row, "mask": row["mask"] or None} for row in rows]))
    assert scan_one(tmp_path / "list.json", "bolt").digest == by_folder.digest
    text = (tmp_path / "manifest.csv").read_text()
    (tmp_path / "manifest.csv").write_text("\ufeff" + text.replace(",", ";").replace("image", "Image"))
    assert scan_one(tmp_path, "bolt").digest == by_folder.digest


def changed(rows: list[dict[str, str]], number: int, **values: str) -> list[dict[str, str]]:
    """The rows with other values in one of them."""
    return [row | values if place == number else row for place, row in enumerate(rows)]


MISTAKES: dict[str, tuple[int, dict[str, str], str]] = {
    "split": (2, {"split": "trian"}, "manifest.json, entry 3: split: given 'trian', allowed: train | test | val"),
    "file": (1, {"image": "shots/none.png"}, "manifest.json, entry 2: no such file: "),
    "twice": (1, {"image": "shots/000.png"}, "entry 2: ROOT/shots/000.png is listed a second time, after"),
    "empty": (3, {"class": ""}, "entry 4: no class; allowed: image, class, split, label, mask"),
    "near": (5, {"label": "ok"}, "entry 6: the label 'ok' could hold normal images under another name"),
    "mask": (8, {"mask": ""}, "entry 9: a defective image without a mask; give it one, or take all masks out"),
}


def test_paths_of_a_manifest_may_begin_with_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = manifest(tmp_path)
    plain = scan_one(tmp_path, "bolt")
    monkeypatch.setenv("HOME", str(tmp_path))
    homes = [row | {key: f"~/{row[key]}" for key in ("image", "mask") if row.get(key)} for row in rows]
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(homes))
    assert scan_one(tmp_path, "bolt") == plain
    (tmp_path / "manifest.json").write_text(json.dumps(changed(rows, 0, image="~nobody-here/1.png")))
    assert "~nobody-here/1.png: no home of this name; give the path without ~" in refusal(tmp_path, "bolt")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_manifest(tmp_path: Path, mistake: str) -> None:
    number, values, message = MISTAKES[mistake]
    rows = changed(manifest(tmp_path), number, **values)
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    assert message.replace("ROOT", str(tmp_path)) in refusal(tmp_path, "bolt")


def test_labels_of_a_manifest(tmp_path: Path) -> None:
    rows = [row | {"label": "0" if row["label"] == "good" else "1"} for row in manifest(tmp_path)]
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    assert kinds(scan_one(tmp_path, "bolt")) == {"good": 3, "defective": 2}
    (tmp_path / "manifest.json").write_text(
        json.dumps([row | {"label": row["label"].replace("0", "ok")} for row in rows])
    )
    assert kinds(scan_one(tmp_path, "bolt", Reading(normal_names=("ok",)))) == {"good": 3, "defective": 2}
    (tmp_path / "manifest.json").write_text(json.dumps([*changed(rows, 0, split="val"), rows[8]]))
    assert "is listed a second time" in refusal(tmp_path, "bolt")
    (tmp_path / "manifest.json").write_text(json.dumps(changed(changed(rows, 0, split="val"), 7, split="train")))
    note = passed_over_note("bolt", scan_one(tmp_path, "bolt").passed_over)
    assert note == "bolt: 2 files passed over: 1 of another split, 1 defective training images"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "manifest.csv",
            "image,split,label\n",
            "no column 'class'; columns there: image, split, label; allowed: image",
        ),
        ("manifest.csv", "", "no column 'image'; columns there: none"),
        ("manifest.json", "{", "is no JSON ("),
        (
            "manifest.json",
            '{"image": 1}',
            "given no list of mappings; allowed: [{image, class, split, label, mask}, ...]",
        ),
    ],
)
def test_a_manifest_of_another_form(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    assert message in refusal(tmp_path, "bolt")


def test_a_table_of_another_purpose_beside_folders_of_classes(tmp_path: Path) -> None:
    mvtec_ad(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    assert class_names(tmp_path) == ["bottle"]
    assert "given no list of mappings" in refusal(tmp_path, "bottle", Reading("manifest"))


def test_files_that_a_table_does_not_name_are_counted(tmp_path: Path) -> None:
    visa(tmp_path)
    paint(tmp_path / "candle/Data/Images/Normal/9999.JPG", 1)
    assert passed_over_note("candle", scan_one(tmp_path, "candle").passed_over) == (
        "candle: 1 file passed over: 1 not in 1cls.csv"
    )


@pytest.mark.parametrize(("column", "value"), [("split", "val"), ("label", "bad")])
def test_other_words_in_the_table_of_visa(tmp_path: Path, column: str, value: str) -> None:
    visa(tmp_path)
    table = tmp_path / "split_csv/1cls.csv"
    old = {"split": ",test,", "label": ",anomaly,"}[column]
    table.write_text(table.read_text().replace(old, f",{value},"))
    assert f": {column}: given '{value}', allowed: " in refusal(tmp_path, "candle")


def test_an_image_of_kolektor_sdd2_without_a_mask(tmp_path: Path) -> None:
    kolektor_sdd2(tmp_path)
    (tmp_path / "test/20004_GT.png").unlink()
    assert refusal(tmp_path, "kolektor_sdd2").endswith("test/20004_GT.png; add it")


def test_images_of_real_iad_are_there_in_one_size(tmp_path: Path) -> None:
    real_iad(tmp_path)
    shutil.copytree(tmp_path / "realiad_1024", tmp_path / "realiad_512")
    assert "folders of images there: realiad_1024, realiad_512; give one of realiad_256" in refusal(
        tmp_path, "audiojack"
    )
    for size in (1024, 512):
        shutil.rmtree(tmp_path / f"realiad_{size}")
    assert "folders of images there: none" in refusal(tmp_path, "audiojack")


def test_folders_of_real_iad_keep_the_images_of_a_sample_together(tmp_path: Path) -> None:
    real_iad_by_folders(tmp_path / "realiad_512")
    task = scan_one(tmp_path, "audiojack")
    assert {sample.path.parent.name for sample in task.train} == {"S0001", "S0003", "S0005"}
    assert {sample.path.parent.name for sample in task.test if not sample.label} == {"S0002", "S0004"}
    assert scan_one(tmp_path / "realiad_512", "audiojack").digest == task.digest


def test_the_split_of_folders_of_real_iad_is_said_to_be_none_of_the_data_set(tmp_path: Path) -> None:
    real_iad_by_folders(tmp_path)
    files = list_files(tmp_path, ["audiojack"], find_classes(tmp_path))["audiojack"]
    assert findings_of(scan_one(tmp_path, "audiojack"), split=files.split).notes[0] == (
        "audiojack: no realiad_jsons/audiojack.json, so every other sample of OK is for training; "
        "figures are not comparable with those of the published split"
    )
    real_iad(tmp_path, "mint")
    listed = list_files(tmp_path, ["mint"], find_classes(tmp_path))["mint"]
    assert listed.split == ""


def test_json_files_and_folders_of_real_iad_name_the_same_images(tmp_path: Path) -> None:
    """A class without a JSON file beside one that has one; labels and masks do not depend on it."""
    real_iad(tmp_path)
    by_json = scan_one(tmp_path, "audiojack")
    (tmp_path / "realiad_jsons/realiad_jsons/audiojack.json").unlink()
    real_iad(tmp_path, "mint", 1000)
    assert class_names(tmp_path) == ["audiojack", "mint"]
    by_folders = scan_one(tmp_path, "audiojack")

    def content(task: TaskData) -> set[tuple[str, str, str | None]]:
        return {(one.digest, one.defect, one.mask_digest) for one in (*task.train, *task.test)}

    assert content(by_folders) == content(by_json)
    assert (len(by_folders.train), kinds(by_folders)) == (3, {"good": 3, "BX": 2, "HS": 2})


def test_folders_of_real_iad_without_any_mask(tmp_path: Path) -> None:
    real_iad_by_folders(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    task = scan_one(tmp_path, "audiojack")
    assert (task.has_masks, kinds(task), task.passed_over) == (False, {"good": 4, "BX": 4, "HS": 4}, ())


def test_odd_files_in_folders_of_real_iad(tmp_path: Path) -> None:
    real_iad_by_folders(tmp_path)
    folder = tmp_path / "audiojack"
    paint(folder / "OK/stray.jpg", 1)
    paint(folder / "stray.jpg", 2)
    mark(folder / "NG/BX/S0001/other.png")
    groups = {group.reason: (group.count, group.where) for group in scan_one(tmp_path, "audiojack").passed_over}
    assert groups == {
        "of NG without a mask": (1, ()),
        "outside the folders of samples": (2, ("OK/",)),
        "masks without a defective image": (1, ()),
    }
    shutil.copy(folder / "NG/BX/S0001/other.png", folder / "NG/BX/S0001/audiojack_0001_NG_BX_C1_20230101_mask.png")
    assert "several masks could be its own: audiojack_0001_NG_BX_C1_20230101.png and" in refusal(tmp_path, "audiojack")


@pytest.mark.parametrize("published", PUBLISHED)
def test_files_outside_all_classes_are_counted(tmp_path: Path, published: str) -> None:
    PUBLISHED[published][0](tmp_path)
    classes = find_classes(tmp_path)
    assert files_outside(tmp_path, classes) == ()
    paint(tmp_path / "stray.png", 1)
    paint_all(tmp_path / "holiday/monday", numbers(2), 2)
    (tmp_path / "notes.txt").write_text("no image\n")
    found = files_outside(tmp_path, classes)
    if published == "Kolektor SDD2":  # Its class is the root, so they are counted there.
        assert found == ()
        assert sum(group.count for group in scan_one(tmp_path, "kolektor_sdd2").passed_over) == 5
        return
    assert passed_over_note("data", found) == "data: 3 files passed over: 3 outside the classes (holiday/)"
    few = passed_over_note("data", files_outside(tmp_path, classes, limit=1))
    assert few.startswith("data: ") and few.endswith("outside the classes, among the first 1 file there (holiday/)")


def test_the_folder_of_a_manifest_that_is_the_root_is_not_searched(tmp_path: Path) -> None:
    manifest(tmp_path)
    paint(tmp_path / "stray.png", 1)
    table = tmp_path / "manifest.csv"
    assert files_outside(table, find_classes(table)) == ()
    assert files_outside(tmp_path, find_classes(tmp_path)) == (PassedOver(1, "outside the classes"),)


def test_a_root_without_any_layout_names_those_looked_for(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    said = refusal(tmp_path, "bolt")
    assert "looked for <class>/train/good; folders there: holiday; nor is it one of visa (split_csv/1cls.csv)" in said
    assert "this is one class; give the folder above it" in _one_class(tmp_path)


def _one_class(root: Path) -> str:
    mvtec_ad(root)
    (root / "bottle/train/good").rename(root / "bottle/train/ok")
    return refusal(root / "bottle", "bottle")


ROWS = "image,class,split,label\na.png,bolt,train,good\nb.png,bolt,test,{label}\nc.png,bolt,test,hole\n"


def small_manifest(root: Path, text: str, name: str = "manifest.csv") -> Path:
    """A manifest of three images."""
    for number, image in enumerate(("a.png", "b.png", "c.png")):
        paint(root / image, number)
    (root / name).write_bytes(text.encode())
    return root


def test_a_manifest_with_the_line_ends_of_old_macs(tmp_path: Path) -> None:
    task = scan_one(small_manifest(tmp_path, ROWS.format(label="good").replace("\n", "\r")), "bolt")
    assert (len(task.train), [sample.label for sample in task.test]) == (1, [0, 1])


@pytest.mark.parametrize(
    "text", [ROWS.format(label="good") + "x" * 200_000 + ",bolt,train,good\n", '"' + "x" * 200_000]
)
def test_a_csv_file_that_cannot_be_taken_apart_is_refused(tmp_path: Path, text: str) -> None:
    said = refusal(small_manifest(tmp_path, text), "bolt")
    assert "manifest.csv: cannot be taken apart into columns (field larger than field limit" in said


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = ROWS.format(label="good").replace("split,label", "label,label")
    assert "the column 'label' is there twice" in refusal(small_manifest(tmp_path, text), "bolt")


@pytest.mark.parametrize("label", ["0.0", "False"])
def test_labels_as_programs_write_them_are_near(tmp_path: Path, label: str) -> None:
    said = refusal(small_manifest(tmp_path, ROWS.format(label=label)), "bolt")
    assert f'`normal_names: [good, "{label}"]` counts its images as normal' in said


def test_a_value_of_json_that_is_no_text_is_refused(tmp_path: Path) -> None:
    text = '[{"image": "a.png", "class": "bolt", "split": "train", "label": [0]}]'
    said = refusal(small_manifest(tmp_path, text, "manifest.json"), "bolt")
    assert "manifest.json, entry 1: label: given [0], allowed: a text or a number" in said
