"""Verification: equal results make equal bytes, and whatever differs is named with its reason."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import pytest

from moleflow.errors import InvalidInput
from orchestrator.reports import lock as locks
from orchestrator.reports.lock import Recipe, read_lock
from orchestrator.reports.published import load_published
from orchestrator.reports.tables import build_report, write_report
from orchestrator.reports.verify import Verification, check_report
from orchestrator.results import parts
from orchestrator.results.schema import TABLES
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter

GAMMA = "loss.focal_gamma"
CODE = "c0de" * 16  # of every generated trial


def remake(store, recipe):
    return build_report(store, recipe, load_published() if recipe.published else None)


def check(path, code=CODE):
    return check_report(path, remake, code)


def alter(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def put(store, rows, worker="later"):
    writer = PartWriter(store)
    writer.add(rows)
    return writer.flush()


@pytest.mark.parametrize("named", [{}, {"selection": None}, {"published": True}, {"code": "0" * 64}])
def test_an_untouched_report_is_equal(write, named):
    if named.get("published"):
        named = {"published": load_published()}
    verdict = check(write(**named))
    assert verdict.equal
    assert (
        verdict.lines()[0]
        == "report.md: equal, byte for byte, to what the Parquet files in its folder give (4 finished trials)"
    )


def test_a_report_whose_baseline_of_two_knobs_has_not_finished_is_equal(ids, tmp_path):
    baseline = {"lora.rank": 16, GAMMA: 0.0}  # not in the order of the alphabet, in which the lock holds it
    report = build_report(ResultStore(tmp_path / "sweep"), Recipe("t", (ids[2],), baseline=baseline, code=CODE))
    path = write_report(report, tmp_path / "sweep")["md"]
    assert "no finished trial fits the baseline `lora.rank=16, loss.focal_gamma=0` yet" in path.read_text(
        encoding="utf-8"
    )
    swapped = build_report(
        ResultStore(tmp_path / "sweep"), Recipe("t", (ids[2],), baseline=dict(reversed(baseline.items())), code=CODE)
    )
    assert swapped.markdown() == report.markdown()
    assert check(path).equal


def test_results_that_are_stored_otherwise_but_equal_make_the_same_bytes(write, ids, tmp_path, make_trial):
    report = write()
    other = ResultStore(tmp_path / "other")
    for gamma in (2.0, 0.0):
        for seed in (1, 0):
            image = (0.9, 0.5 + gamma / 10 + seed / 50)
            put(other, make_trial({GAMMA: gamma}, seed, image=image, host="elsewhere", pid=7), f"w{seed}")
    shutil.copy(report, tmp_path / "other")
    assert check(tmp_path / "other" / "report.md").equal


def test_a_changed_cell_is_named(write):
    report = write()
    alter(report, "| grid Image AUROC | 0.5100", "| grid Image AUROC | 0.5900")
    verdict = check(report)
    assert verdict.differences == (
        "table 'Per class, after the final task', row 'grid Image AUROC', column 'focal_gamma=0':"
        " the report has 0.5900 ± 0.0141, the Parquet gives 0.5100 ± 0.0141",
    )
    assert verdict.reasons == ("the text was changed after the report was made: it is not the one that its lock names",)
    assert not verdict.equal


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("| leather Image AUROC |", "| cotton Image AUROC |", "row 'cotton Image AUROC' only in the report"),
        (
            "| focal_gamma=0 | focal_gamma=2 |",
            "| focal_gamma=0 | focal_gamma=3 |",
            "column 'focal_gamma=2' missing in the report",
        ),
        ("- versions: v7", "- versions: v8", "the report has - versions: v8, the Parquet gives - versions: v7"),
        ("## Per class, after", "## By class, after", "section 'By class, after the final task': only in the report"),
        (
            "- versions: v7\n",
            "- versions: v7\r\n",
            "the report has '- versions: v7\\r\\n', the Parquet gives '- versions: v7\\n'",
        ),
        ("- versions: v7\n", "", "the report has nothing, the Parquet gives - versions: v7"),
        (
            "| 0.7100 ± 0.0141",
            "| **0.7100 ± 0.0141**",
            "the report has **0.7100 ± 0.0141**, the Parquet gives 0.7100 ± 0.0141",
        ),
    ],
)
def test_any_other_change_of_the_text_is_named(write, old, new, said):
    report = write()
    written = report.read_bytes()
    assert old.encode() in written
    report.write_bytes(written.replace(old.encode(), new.encode(), 1))
    verdict = check(report)
    assert any(said in difference for difference in verdict.differences)
    assert verdict.reasons[0].startswith("the text was changed")


def test_a_text_changed_together_with_its_digest_still_differs(write):
    report = write()
    alter(report, "0.5100", "0.5900")
    written = report.read_text(encoding="utf-8")
    body = written[: written.rindex("\n<!-- lock")]
    old = read_lock(written, "report").text
    alter(report, old, locks._sha256(body.encode()))
    verdict = check(report)
    assert "0.5900" in verdict.differences[0]
    assert verdict.reasons == ("the lock itself was changed after the report was made",)


def test_something_after_the_lock_is_a_difference(write):
    report = write()
    with report.open("a") as file:
        file.write("and more\n")
    verdict = check(report)
    assert not verdict.equal
    assert "the report has and more" in verdict.differences[0]


def test_a_trial_that_is_gone_is_named(write, ids, tmp_path, make_trial):
    report = write()
    shutil.rmtree(tmp_path / "sweep" / "parts")
    store = ResultStore(tmp_path / "sweep")
    for gamma, seed in ((0.0, 0), (0.0, 1), (2.0, 0)):
        put(store, make_trial({GAMMA: gamma}, seed, image=(0.9, 0.5 + gamma / 10 + seed / 50)))
    verdict = check(report)
    assert verdict.reasons == (f"trial {ids[3]} is in the report, but not finished in the Parquet",)
    table = "table 'Per class, after the final task'"
    assert (
        f"{table}: column 'focal_gamma=2' of the report is 'focal_gamma=2 (n=1) †' by the Parquet"
        in verdict.differences
    )
    assert (
        f"{table}, row 'grid Image AUROC', column 'focal_gamma=2':"
        " the report has 0.7100 ± 0.0141, the Parquet gives 0.7000"
    ) in verdict.differences
    assert "section 'Not in the tables': missing in the report" in verdict.differences


def test_a_trial_that_finished_since_is_named(write, tmp_path, make_trial):
    planned = make_trial({GAMMA: 1.0})
    report = write(selection=None)
    put(ResultStore(tmp_path / "sweep"), planned)
    verdict = check(report)
    assert verdict.reasons == (f"trial {planned.attempt['trial_id']} has finished since the report was made",)
    assert any(
        "column 'focal_gamma=1 (n=1) †' missing in the report" in difference for difference in verdict.differences
    )


def test_a_later_trial_of_another_plan_changes_nothing(write, tmp_path, make_trial):
    report = write()
    put(ResultStore(tmp_path / "sweep"), make_trial({GAMMA: 1.0}))
    assert check(report).equal


def test_rows_made_anew_by_other_code_are_named(write, ids, tmp_path, make_trial):
    report = write()
    new = {"attempt": 2, "code_digest": "beef" * 16, "started_at": datetime(2026, 1, 1, tzinfo=UTC)}
    put(ResultStore(tmp_path / "sweep"), make_trial({GAMMA: 2.0}, 1, image=(0.9, 0.6), **new))
    verdict = check(report)
    assert verdict.reasons == (
        f"trial {ids[3]}: its stored rows changed since the report was made",
        "other code (beefbeefbeef) than that of the report (c0dec0dec0de) made these rows",
    )
    assert any("column 'focal_gamma=2" in difference for difference in verdict.differences)


def test_rows_made_anew_by_the_same_code_are_named(write, ids, tmp_path, make_trial):
    report = write()
    shutil.rmtree(tmp_path / "sweep" / "parts")
    for gamma in (0.0, 2.0):
        for seed in (0, 1):
            put(ResultStore(tmp_path / "sweep"), make_trial({GAMMA: gamma}, seed, image=(0.9, 0.5 + gamma / 10)))
    changed = [
        f"trial {trial}: its stored rows changed since the report was made" for trial in sorted((ids[1], ids[3]))
    ]
    assert list(check(report).reasons) == changed


def test_a_damaged_part_is_named(write, ids, tmp_path):
    report = write()
    folder = tmp_path / "sweep" / "parts"
    (name,) = [path.stem for path in (folder / "attempts").glob("2*.parquet")]
    path = parts.part_file(folder, "metrics", name)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    verdict = check(report)
    assert {f"trial {trial} is in the report, but not finished in the Parquet" for trial in ids} < set(verdict.reasons)
    assert any(r.startswith(f"damaged part: parts/metrics/{name}.parquet: its bytes are not") for r in verdict.reasons)


def test_a_report_without_the_trials_of_a_damaged_part_is_equal_and_says_so(write, ids, tmp_path):
    write()
    folder = tmp_path / "sweep"
    (name,) = [path.stem for path in (folder / "parts/attempts").glob("2*.parquet")]
    path = parts.part_file(folder / "parts", "metrics", name)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    made = build_report(ResultStore(folder, from_parts=True), Recipe("t", tuple(ids), code=CODE))
    verdict = check(write_report(made, folder)["md"])
    assert verdict.equal
    assert verdict.lines()[1] == f"damaged: parts/metrics/{name}.parquet; {len(ids)} trials not in the report"


def test_changed_code_is_a_note_while_the_bytes_are_equal(write):
    verdict = check(write(), code="beef" * 16)
    assert verdict.equal
    assert (
        verdict.lines()[1]
        == "note: the report calls stale what differs from code c0dec0dec0de; today's is beefbeefbeef"
    )


def test_a_report_by_other_report_code(write, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(locks, "report_code", lambda: "0" * 64)
        report = write()
    verdict = check(report)
    assert verdict.equal
    assert verdict.remarks == (
        "the code that makes reports has changed since, so the digests of rows cannot be compared",
    )
    alter(report, "0.5100", "0.5900")
    verdict = check(report)
    assert verdict.reasons[0].startswith("the text was changed")
    assert verdict.reasons[1].startswith("other code made the report (000000000000) than makes reports today (")


def test_published_rows_that_changed_are_named(write):
    report = write(published=load_published())
    alter(report, load_published().digest, "0" * 64)
    verdict = check(report)
    assert verdict.reasons == ("the published rows changed since the report was made",)


def test_a_report_without_trials_verifies_too(tmp_path):
    store = ResultStore(tmp_path)
    store.create()
    path = write_report(build_report(store, Recipe("t", ("0" * 12,))), tmp_path)["md"]
    verdict = check(path)
    assert verdict.equal
    assert "(0 finished trials)" in verdict.lines()[0]


def test_many_differences_are_counted(write):
    report = write()
    report.write_text(report.read_text(encoding="utf-8").replace("0.5000", "0.6000"), encoding="utf-8")
    shown = check(report).lines()
    more = [line for line in shown if line.startswith("  and ")]
    assert len(more) <= 1
    assert len(shown) <= 25


def test_a_report_without_results_in_its_folder_is_an_error(write, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(write(), alone)
    with pytest.raises(InvalidInput, match="no results here"):
        check(alone / "report.md")


def test_the_four_tables_are_untouched_by_verification(write, tmp_path):
    report = write()
    before = {p: p.read_bytes() for p in (tmp_path / "sweep").rglob("*") if p.is_file()}
    check(report)
    assert {p: p.read_bytes() for p in (tmp_path / "sweep").rglob("*") if p.is_file()} == before
    assert {p.parent.name for p in before if p.suffix == ".parquet"} == set(TABLES)


def test_the_command_ends_with_0_1_or_2(finished, command):
    report = finished / "results/small/report.md"
    plain = report.read_bytes()
    assert command("report", "results/small", "--with-published").code == 0
    assert report.read_bytes() == plain
    assert "## Measured beside published" in (finished / "results/small/report-published.md").read_text()
    for name in ("report.md", "report-published.md"):
        ended = command("verify", f"results/small/{name}")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith(f"{name}: equal, byte for byte")
    alter(report, "| cloth Image AUROC |", "| silk Image AUROC |")
    ended = command("verify", "results/small/report.md")
    assert (ended.code, ended.err) == (1, "")
    assert "row 'silk Image AUROC' only in the report" in ended.out
    assert "why: the text was changed" in ended.out
    assert command("report", "results/small").code == 0
    assert command("verify", "results/small/report.md").code == 0
    (finished / "lost.md").write_text("# no lock\n")
    ended = command("verify", "lost.md")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: lost.md: has no lock")


def test_differences_are_shown_up_to_a_number():
    differences = tuple(f"line {k}" for k in range(25))
    lines = Verification("report.md", 4, differences, ("reason",), ()).lines()
    assert lines[1:21] == [f"  line {k}" for k in range(20)]
    assert lines[21:] == ["  and 5 more", "why: reason"]
    assert "more" not in " ".join(Verification("report.md", 4, differences[:20], (), ()).lines())
