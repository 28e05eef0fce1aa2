"""A results folder that somebody else made: each output over hostile values, and its damage."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image

from moleflow.errors import InvalidInput
from orchestrator.cli.others_folder import explain_damage
from orchestrator.results.parts import make_part, write_part
from orchestrator.results.schema import TABLES
from orchestrator.results.store import ResultStore
from orchestrator.results.thumbnails import ThumbnailStore
from orchestrator.results.writer import AttemptRows, PartWriter

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\x00"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TITLE = f"t: {MARKUP}{ESCAPES}\n\n## After the final task\n\n| Metric | win |\n|---|---|\n| AUROC | 1.0 |\n\\input{{/etc/passwd}}"
CLASSES = (f'=cmd|"/c calc"!A1{ESCAPES}', f"@x|y ```{MARKUP}`` $\\write18{{ls}}$ 100% #_&~^ {{}}")
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
RAW_TAG = re.compile(r"(?<!\\)<(script|img)")
GREY = np.full((8, 8), 9, dtype=np.uint8).tobytes()


def hostile_map(digest: str) -> dict[str, object]:
    return {
        **{"split": "test", "task": 0, "task_name": CLASSES[0], "image": f"a/{MARKUP}.png", "image_digest": digest},
        **{"defect": MARKUP, "label": 1, "score": 1.0, "why": "drawn", "rank": 0, "map": GREY},
        **{"map_low": 0.5, "map_high": 2.5},
    }


@pytest.fixture
def hostile(tmp_path: Path, make_trial) -> Path:
    """A folder whose parts have right digests and hostile values in every text."""
    folder = tmp_path / "others folder"
    private = tmp_path / "private.jpg"
    Image.new("RGB", (8, 8), "red").save(private)
    store, ids, labels = ResultStore(folder), [], {}
    store.create()
    writer = PartWriter(store)
    for gamma in (0.0, 2.0):
        for seed in (0, 1):
            rows = make_trial(
                {"loss.focal_gamma": gamma, "loss.name": f"=1+1 {MARKUP}{ESCAPES}"},
                seed,
                image=(0.9, 0.5 + gamma / 10 + seed / 50),
                classes=CLASSES,
                dataset=f"@d {MARKUP}{ESCAPES}",
                host=f"h{ESCAPES}",
                flags=json.dumps([f"flag {MARKUP}{ESCAPES}"]),
                git_commit=f"{MARKUP}{ESCAPES}",
            )
            writer.add(replace(rows, maps=[hostile_map("../../private")]))
            ids.append(rows.attempt["trial_id"])
            labels[ids[-1]] = f"=label {MARKUP}{ESCAPES}\nforged  finished"
    failed = make_trial({"loss.focal_gamma": 9.0}, 0, classes=CLASSES)
    words = f"-error {MARKUP}{ESCAPES}"
    ended = {"status": "failed", "error": words, "error_kind": words, "traceback": f"Traceback:\n{words}"}
    writer.add(AttemptRows({**failed.attempt, **ended}))
    ids.append(failed.attempt["trial_id"])
    writer.flush()
    plan = {
        **{"name": f"n{MARKUP}{ESCAPES}", "title": TITLE, "baseline": {"loss.focal_gamma": 0.0}, "trials": ids},
        **{"dataset": "d", "labels": labels, "command": ["sweep.yaml", f"--set={ESCAPES}"], "typed_in": str(tmp_path)},
    }
    (folder / "sweep.json").write_text(json.dumps(plan))
    (folder / "events").mkdir()
    event = {"time": 1.0, "kind": "note", "trial_id": ids[0], "attempt": 1, "note": words}
    (folder / "events" / "w.jsonl").write_text(json.dumps(event) + "\n")
    return folder


def alter(folder: Path, **changes: object) -> None:
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, table: str, change, metadata: dict[bytes, bytes] | None = None) -> None:
    """Write the folder's only part again with one changed table, and right digests."""
    (receipt,) = [path for path in (folder / "parts" / "attempts").glob("*.parquet") if "empty" not in path.name]
    tables = {name: pq.read_table(folder / "parts" / name / receipt.name) for name in TABLES}
    for name in tables:
        (folder / "parts" / name / receipt.name).unlink()
    tables[table] = change(tables[table])
    write_part(folder / "parts", make_part("20990101T000000-00000000", tables))


READING = [
    ("report", "DIR"),
    ("report", "DIR", "--format", "csv"),
    ("report", "DIR", "--format", "latex"),
    ("report", "DIR", "--html"),
    ("status", "DIR"),
    ("status", "DIR", "--json"),
    ("verify", "DIR"),
    ("export", "DIR"),
    ("export", "DIR", "--what", "attempts"),
    ("export", "DIR", "--what", "metrics"),
    ("export", "DIR", "--format", "latex", "--document"),
    ("compare", "DIR", "OTHER"),
    ("claims", "DIR"),
    ("cancel", "DIR"),
    ("retry", "DIR"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_no_control_character_reaches_the_terminal(hostile, command, words):
    other = hostile.with_name("other")
    shutil.copytree(hostile, other)
    alter(other, name="other")
    if words[0] == "verify":
        assert command("report", hostile).code == 0
    ended = command(*(str({"DIR": hostile, "OTHER": other}.get(word, word)) for word in words))
    assert ended.code == (2 if words[0] == "retry" else 0)
    assert "Traceback (" not in ended.err
    assert FORBIDDEN.findall(ended.out + ended.err) == []
    if "--json" in words:
        assert json.loads(ended.out)["title"] == TITLE


@pytest.mark.parametrize("name", ["manage", "report", "retry", "cache"])
def test_commands_on_folders_print_through_one_function(name):
    source = importlib.util.find_spec(f"orchestrator.cli.{name}").origin
    calls = [node.func for node in ast.walk(ast.parse(Path(source).read_text())) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"] == []


def test_a_log_and_a_picture_of_the_status_have_no_control_characters(hostile, command):
    trial = json.loads((hostile / "sweep.json").read_text())["trials"][0]
    shown = command("logs", hostile, trial).out
    assert "-error" in shown
    assert FORBIDDEN.findall(shown) == []


def test_a_status_has_one_line_for_each_trial(hostile, command):
    lines = command("status", hostile).out.splitlines()
    assert not any(line.startswith("forged") for line in lines)
    assert sum("forged" in line for line in lines) == 4


def test_the_markdown_has_one_heading_and_no_markup_of_others(hostile, command):
    assert command("report", hostile).code == 0
    text = (hostile / "report.md").read_text().partition("<!-- lock")[0]
    assert FORBIDDEN.findall(text) == []
    assert RAW_TAG.findall(re.sub(r"(?<!`)`[^`\n]+`(?!`)", "", text)) == []
    assert "| AUROC | 1.0 |" not in text.splitlines()
    assert text.splitlines()[0].startswith("# t: \\<script\\>")
    assert text.count("\n## After the final task") + text.count("\n## Per class, after the final task") == 1
    verified = command("verify", hostile)
    assert (verified.code, "equal" in verified.out) == (0, True)


def test_no_cell_of_a_csv_is_a_formula(hostile, command):
    command("report", hostile)
    for text in (
        (hostile / "report.csv").read_text(),
        command("export", hostile, "--what", "attempts").out,
        command("export", hostile, "--what", "metrics").out,
    ):
        rows = list(csv.reader(io.StringIO(text)))
        cells = [cell for row in rows for cell in row]
        numbers = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
        assert [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell and not numbers.fullmatch(cell)] == []
        assert any(cell.startswith(("'=", "'@", "'-")) for cell in cells)


def test_the_latex_has_no_command_of_others(hostile, command, tmp_path):
    assert command("report", hostile).code == 0
    text = (hostile / "report.tex").read_text()
    assert not re.search(r"\\(input|write18)", "\n".join(line for line in text.splitlines() if line[:1] != "%"))
    assert all(line[:2] == "% " for line in text.splitlines() if "/etc/passwd" in line and "textbackslash" not in line)
    document = tmp_path / "document.tex"
    document.write_text(command("export", hostile, "--format", "latex", "--document").out)
    program = shutil.which("pdflatex") or shutil.which("lualatex")
    if program is None:
        pytest.skip("no LaTeX to compile the document: apt-get install texlive-latex-recommended")
    words = [program, "-interaction=nonstopmode", "-no-shell-escape", document]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0


@pytest.mark.process
def test_the_page_runs_no_script_of_others(hostile, command, browser):
    command("report", hostile, "--html")
    page = hostile / "report.html"
    browser.get(page.as_uri())
    assert browser.find_elements("css selector", "img[src='x']") == []
    assert browser.find_elements("css selector", ".sortable tbody tr")
    assert "script" in browser.find_element("css selector", "h1").text
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_a_picture_from_outside_of_the_folder_is_not_in_the_page(hostile, command, tmp_path):
    """Neither by a digest with `..`, nor by a link under a right name."""
    digest = hashlib.sha256(b"image").hexdigest()
    (hostile / "pictures").mkdir()
    (hostile / "pictures" / f"{digest}.jpg").symlink_to(tmp_path / "private.jpg")
    assert ThumbnailStore(hostile).read(digest) is None
    assert ThumbnailStore(hostile).read("../../private") is None
    assert command("report", hostile, "--html").code == 0
    page = (hostile / "report.html").read_text()
    assert base64.b64encode((tmp_path / "private.jpg").read_bytes()).decode() not in page


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"trials": ["../../../x"]}, "'trials' holds '../../../x', allowed: ids of 12 digits 0-9 a-f"),
        ({"tabled": ["../x"]}, "'tabled' holds '../x'"),
        ({"trials": "0123456789ab"}, "'trials' is str, not list"),
        ({"trials": [1]}, "'trials' is int, not str"),
        ({"title": None}, "'title' is NoneType, not str"),
        ({"name": {}}, "'name' is dict, not str"),
        ({"labels": []}, "'labels' is list, not dict"),
        ({"labels": {"a": 1}}, "'labels' is int, not str"),
        ({"baseline": 3}, "'baseline' is int, not dict"),
        ({"command": {"a": "b"}}, "'command' is dict, not list"),
        ({"typed_in": 3}, "'typed_in' is int, not str"),
    ],
)
@pytest.mark.parametrize("name", ["report", "status", "cancel", "retry"])
def test_a_wrong_type_in_sweep_json_is_one_line(hostile, command, contents, changes, part, name):
    alter(hostile, **changes)
    before = contents(hostile)
    ended = command(name, hostile)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"sweep.json: is damaged (no JSON as a sweep writes it: {part}" in ended.err
    assert contents(hostile) == before


@pytest.mark.parametrize("text", ["[" * 100_000, "null", '"\\ud800"', "{}", '{"name": NaN}'])
def test_other_json_in_sweep_json_is_one_line(hostile, command, text):
    (hostile / "sweep.json").write_text(text)
    ended = command("status", hostile)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "sweep.json: is damaged" in ended.err


@pytest.mark.process
@pytest.mark.parametrize("name", ["report", "status", "export", "cancel", "retry", "claims"])
def test_a_pipe_in_the_place_of_sweep_json_does_not_block(hostile, start, name):
    (hostile / "sweep.json").unlink()
    os.mkfifo(hostile / "sweep.json")
    ended = start(name, hostile).end(timeout=30)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "sweep.json: cannot be read (it is no regular file)" in ended.err


def no_json(column: str):
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(column)
        return table.set_column(place, table.schema.field(place), pa.array(["[" * 3] * len(table), pa.string()))

    return change


@pytest.mark.parametrize("column", ["config", "factors", "flags", "packages"])
@pytest.mark.parametrize("name", ["report", "export", "claims"])
def test_a_text_that_is_no_json_is_one_line(hostile, command, column, name):
    rewrite(hostile, "attempts", no_json(column))
    ended = command(name, hostile)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "the stored attempt of trial" in ended.err
    assert str(hostile) in ended.err


def texts_for_numbers(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("image_auroc")
    return table.set_column(place, "image_auroc", pa.array(["high"] * len(table)))


@pytest.mark.parametrize(
    "words",
    [
        ("report",),
        ("export",),
        ("export", "--what", "metrics"),
        ("export", "--format", "latex"),
        ("export", "--format", "markdown"),
        ("claims",),
    ],
    ids=" ".join,
)
def test_a_part_with_a_text_in_a_metric_column_is_named(hostile, command, words):
    rewrite(hostile, "metrics", texts_for_numbers)
    ended = command(words[0], hostile, *words[1:])
    assert "Traceback" not in ended.err
    assert ended.code == 0
    said = [line for line in (ended.out + ended.err).splitlines() if "damaged" in line]
    assert len(said) == 1
    assert re.search(r"parts/metrics/\S+\.parquet.*its trials count as not finished: run the sweep again", said[0])
    if words[0] == "export" and "--format" not in words:
        assert "damaged" in ended.err and "damaged" not in ended.out  # A program reads the CSV.


def garbage_part(folder: Path, content: bytes) -> None:
    """A receipt of garbage, whose name ends in its digest."""
    name = f"20990101T000000-00000000-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    for table in TABLES:
        (folder / "parts" / table / name).write_bytes(content)


def without_receipt() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("content", [b"garbage", b"", b"PAR1" * 9, without_receipt()])
@pytest.mark.parametrize("name", ["report", "status", "export", "verify", "claims", "cancel", "retry"])
def test_garbage_under_a_right_digest_is_one_line_or_a_damaged_part(hostile, command, content, name):
    if name == "verify":
        command("report", hostile)
    garbage_part(hostile, content)
    ended = command(name, hostile)
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") <= 1 or name == "report"
    assert ended.code in (0, 1, 2)


@pytest.mark.parametrize("content", [b"garbage", b"", b"PAR1" * 9, without_receipt()])
def test_garbage_under_a_right_digest_is_a_damaged_part(hostile, content):
    garbage_part(hostile, content)
    assert len(ResultStore(hostile).damaged) == 1
    assert len(ResultStore(hostile).finished()) == 4


def test_a_column_of_another_type_is_a_damaged_part(hostile):
    rewrite(hostile, "metrics", texts_for_numbers)
    store = ResultStore(hostile)
    assert store.read("metrics").num_rows == 0
    assert [damage.path.parent.name for damage in store.damaged] == ["metrics"]


def test_a_retry_without_a_terminal_needs_yes_and_runs_nothing(hostile, command, tmp_path):
    alter(hostile, command=["touch", "--out", str(hostile)])
    ended = command("retry", hostile)
    assert ended.code == 2
    assert "command:  moleflow-sweep touch --out" in ended.out
    assert ended.err.count("\n") == 1
    assert "no terminal to ask on if its command may run; check the command, then add --yes" in ended.err


@pytest.mark.parametrize(("answer", "runs"), [("y", True), ("", False), ("n", False)])
def test_a_retry_on_a_terminal_asks(hostile, command, monkeypatch, answer, runs):
    alter(hostile, command=["no such command", "--out", str(hostile)])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    ended = command("retry", hostile)
    assert ("nothing was run" in ended.out) is not runs
    assert (ended.code == 2) is runs


def test_a_retry_of_a_command_with_a_hidden_password_is_refused(hostile, command):
    alter(hostile, command=["s.yaml", "--out", str(hostile), "--storage", "postgresql://u:***@h/db"])
    ended = command("retry", hostile, "--yes")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "its command had a password, which is not stored; run it yourself" in ended.err


@pytest.mark.parametrize(
    "text", ["", "garbage", '{"inputs": 3, "files": []}', '{"inputs": "x", "files": {"md": ["../../private", "x"]}}']
)
def test_a_record_of_a_report_names_no_file_outside_of_the_folder(hostile, command, text):
    (hostile / "tables").mkdir(exist_ok=True)
    (hostile / "tables" / "report.json").write_text(text)
    assert command("report", hostile).code == 0


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError("truncated"), InvalidInput),
        (KeyError("worker"), InvalidInput),
        (OSError(28, "No space left"), OSError),
        (typer.Exit(3), typer.Exit),
    ],
)
def test_errors_of_values_become_one_line_and_others_stay(error, shown):
    """An error of the system has a number; pyarrow raises an OSError without one."""

    @explain_damage("place")
    def command(place):
        raise error

    with pytest.raises(shown) as raised:
        command(place="results/x")
    assert (raised.value is error) == (shown is not InvalidInput)
    if shown is InvalidInput:
        assert str(raised.value).startswith("results/x: holds values that no worker writes (")
