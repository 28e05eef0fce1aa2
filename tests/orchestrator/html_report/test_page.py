"""The page as a file: its contents for every kind of folder, escaping, and its size."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace

import numpy as np
import optuna
import pytest
from PIL import Image

from orchestrator.html_report import anomaly_maps, page
from orchestrator.html_report.page import as_script, prose
from orchestrator.results.store import ResultStore
from orchestrator.results.thumbnails import ThumbnailStore
from orchestrator.search import without_experimental_warnings
from orchestrator.search.storage import open_journal

HOSTILE = "</script><script>window.taken = 1</script>`<b>`"


def grey(size):
    sink = io.BytesIO()
    Image.fromarray(np.arange(size * size, dtype=np.uint8).reshape(size, size)).save(sink, "PNG")
    return sink.getvalue()


def digest_of(name, label, rank):
    return hashlib.sha256(f"{name}{label}{rank}".encode()).hexdigest()


def with_maps(rows, count=3):
    """A trial that keeps some maps of each kind for each class."""
    kinds = (("lowest_anomalous", 1), ("highest_normal", 0), ("drawn", 0))
    maps = [
        {
            "split": "test",
            "task": task,
            "task_name": name,
            "image": f"{name}/test/{why}/{rank}.png",
            "image_digest": digest_of(name, label, rank),
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


def test_the_command_writes_the_page_next_to_the_report(finished, command):
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


def test_the_page_has_everything_in_the_report(keep, grid, failed, page_of, content, page_data_of):
    place = keep([*grid, failed(gamma=4.0)])
    page, report = page_of(place), page_data_of(place).report
    text, data = page.read_text(), content(page)
    for line in (*report.missing, *(note for table in report.tables for note in table.notes)):
        assert str(prose(line)) in text
    assert "The data are embedded (generated images)" in text
    assert report.lock is not None
    assert report.lock.recipe.code in text
    for table, on_page in zip(report.tables, data["tables"], strict=False):
        assert on_page["head"] == list(table.header)
        assert "Verdict" not in table.header or on_page["head"][1] == "Verdict"
        shown = [[data["names"][c] if isinstance(c, int) else c for c in row] for row in on_page["rows"]]
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


def test_a_single_trial(keep, trial, page_of, content):
    place = keep([trial()])
    data = content(page_of(place))
    assert [table["title"] for table in data["tables"]][-1] == "Trials"
    assert "This folder keeps no anomaly maps of the best and the worst trials" in (place / "report.html").read_text()
    assert not any("against" in chart["title"] for chart in data["charts"])


def test_a_sweep_without_finished_trials(keep, failed, page_of, content):
    page = page_of(keep([failed(), failed("no such file", gamma=1.0)]))
    data = content(page)
    (trials,) = data["tables"]
    assert [row[3] for row in trials["rows"]] == ["failed", "failed"]
    assert "no finished trial yet" in page.read_text()
    assert data["charts"] == []


def test_the_best_and_the_worst_trial_of_a_variant_show_their_maps(keep, grid, page_of, content):
    grid = [with_maps(rows) for rows in grid]
    place = keep(grid)
    draw_pictures(place, grid[0])
    shows = content(page_of(place))["maps"]["galleries"]
    assert len(shows) == 6
    for show in shows:
        assert [group["title"].partition(" images")[0] for group in show["groups"]] == ["Defective", "Normal"]
        assert [m["class"] for m in show["groups"][0]["maps"]] == ["leather", "grid"] * 3
        assert [m["score"] for m in show["groups"][0]["maps"]] == ["1.000"] * 2 + ["2.000"] * 2 + ["3.000"] * 2
    gallery = content(place / "report.html")["maps"]
    assert set(gallery["masks"]) == {digest_of(name, 1, rank) for name in ("leather", "grid") for rank in range(3)}
    assert len(gallery["thumbnails"]) == 12


def test_a_gallery_is_cut_to_the_maps_of_a_page(keep, grid, page_of, content, monkeypatch):
    """Six trials with two reasons each: of 24 maps, each reason gets two."""
    grid = [with_maps(rows) for rows in grid]
    place = keep(grid)
    draw_pictures(place, grid[0])
    monkeypatch.setattr(anomaly_maps, "MOST_MAPS", 24)
    page = page_of(place)
    galleries = content(page)["maps"]["galleries"]
    assert [[len(group["maps"]) for group in one["groups"]] for one in galleries] == [[2, 2]] * 6
    first = galleries[0]["groups"][0]["maps"][0]
    assert (first["class"], first["score"], first["low"], first["high"]) == ("leather", "1.000", "0.5", "2.5")
    assert "at most 2 images of each kind" in page.read_text()
    monkeypatch.setattr(anomaly_maps, "MOST_MAPS", 1)
    assert [len(one["groups"][0]["maps"]) for one in content(page_of(place))["maps"]["galleries"]] == [1] * 6


def test_of_many_trials_the_best_and_the_worst_of_the_sweep_show_their_maps(keep, trial, page_of, content):
    trials = [with_maps(trial(float(gamma), seed), count=1) for gamma in range(17) for seed in range(6)]
    place = keep(trials)
    draw_pictures(place, trials[0])
    data = content(page_of(place))
    assert [show["title"] for show in data["maps"]["galleries"]] == [
        "highest Image AUROC of the sweep",
        "lowest Image AUROC of the sweep",
    ]
    assert data["details"]["isLarge"]
    assert data["details"]["trials"][trials[0].attempt["trial_id"]]["seed"] == 0


def test_a_search_shows_its_configurations_and_which_knobs_matter(keep, trial, page_of, content):
    place = keep([trial(), trial(1.0)])
    with without_experimental_warnings():
        study = optuna.create_study(storage=open_journal(place), study_name="generated", direction="maximize")
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
    table = next(table for table in data["tables"] if table["title"] == "Every configuration")
    assert len(table["rows"]) == 13
    assert table["rows"][11][3] == ["0.6100"]
    assert table["rows"][12][1] == "failed"
    assert table["rows"][12][-1] == "impossible"


def test_the_logs_of_workers_are_in_the_details(finished, page_of, content):
    place = finished / "results" / "small"
    details = content(page_of(place))["details"]
    assert details["logs"]
    for trial_id in ResultStore(place).finished():
        assert details["trials"][trial_id]["log"][-1].partition("  ")[2].partition("  ")[2].startswith("finished")
    own = [trial["settings"] for trial in details["trials"].values()]
    assert all(settings.keys() == {"loss.focal_gamma"} for settings in own)
    assert details["shared"]["data.image_size"] == "32"


@pytest.mark.process
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


def test_a_minimised_objective_and_two_objectives(keep, trial, page_of, content):
    place = keep([trial(), trial(1.0)])
    with without_experimental_warnings():
        study = optuna.create_study(
            storage=open_journal(place), study_name="generated", directions=["minimize", "maximize"]
        )
        study.set_metric_names(["seconds", "aupro"])
        rate = {"training.learning_rate": optuna.distributions.FloatDistribution(0, 9)}
        for k, values in enumerate([(3.0, 0.5), (1.0, 0.25), (2.0, 0.75)]):
            params = {"training.learning_rate": float(k)}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=rate, values=values))
    data = content(page_of(place))
    charts = {chart["title"]: chart["rows"] for chart in data["charts"]}
    assert charts["The course of the search: seconds"] == [[0, 3.0, 3.0], [1, 1.0, 1.0], [2, 2.0, 1.0]]
    assert charts["The course of the search: aupro"] == [[0, 0.5, 0.5], [1, 0.25, 0.5], [2, 0.75, 0.75]]
    assert not any("Importance" in title for title in charts), "it needs five configurations"
    table = next(table for table in data["tables"] if table["title"] == "Every configuration")
    assert table["rows"][1][3:5] == [["1.0000"], "0.2500"]
    assert table["rows"][2][3:5] == ["2.0000", ["0.7500"]]
    assert table["right"] == [1, 0, 1, 1, 1, 1, 0]


def test_what_to_mind_stands_once_above_all_tables(keep, trial, page_of):
    same = {"state_digest": "one", "scores_digest": "one"}
    trials = [trial(0.0, **same), trial(1.0, **same), *(trial(2.0, seed, torch="2.0.0") for seed in range(3))]
    text = page_of(keep(trials, not_run=["0123456789ab"])).read_text()
    (mind,) = re.findall(r"<dt>Caution</dt>\s*<dd>(.*?)</dd>", text.replace("\N{NO-BREAK SPACE}", " "), re.DOTALL)
    assert "embedded (generated images): no figure carries over" in mind
    assert "All 5 trials were made by other code than today" in mind
    assert "1 variant confounded" in mind
    assert "1 group of identical variants" in mind
    assert text.index("<dt>Caution</dt>") < text.index("<section")


def test_a_search_says_over_how_many_seeds_its_values_are():
    from orchestrator.html_report.search import _seeds_note

    assert _seeds_note({2}, {2}) == ("Seeds: each value is a mean over 2 seeds.",)
    (note,) = _seeds_note({1}, {3})
    assert note == (
        "Seeds: each value is a mean over 1 seed. The tables above are over 3, so do not compare their values with these."
    )
    assert "NOT THE SAME NUMBER in every configuration" in _seeds_note({1, 2}, {2})[0]
    assert _seeds_note(set(), {2}) == ()


def test_many_classes_have_a_critical_difference_diagram(keep, trial, page_of, content, monkeypatch):
    place = keep([trial(gamma, seed) for gamma in (0.0, 1.0, 2.0) for seed in range(3)])
    assert not any("critical-difference" in chart["title"] for chart in content(page_of(place))["charts"])
    monkeypatch.setattr("orchestrator.reports.class_ranks.LEAST_CLASSES", 3)
    found = [chart for chart in content(page_of(place))["charts"] if "critical-difference" in chart["title"]]
    assert [chart["title"].split(":")[0] for chart in found] == ["Image AUROC", "Pixel AUROC"]
    rows = {row[0]: row[1:] for row in found[0]["rows"]}
    assert found[0]["spec"]["encoding"]["y"]["scale"]["domain"] == list(rows)
    assert rows["critical difference"][1] == 1.0
    ranks = [row[0] for name, row in rows.items() if name.startswith("focal_gamma")]
    assert ranks == sorted(ranks)
    assert sum(ranks) == pytest.approx(6, abs=1e-4)  # 1 + 2 + 3, whatever the order.
    assert rows["no difference"][1:3] == [min(ranks), max(ranks)]


def test_variants_that_do_not_fit_side_by_side_are_rows_with_their_means_first(keep, trial, page_of, content):
    page = content(page_of(keep([trial(float(gamma)) for gamma in range(6)])))
    table = page["tables"][0]
    assert table["title"] == "After the final task"
    assert table["head"][:3] == ["Variant", "n", "Mean Image AUROC"]
    assert [page["names"][row[0]] for row in table["rows"]] == [f"focal_gamma={gamma}" for gamma in range(6)]


def test_the_note_of_a_title_stands_under_it():
    assert page.question_and_note("v7: Does it (v7) help? (no data, 2 seeds (of 5))") == (
        "v7: Does it (v7) help?",
        "No data, 2 seeds (of 5).",
    )
    assert page.question_and_note("v7 (short)") == ("v7 (short)", "")
