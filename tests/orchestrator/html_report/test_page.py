"""The page as a file: what it says of every kind of folder, that data stays data, and its size."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import optuna
import pytest
from PIL import Image

from orchestrator.html_report.page import as_script, prose
from orchestrator.results.store import ResultStore
from orchestrator.results.thumbnails import ThumbnailStore
from orchestrator.search import without_experimental_warnings
from orchestrator.search.storage import journal

HOSTILE = "</script><script>window.taken = 1</script>`<b>`"


def grey(size):
    sink = io.BytesIO()
    Image.fromarray(np.arange(size * size, dtype=np.uint8).reshape(size, size)).save(sink, "PNG")
    return sink.getvalue()


def with_maps(rows, count=3):
    """A trial that keeps some maps of each kind for each class."""
    kinds = (("lowest_anomalous", 1), ("highest_normal", 0), ("drawn", 0))
    maps = [
        {
            "split": "test",
            "task": task,
            "task_name": name,
            "image": f"{name}/test/{why}/{rank}.png",
            "image_digest": f"{name}{label}{rank}",
            "defect": "crack" if label else "good",
            "label": label,
            "score": 1.0 + rank,
            "why": why,
            "rank": rank,
            "map": grey(8),
            "map_low": 0.5,
            "map_high": 2.5,
        }
        for task, name in enumerate(("leather", "grid"))
        for why, label in kinds
        for rank in range(count)
    ]
    return replace(rows, maps=maps)


def draw_pictures(place, rows):
    pictures = ThumbnailStore(place)
    image, mask = np.full((16, 16, 3), 90, np.uint8), np.eye(16, dtype=bool)
    for row in rows.maps:
        pictures.keep(row["image_digest"], lambda label=row["label"]: (image, mask if label else None))


def test_the_command_writes_it_beside_the_report(finished, command):
    ended = command("report", "results/small", "--html")
    assert ended.code == 0
    assert "results/small/report.html" in ended.err
    page = (finished / "results" / "small" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "moleflow-sweep report FOLDER --html" in page
    assert "maps kept" not in page


def test_a_page_needs_a_folder(command):
    ended = command("report", "--published", "--html")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "report FOLDER --html" in ended.err


def test_equal_results_make_equal_bytes(keep, grid, page_of):
    place = keep(grid)
    assert page_of(place).read_bytes() == page_of(place).read_bytes()


def test_everything_that_the_report_says_stands_on_the_page(keep, grid, failed, page_of, content, evidence_of):
    place = keep([*grid, failed(gamma=4.0)])
    page, report = page_of(place), evidence_of(place).report
    text, data = page.read_text(), content(page)
    for line in (*report.missing, *(note for table in report.tables for note in table.notes)):
        assert str(prose(line)) in text
    assert "Data: embedded (generated images)" in text
    assert report.lock is not None
    assert report.lock.recipe.code in text
    for table, sheet in zip(report.tables, data["sheets"], strict=False):
        assert sorted(sheet["head"]) == sorted(table.header)
        assert "Verdict" not in table.header or sheet["head"][1] == "Verdict"
        order = [sheet["head"].index(name) for name in table.header]
        rows = [[row[k] for k in order] for row in sheet["rows"]]
        shown = [[data["names"][c] if isinstance(c, int) else c for c in row] for row in rows]
        assert shown == [[name, *([c.text] if c.bold else c.text for c in cells)] for name, cells in table.rows]


def test_data_stays_data(keep, trial, failed, page_of, content):
    hostile = trial(also={"loss.focal_form": HOSTILE})
    place = keep([hostile, failed(HOSTILE, gamma=3.0)], title=HOSTILE, baseline={})
    page = page_of(place)
    text = page.read_text()
    # The data, the page's script and the library; nothing of the results opens another.
    assert len(re.findall("<script", text.partition("<body>")[2].partition('<script type="application/json"')[0])) == 0
    assert "window.taken" in text
    assert "<script>window.taken" not in text
    details = content(page)["details"]["trials"]
    assert details[hostile.attempt["trial_id"]]["settings"]["loss.focal_form"] == HOSTILE


@pytest.mark.parametrize("words", [HOSTILE, "a `<code>` & b", "plain"])
def test_words_are_escaped(words):
    assert "<script" not in prose(words)
    assert "<b>" not in prose(words)
    assert "<" not in as_script({"words": words})


def test_the_policy_names_the_two_scripts_and_allows_no_address(keep, trial, page_of):
    text = page_of(keep([trial()])).read_text()
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("sha256-") == 2
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_one_trial_alone_and_none_at_all(keep, trial, failed, page_of, content):
    place = keep([trial()])
    data = content(page_of(place))
    assert [sheet["title"] for sheet in data["sheets"]][-1] == "Trials"
    assert "No anomaly maps are kept in this folder" in (place / "report.html").read_text()
    assert not any("against" in chart["title"] for chart in data["charts"])


def test_a_sweep_of_which_nothing_finished(keep, failed, page_of, content):
    page = page_of(keep([failed(), failed("no such file", gamma=1.0)]))
    data = content(page)
    (trials,) = data["sheets"]
    assert [row[3] for row in trials["rows"]] == ["failed", "failed"]
    assert "no finished trial yet" in page.read_text()
    assert data["charts"] == []


def test_the_best_and_the_worst_trial_of_a_variant_show_their_maps(keep, grid, page_of, content):
    grid = [with_maps(rows) for rows in grid]
    place = keep(grid)
    draw_pictures(place, grid[0])
    shows = content(page_of(place))["gallery"]["shows"]
    assert len(shows) == 6
    for show in shows:
        assert [group["title"].partition(" images")[0] for group in show["groups"]] == ["Defective", "Normal"]
        assert [m["class"] for m in show["groups"][0]["maps"]] == ["leather", "grid"] * 3
        assert [m["score"] for m in show["groups"][0]["maps"]] == ["1.000"] * 2 + ["2.000"] * 2 + ["3.000"] * 2
    gallery = content(place / "report.html")["gallery"]
    assert set(gallery["masks"]) == {f"{name}1{rank}" for name in ("leather", "grid") for rank in range(3)}
    assert len(gallery["pictures"]) == 12


def test_of_many_trials_the_best_and_the_worst_of_the_sweep_show_their_maps(keep, trial, page_of, content):
    trials = [with_maps(trial(float(gamma), seed), count=1) for gamma in range(17) for seed in range(6)]
    place = keep(trials)
    draw_pictures(place, trials[0])
    data = content(page_of(place))
    assert [show["title"] for show in data["gallery"]["shows"]] == [
        "highest Image AUROC of the sweep",
        "lowest Image AUROC of the sweep",
    ]
    assert data["details"]["many"]
    assert data["details"]["trials"][trials[0].attempt["trial_id"]]["seed"] == 0


def test_a_search_shows_its_configurations_and_which_knobs_matter(keep, trial, page_of, content):
    place = keep([trial(), trial(1.0)])
    with without_experimental_warnings():
        study = optuna.create_study(storage=journal(place), study_name="generated", direction="maximize")
        study.set_metric_names(["image_auroc"])
        rate = optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
        rank = optuna.distributions.CategoricalDistribution(("4", "8", "16"))
        for k in range(12):
            params = {"training.learning_rate": 1e-4 * 1.5**k, "lora.rank": ("4", "8", "16")[k % 3]}
            spaces = {"training.learning_rate": rate, "lora.rank": rank}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=0.5 + k / 100))
        study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"why": "impossible"}))
    data = content(page_of(place))
    titles = {chart["title"]: chart for chart in data["charts"]}
    shares = optuna.importance.get_param_importances(study)
    drawn = dict(titles["Importance of the knobs: image_auroc"]["rows"])
    assert drawn == {name: pytest.approx(share, rel=1e-5) for name, share in shares.items()}
    assert "Configurations, knob by knob" in titles
    best_so_far = [row[2] for row in titles["The course of the search: image_auroc"]["rows"]]
    assert best_so_far == sorted(best_so_far)
    sheet = next(sheet for sheet in data["sheets"] if sheet["title"] == "Every configuration")
    assert len(sheet["rows"]) == 13
    assert sheet["rows"][11][2] == ["0.6100"]
    assert sheet["rows"][12][1] == "failed"
    assert sheet["rows"][12][-1] == "impossible"


def test_what_workers_told_stands_with_its_trial(finished, page_of, content):
    place = finished / "results" / "small"
    details = content(page_of(place))["details"]
    assert details["logs"]
    for trial_id in ResultStore(place).finished():
        assert details["trials"][trial_id]["log"][-1].partition("  ")[2].partition("  ")[2].startswith("finished")
    own = [trial["settings"] for trial in details["trials"].values()]
    assert all(settings.keys() == {"loss.focal_gamma"} for settings in own)
    assert details["shared"]["data.image_size"] == "32"


def test_two_thousand_trials_stay_under_five_megabytes(bench, tmp_path, page_of, content):
    place = tmp_path / "large"
    bench.generate(place, 400, 5)
    page = page_of(place)
    assert page.stat().st_size < 5e6
    data = content(page)
    trials = data["details"]["trials"]
    assert len(trials) == 2000
    assert sum(bool(trial["curves"]) for trial in trials.values()) == 2
    assert all("settings" not in trial for trial in trials.values())
