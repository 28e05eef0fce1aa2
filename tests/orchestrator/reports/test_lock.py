"""The lock: its content, and the errors for reports without an intact one."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import scipy

from moleflow.errors import InvalidInput
from orchestrator.reports import lock as locks
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.lock import (
    REPORT_CODE,
    REPORT_MODULE,
    Recipe,
    inputs_digest,
    make_lock,
    read_lock,
    report_code,
)
from orchestrator.reports.published import load_published
from orchestrator.reports.tables import build_report, write_report
from orchestrator.reports.verify import check_report

GAMMA = "loss.focal_gamma"
CODE = "c0de" * 16  # of every generated trial


def alter(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_lock_names_what_made_the_report_and_holds_no_time_and_no_path(write, ids, tmp_path):
    report = write(published=load_published(), command="moleflow-sweep report FOLDER --with-published")
    written = report.read_text(encoding="utf-8")
    comment = written[written.rindex("<!-- lock") :]
    assert comment.count(">") == 1  # the title's own arrow does not end the comment
    content = json.loads(comment.removeprefix("<!-- lock\n").removesuffix("\n-->\n"))
    assert content["title"] == "Does gamma --> help?"
    assert content["selection"] == sorted(ids) == sorted(content["trials"])
    assert (content["baseline"], content["code"]) == ({GAMMA: 0}, CODE)
    assert content["command"] == "moleflow-sweep report FOLDER --with-published"
    assert content["published"] == load_published().digest
    assert {name: content["made_with"][name] for name in ("numpy", "scipy")} == {
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }
    assert str(tmp_path) not in written
    assert "2025" not in comment


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("<!-- lock", "<!-- luck"), "has no lock at its end"),
        (lambda text: text[: text.rindex("-->")], "has no lock at its end"),
        (lambda text: text.replace('"rows": ', '"rows" '), "its lock is damaged (Expecting"),
        (lambda text: text.replace('"split": "test"', '"split": 3'), "its lock is damaged (key split)"),
        (lambda text: text.replace('"split": "test",\n', ""), "its lock is damaged (key split)"),
        (lambda text: text.replace('"scipy":"', '"scipy":1,"and":"'), "its lock is damaged (key made_with)"),
        (lambda text: text.replace('"split"', '"extra": 1,\n"split"'), "its lock is damaged (key extra)"),
    ],
)
def test_a_report_without_an_intact_lock_is_an_error(write, damage, said):
    report = write()
    report.write_text(damage(report.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InvalidInput) as refused:
        read_lock(report.read_text(encoding="utf-8"), "report.md")
    assert said in str(refused.value)


def test_a_file_that_is_no_report_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="no such file"):
        check_report(tmp_path / "report.md", build_report, CODE)
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "bytes.md"):
        with pytest.raises(InvalidInput, match="cannot be read as text"):
            check_report(path, build_report, CODE)


def test_the_lock_ends_the_report_that_a_run_writes_and_names_the_command(finished, command, edit):
    read = read_lock((finished / "results/small/report.md").read_text(encoding="utf-8"), "report")
    assert read.lock.recipe.command == "moleflow-sweep report FOLDER"
    assert len(read.lock.trials) == 4
    edit(seeds=1)  # A later plan of the same folder: the report is still made by its own lock.
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert command("report", "results/small", "--all").code == 0
    assert command("verify", "results/small/report.md").code == 0
    assert command("verify", "results/small/report-all.md").code == 0


def test_changed_version_files_are_a_reason(add, stored, tmp_path):
    add({"version": "v3"}, version="v3", settings={"lora.rank": 32})
    add({"version": "v7"}, version="v7", settings={"lora.rank": 64})
    then, now = ({"v3": {"lora.rank": 32}, "v7": {"lora.rank": rank}} for rank in (64, 16))
    report = build_report(stored(), Recipe("t", code=CODE), version_settings=then)
    path = write_report(report, tmp_path / "sweep")["md"]
    assert check_report(path, lambda *of: build_report(*of, version_settings=then), CODE).equal
    verdict = check_report(path, lambda *of: build_report(*of, version_settings=now), CODE)
    assert any("column 'v7' of the report is 'v7 †'" in of for of in verdict.differences)
    (reason,) = verdict.reasons
    digests = re.fullmatch("what versions bring: ([0-9a-f]{16}) when the report was made, ([0-9a-f]{16}) today", reason)
    assert digests and digests[1] != digests[2]


def test_other_code_and_other_packages_are_reasons(write):
    report = write()
    alter(report, f'"numpy":"{numpy.__version__}"', '"numpy":"1.0"')
    assert check_report(report, build_report, CODE).equal  # The text is what counts.
    alter(report, "0.5100", "0.5900")
    written = report.read_text(encoding="utf-8")
    alter(report, read_lock(written, "report").text, locks._sha256(written[: written.rindex("\n<!-- lock")].encode()))
    assert check_report(report, build_report, "beef" * 16).reasons == (
        "the detector's code was c0dec0dec0de, and is beefbeefbeef today",
        f"numpy: 1.0 when the report was made, {numpy.__version__} today",
    )


# Modules on the report path that decide no byte of a report, or whose effect has a key of its own.
DECIDES_NOTHING = {
    "moleflow",
    "moleflow.code_digest",
    "moleflow.errors",
    "moleflow.suggestions",  # Only errors use it.
    "moleflow.files",
    "moleflow.owner",
    "orchestrator.host.provenance",  # It names the folder of the checkout.
    "moleflow.settings.knobs",  # It reads the versions' files: keys `what versions bring` and `are`.
    "moleflow.settings.yaml_reader",  # It reads the published rows: key `published`.
    "orchestrator",
}


def imported_by(module):
    """The modules of this project that a module imports, directly or not."""
    found, left = set(), [module]
    while left:
        name = left.pop()
        if name in found or not name.startswith(("moleflow", "orchestrator")):
            continue
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            continue  # A name within a module.
        found.add(name)
        if name in DECIDES_NOTHING:
            continue
        for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
            if isinstance(node, ast.ImportFrom):
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
    return found


def test_the_report_code_covers_every_module_that_decides_a_byte():
    modules = imported_by(REPORT_MODULE) - DECIDES_NOTHING
    assert "orchestrator.reports.statistics" in modules
    assert "orchestrator.results.store" in modules
    uncovered = {name for name in modules if not name.startswith(REPORT_CODE)}
    assert uncovered <= {"moleflow.settings"}  # The package of the knobs' history is empty.
    assert re.fullmatch("[0-9a-f]{64}", report_code())


def test_a_change_of_one_row_changes_the_digest_of_its_trial_alone(add, stored, tmp_path):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma})
    first, second = finished_trials(stored(), None, "test")
    recipe = Recipe("t", None, None, "test", "", CODE, None)
    lock = make_lock(recipe, [first, second])
    assert make_lock(recipe, [second, first]) == lock
    table = second.values.table.copy()
    table[0, 0] += 1e-9
    for changed in (
        replace(second, values=replace(second.values, table=table)),
        replace(second, seconds_spent=second.seconds_spent + 1),
        replace(second, state_digest="other"),
        replace(second, settings={**second.settings, GAMMA: 3.0}),
    ):
        other = make_lock(recipe, [first, changed])
        assert other.trials[first.trial_id] == lock.trials[first.trial_id]
        assert other.trials[second.trial_id] != lock.trials[second.trial_id]
        assert other.rows != lock.rows


def test_the_inputs_of_a_report_are_its_recipe_its_rows_and_its_versions():
    recipe = Recipe("t", ("a", "b"), {GAMMA: 0.0}, "test", "", CODE, None)
    versions = {"v7": {GAMMA: 2.0}}
    digest = inputs_digest(recipe, "rows", versions)
    assert inputs_digest(replace(recipe, baseline={GAMMA: 0}), "rows", versions) == digest
    others = [
        inputs_digest(replace(recipe, selection=("a",)), "rows", versions),
        inputs_digest(recipe, "other rows", versions),
        inputs_digest(recipe, "rows", {"v7": {GAMMA: 3.0}}),
        inputs_digest(recipe, "rows"),
    ]
    assert len({digest, *others}) == 5
