"""The table of published columns: measured columns first, with notes on all differences."""

from __future__ import annotations

import csv
import io
import re

from orchestrator.reports.lock import Recipe
from orchestrator.reports.published_columns import TITLE
from orchestrator.reports.tables import build_report

SEQUENCE = ("leather", "grid", "transistor")
OURS = {"training.epochs": 40, "data.tasks": list(SEQUENCE), "data.image_size": 224}


def cells(report, title=TITLE):
    (table,) = [table for table in report.tables if table.title == title]
    return table, {name: [cell.text for cell in row] for name, row in table.rows}


def test_published_columns_have_a_table_of_their_own(stored, add, published):
    for version in ("v1", "v2"):
        add(
            {"version": version},
            version=version,
            classes=SEQUENCE,
            image=(1, 0.9, 0.9),
            pixel=(1, 1, 1),
            routing=(1, 1, 1),
        )
    report = build_report(stored(), Recipe("t", baseline={"version": "v1"}), published=published)
    table, rows = cells(report)
    assert table.header == ("Metric", "v1", "v2", "published v1 †", "published v2 †")
    assert rows["grid Image AUROC"] == ["0.9000", "0.9000", "0.8204", "0.9850"]
    assert rows["Mean Pixel AUROC"] == ["1.0000", "1.0000", "0.8628", "0.9238"]
    assert not any(cell.bold for _, row in table.rows for cell in row)
    main = report.tables[0]
    assert not any("published" in name for name in main.header)
    records = list(csv.DictReader(io.StringIO(report.csv())))
    assert {r["marks"] for r in records if r["variant"].startswith("published")} == {"published", "published †"}
    assert {r["dataset"] for r in records} == {"embedded", "MVTec AD"}


def test_differences_between_measured_and_published_are_listed(stored, add, published):
    for gamma in (0.0, 2.0):
        add(
            {"loss.focal_gamma": gamma},
            classes=SEQUENCE,
            image=(1, 1, 1),
            pixel=(1, 1, 1),
            routing=(1, 1, 1),
            settings=OURS,
        )
    notes = cells(build_report(stored(), Recipe("t"), published=published))[0].notes
    listed = {m[1]: note for note in notes if (m := re.match(r"† Also different: `([^`]+)`", note))}
    assert (
        "measured efficientnet_lite0; vit_base_patch16_224.augreg2_in21k_ft_in1k in every" in listed["backbone.model"]
    )
    # Some measured column of version v7 has each of these.
    assert not {"loss.focal_gamma", "training.epochs", "patch_grid", "data.image_size", "data.tasks"} & listed.keys()
    assert "measured (not stored); true in every published column" in listed["features.position"]
    assert any(note.startswith("† Data: measured on embedded; published on MVTec AD") for note in notes)
    assert not any("‡" in note for note in notes)


def test_means_over_other_classes_are_marked(stored, add, published):
    add({"loss.focal_gamma": 2.0}, settings={"backbone.grid": 16})
    table, rows = cells(build_report(stored(), Recipe("t"), published=published))
    assert rows["Mean Image AUROC"][-1] == "0.8078 ‡"
    assert rows["grid Image AUROC"][-1] == "0.706"
    assert rows["transistor Image AUROC"] == ["\u2013", "0.718"]
    assert "leather Routing Acc" in rows
    assert "transistor Pixel AUROC" not in rows  # published nowhere and measured nowhere
    assert "‡ Mean over other classes: published leather, grid, transistor; measured leather, grid." in table.notes
    assert any("`patch_grid`: measured 16x16; 14x14 in every published column" in note for note in table.notes)


def test_the_report_says_when_published_columns_differ_among_themselves(stored, add, published):
    for version in ("v1", "v2", "v3", "v5"):
        add({"version": version}, version=version)
    table, _ = cells(build_report(stored(), Recipe("t"), published=published), f"{TITLE}: Pixel AUROC")
    assert table.header[0] == "Column"  # 4 measured and 6 published ones: columns become rows
    assert [name for name, _ in table.rows][-6:] == [
        f"published {n} †" for n in ("v1", "v2", "v3", "v3@224", "v5.0", "v5.1")
    ]
    assert any("Among the published columns: † v1 -> v2 is confounded." in note for note in table.notes)
    assert any("v5.0: identical" in note for note in table.notes)
