"""The look at a data root as lines and as JSON, from surveys written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moleflow.data.findings import ClassFindings
from moleflow.data.samples import PassedOver, WideMask
from moleflow.data.survey import ClassSurvey, DataSurvey
from orchestrator.doctor.data_lines import class_line, data_document, data_lines, masks_text

WIDE = WideMask("bolt/test/dent/003.png", 0.5)
OLD = PassedOver(3, "in nested folders", ("test/good/old/",))
BOLT = ClassSurvey(
    "mvtec_ad",
    ClassFindings(
        "bolt",
        train=10,
        kinds={"dent": 2, "good": 4, "hole": 3},
        masks=5,
        passed_over=(OLD,),
        wide_masks=(WIDE,),
        empty_masks=("bolt/test/hole/001.png",),
        undefined={"pixel": "it has no masks"},
        narrow_values="bolt: nearly black",
        split="its split is drawn",
    ),
    sizes={"32x32": 18, "48x48": 1},
    modes={"RGB": 19},
    bits={8: 17, 16: 2},
    shares=(0.02, 0.04, 0.08, 0.5),
    wide_masks=(WIDE.name,),
    empty_masks=("bolt/test/hole/001.png",),
)
NUT = ClassSurvey(
    "btad",
    ClassFindings("nut", 8, {"good": 6}, 0, (), (), (), {}),
    {"8x8": 14},
    {"L": 14},
    {8: 14},
    (),
    (),
    (),
)


def look(*classes: ClassSurvey, **changes: Any) -> DataSurvey:
    """A survey of these classes in which near copies were looked for."""
    return replace(DataSurvey(Path("data"), classes, {}, (), True, (), ()), **changes)


def test_the_head_counts_training_and_test_images_of_all_classes() -> None:
    """Bolt has 10 + 2 + 4 + 3 = 19 images and nut 8 + 6 = 14."""
    assert data_lines(look(NUT))[0] == "data: 1 class, 14 images, nothing suspicious (layout: btad)"
    head, bolt, nut, *findings = data_lines(look(BOLT, NUT))
    assert head == "data: 2 classes, 33 images, 6 findings (layout: btad, mvtec_ad)"
    assert (bolt[:6], nut[:5], len(findings)) == ("bolt: ", "nut: ", 6)
    assert {line.partition(": ")[0] for line in findings} == {"finding"}


def test_a_line_names_kinds_masks_sizes_modes_bits_and_a_layout_of_several() -> None:
    """The median of 2, 4, 8 and 50 % is 6 %."""
    assert class_line(NUT, look(NUT)) == (
        "nut: 8 training, 6 good and 0 defective test images; no masks; 8x8; L; 8 bits"
    )
    assert class_line(BOLT, look(BOLT, NUT)) == (
        "bolt: 10 training, 4 good and 5 defective test images (dent 2, hole 3); "
        "4 masks of 2% to 50% of the pixels (median 6%); 32x32 (18), 48x48 (1); RGB; 8 (17), 16 (2) bits; "
        "layout mvtec_ad"
    )


def test_the_shares_of_one_mask_and_of_equal_masks_are_one_figure() -> None:
    assert masks_text(replace(BOLT, shares=(0.125,))) == "1 mask of 12% of the pixels"
    assert masks_text(replace(BOLT, shares=(0.03, 0.03))) == "2 masks of 3% of the pixels"


@pytest.mark.parametrize(("number", "more"), [(2, ""), (4, ""), (5, " and 1 more"), (7, " and 3 more")])
def test_at_most_four_sizes_are_shown_and_the_others_counted(number: int, more: str) -> None:
    sizes = {f"{10 * n}x9": 100 - n for n in range(1, number + 1)}
    shown = "10x9 (99), 20x9 (98), 30x9 (97), 40x9 (96)" if number >= 4 else "10x9 (99), 20x9 (98)"
    assert f"; no masks; {shown}{more}; L; " in class_line(replace(NUT, sizes=sizes), look(NUT))


def test_broken_classes_and_checks_left_out_follow() -> None:
    lines = data_lines(look(NUT, unreadable={"cog": "broken image"}, near=False))
    both = look(unreadable={"cog": "no column", "nut": "no column", "cap": "broken image"})
    assert data_lines(both)[1:3] == ["cannot be read: cog, nut: no column", "cannot be read: cap: broken image"]
    assert lines[2:] == ["cannot be read: cog: broken image", "not looked for: near copies (--near)"]
    assert data_lines(look(unreadable={"cog": "broken image"}))[0].endswith("0 images, none can be read (layout: none)")


def test_the_document_holds_every_finding_and_null_for_what_there_is_not() -> None:
    told = data_document(look(BOLT, NUT, unreadable={"cog": "broken"}, outside=(PassedOver(2, "outside", ("x/",)),)))
    bolt, nut = told["classes"]
    assert bolt["split"] == "its split is drawn"
    assert bolt["narrow_values"] == "bolt: nearly black"
    assert bolt["undefined"] == {"pixel": "it has no masks"}
    assert bolt["wide_masks"] == [{"name": "bolt/test/dent/003.png", "share": 0.5}]
    assert bolt["empty_masks"] == ["bolt/test/hole/001.png"]
    assert bolt["passed_over"] == [{"count": 3, "reason": "in nested folders", "where": ("test/good/old/",)}]
    assert bolt["bits"] == {"8": 17, "16": 2}
    assert bolt["masks"] == {"files": 4, "images": 5}
    assert bolt["defective_percent"] == pytest.approx({"smallest": 2, "median": 6, "largest": 50})
    assert (nut["split"], nut["narrow_values"], nut["test"]) == (None, None, {"good": 6})
    assert nut["defective_percent"] == {"smallest": None, "median": None, "largest": None}
    assert told["unreadable"] == {"cog": "broken"}
    assert told["passed_over_outside"] == [{"count": 2, "reason": "outside", "where": ("x/",)}]
    assert told["not_looked_for"] == []
    assert data_document(look(NUT, near=False))["not_looked_for"] == ["near copies"]
