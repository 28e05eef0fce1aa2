"""A search over the command line: the splits it reads, its results, and resuming it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter

import optuna
import pytest

from orchestrator.detectors.choice import choose_detector
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.make import verify_report
from orchestrator.results.detector_files import stored_detectors
from orchestrator.results.store import ResultStore
from orchestrator.search.drivers import driver_heartbeat
from orchestrator.search.storage import JOURNAL, open_journal


def configurations(results):
    """Return the configurations of the latest study, in order."""
    name = optuna.get_all_study_names(open_journal(results))[-1]
    return optuna.load_study(study_name=name, storage=open_journal(results)).get_trials()


def splits(results):
    """Return {trial id: splits of its rows}, by the split that its configuration scores."""
    store = ResultStore(results)
    asked = {
        row["trial_id"]: json.loads(row["config"])["data"].get("evaluate", "all")
        for row in store.read("attempts").to_pylist()
    }
    found: dict[str, dict[str, set[str]]] = {"validation": {}, "all": {}}
    for table in ("metrics", "scores"):
        for row in store.read(table).to_pylist():
            found[asked[row["trial_id"]]].setdefault(row["trial_id"], set()).add(row["split"])
    return found


@pytest.fixture
def copy(searched, place):
    """A copy of the finished search's results and cache, in which a test may continue."""
    for name in ("results", "cache", "sweep.yaml", "base.yaml"):
        source = searched.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)
    return place / "results" / "search"


def test_trials_of_the_search_have_no_test_rows_and_those_that_were_tested_have_both(searched):
    found = splits(searched.results)
    assert len(found["validation"]) == 3 * 2
    assert set(map(frozenset, found["validation"].values())) == {frozenset({"validation"})}
    assert set(map(frozenset, found["all"].values())) == {frozenset({"validation", "test"})}


def test_a_command_hears_of_the_end_of_a_search_and_is_stored_nowhere(copy, command, place):
    ended = command("sweep.yaml", "--backend", "inline", "--quiet", "--notify", "cat > told.json  # s3cret")
    assert ended.code == 0
    told = json.loads((place / "told.json").read_text())
    assert (told["event"], told["exit_code"], told["folder"]) == ("ended", 0, str(copy))
    assert told["trials"]["finished"] == len(ResultStore(copy).finished())
    assert told["answer"] in told["text"]
    assert not [path for path in copy.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def rates_tested(results):
    """Return {trial id: learning rate} of the final tests."""
    return {
        row["trial_id"]: json.loads(row["factors"])["training.learning_rate"]
        for row in ResultStore(results).read("attempts").to_pylist()
        if json.loads(row["config"])["data"].get("evaluate", "all") == "all"
    }


def test_the_base_and_the_best_ones_are_tested_and_train_nothing(searched):
    rates = rates_tested(searched.results)
    assert 1e-4 in rates.values()
    assert len(rates) == 2 * len(set(rates.values())) <= 2 * 3
    assert sorted(searched.quality[rate] for rate in set(rates.values()))[-2:] == sorted(searched.quality.values())[-2:]
    curves = [row for row in ResultStore(searched.results).read("curves").to_pylist() if row["trial_id"] in rates]
    assert curves
    assert all(row["reused"] for row in curves)


def test_optuna_has_the_means_of_the_stored_rows(searched):
    values = {float(f"{t.params['training.learning_rate']:.6g}"): t.value for t in configurations(searched.results)}
    assert values == pytest.approx(searched.quality)
    assert all(trial.state.name == "COMPLETE" for trial in configurations(searched.results))


def test_the_report_shows_the_best_on_both_splits_and_the_cost(searched):
    page = (searched.results / "search.md").read_text()
    best = max(configurations(searched.results), key=lambda trial: trial.value)
    assert "Trials of the search never open a test image" in page
    assert f"| best #{best.number} | 0, 1 | {best.value:.4f} | " in page
    assert "configurations: 3 complete, 0 pruned, 0 failed" in page
    assert (searched.results / "plots" / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_tables_name_the_finalists_by_their_rank_and_number(searched):
    report = (searched.results / "report.md").read_text()
    ranked = sorted(configurations(searched.results), key=lambda trial: -trial.value)
    names = [f"best #{ranked[0].number}", f"2nd #{ranked[1].number}"]
    header = next(line for line in report.splitlines() if line.startswith("| Metric | "))
    is_base = [trial.params["training.learning_rate"] == 1e-4 for trial in ranked]
    expected = [name for name, of_base in zip(names, is_base, strict=False) if not of_base]
    base = f"base ({names[is_base.index(True)]})" if any(is_base[:2]) else "base"
    assert header.removesuffix(" |").split(" | ")[1 : 2 + len(expected)] == [base, *sorted(expected)]
    assert "learning_rate=" not in header
    assert f"`{expected[0]}` is " in report
    assert not verify_report(searched.results / "report.md").differences


def break_test_images(place, images, command):
    """Break every test image behind the back of the cache of digests."""
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    for path in (place / "images").rglob("*.png"):
        os.utime(path, (1e9, 1e9))  # Files of the last two seconds are read at every start.
    assert command("plan", "sweep.yaml").code == 0
    known = place / "cache/digests.json"
    rows = json.loads(known.read_text())
    for path in (place / "images").glob("*/test/*/*.png"):
        path.write_bytes(b"no image")
        now = path.stat()
        # The cache of digests knows the broken files, so that only reading an image shows it.
        rows[str(path.absolute())][:4] = now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino
    known.write_text(json.dumps(rows))


@pytest.mark.process
def test_no_test_image_is_opened_before_the_search_is_over(place, images, furnish_search, command):
    """With broken test images, the trials of the search finish and the final tests fail."""
    furnish_search(place, {"seeds": 1, "retries": 0}, trials=2)
    break_test_images(place, images, command)
    ended = command("sweep.yaml", "--backend", "inline")
    results = place / "results" / "search"
    assert [trial.state.name for trial in configurations(results)] == ["COMPLETE", "COMPLETE"], ended.out + ended.err
    store = ResultStore(results)
    assert Counter(row["status"] for row in store.read("attempts").to_pylist())["finished"] == 2
    assert ended.code == 1
    assert "failed: test " in ended.out


def test_the_best_finalist_keeps_its_detector(place, features, furnish_search, command):
    """Trials of the search and the base lose theirs; validation images choose."""
    furnish_search(place, {"seeds": 1, "keep": "best"}, trials=2, finalists=1)
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    results = place / "results" / "search"
    ((trial, _),) = stored_detectors(results)
    assert trial in read_sweep_folder(results).tabled
    choice = choose_detector(results)
    assert choice.trial_id == trial
    assert "on validation images" in choice.reasons[0]


@pytest.mark.process
def test_one_worker_and_one_seed_give_the_same_suggestions_and_the_same_digits(
    searched, place, furnish_search, command, digits
):
    furnish_search(place)
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    again = place / "results" / "search"
    first, second = configurations(searched.results), configurations(again)
    assert [(t.params, t.values) for t in first] == [(t.params, t.values) for t in second]
    assert digits(searched.results) == digits(again)


@pytest.mark.process
def test_a_driver_that_is_killed_is_resumed_and_nothing_runs_twice(place, features, furnish_search, start, wait_until):
    furnish_search(place, {"seeds": 1}, trials=2, finalists=0, sampler="random")
    results = place / "results" / "search"
    killed = start("sweep.yaml", "--workers", "1", "--quiet")

    def stopped_in_the_middle():
        if not ((results / "parts").is_dir() and ResultStore(results).finished()):
            return False
        killed.signal(signal.SIGSTOP)  # Between two configurations none is running: then look again.
        if "RUNNING" in {trial.state.name for trial in configurations(results)}:
            return True
        killed.signal(signal.SIGCONT)
        return False

    wait_until(stopped_in_the_middle)
    killed.signal(signal.SIGKILL)
    killed.end()
    ended = start("sweep.yaml", "--backend", "inline", "--quiet").end(timeout=300)
    assert ended.code == 0, ended.out + ended.err
    states = Counter(trial.state.name for trial in configurations(results))
    assert states["COMPLETE"] == 2
    assert set(states) <= {"COMPLETE", "FAIL"}
    ends = [r["trial_id"] for r in ResultStore(results).read("attempts").to_pylist() if r["status"] == "finished"]
    assert len(ends) == len(set(ends))
    found = splits(results)
    assert len(found["validation"]) == 2
    asked = {one for trial in configurations(results) for one in trial.user_attrs.get("trials", [])}
    assert asked == set(found["validation"])


def test_a_finished_search_runs_nothing_again(copy, command):
    before = ResultStore(copy).read("attempts").num_rows
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    assert ResultStore(copy).read("attempts").num_rows == before
    assert len(configurations(copy)) == 3


@pytest.mark.process
def test_a_larger_budget_continues_the_search(copy, place, furnish_search, command):
    furnish_search(place, trials=4)
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    assert [trial.state.name for trial in configurations(copy)] == ["COMPLETE"] * 4
    assert len(splits(copy)["validation"]) == 4 * 2


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 3},
        {"base": {"extends": "base.yaml", "epochs": 1}},
        {"space": {"learning_rate": {"loguniform": [1, 2]}, "focal_gamma": {"choice": [0, 1, 2]}}},
    ],
)
def test_a_study_of_other_settings_is_refused(copy, place, furnish_search, command, change):
    search = {key: value for key, value in change.items() if key == "space"}
    furnish_search(place, {key: value for key, value in change.items() if key != "space"}, **search)
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "search: the study holds results of other settings, seeds or images" in ended.err
    assert "search.start_from" in ended.err


def test_an_edited_space_goes_on_and_runs_nothing_again(copy, place, furnish_search, command):
    """One more choice and a wider range; only the fourth configuration runs."""
    before = configurations(copy)
    furnish_search(
        place,
        trials=4,
        space={"learning_rate": {"loguniform": [1e-5, 1e-1]}, "focal_gamma": {"choice": [0, 1, 2, 3]}},
    )
    shown = command("plan", "sweep.yaml", "--json")
    assert shown.code == 0, shown.err
    assert len(json.loads(shown.out)["trials"]) == 3 * 2
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    assert "the search goes on in the edited space: 3 stored configurations of it count as tried" in ended.out
    found = configurations(copy)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 4
    assert [trial.user_attrs["trials"] for trial in found[:3]] == [trial.user_attrs["trials"] for trial in before]
    assert [trial.values for trial in found[:3]] == [pytest.approx(trial.values) for trial in before]
    ids = [row["trial_id"] for row in ResultStore(copy).read("attempts").to_pylist()]
    assert len(ids) == len(set(ids))
    page = command("report", copy)
    assert page.code == 0, page.err


@pytest.mark.parametrize(
    "garbage", [b"{garbled \xff\n", b"\0\0\0\n", b"[1]\n", b'{"op_code": 4}\n', b'{"op_code": 99, "worker_id": "a"}\n']
)
@pytest.mark.parametrize("place_of", ["middle", "end"])
def test_a_garbled_journal_is_named_and_made_again_from_the_results(copy, command, garbage, place_of):
    journal = copy / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    lines.insert(len(lines) // 2 if place_of == "middle" else len(lines), garbage)
    journal.write_bytes(b"".join(lines))
    attempts = ResultStore(copy).read("attempts").num_rows
    for words in (("sweep.yaml", "--backend", "inline", "--quiet"), ("plan", "sweep.yaml"), ("dashboard", str(copy))):
        ended = command(*words)
        assert ended.code == 2, ended.out + ended.err
        assert ended.err.count("\n") == 1
        assert f"{JOURNAL}: the journal of the search is damaged" in ended.err
        assert "Run the sweep again with --rebuild-study" in ended.err
    ended = command("sweep.yaml", "--rebuild-study", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    assert [trial.state.name for trial in configurations(copy)] == ["COMPLETE"] * 3
    assert ResultStore(copy).read("attempts").num_rows == attempts
    assert (copy / f"{JOURNAL}.damaged-1").read_bytes() == b"".join(lines)
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0


def test_a_journal_is_not_made_again_under_a_living_driver(copy, command):
    with driver_heartbeat(copy) as name:
        ended = command("sweep.yaml", "--rebuild-study", "--backend", "inline")
    assert ended.code == 2
    assert f"--rebuild-study: {name} still runs the search" in ended.err


def test_a_search_whose_configurations_all_failed_says_why(place, furnish_search, command):
    furnish_search(place, {"seeds": 1}, trials=3, sampler="random", space={"learning_rate": {"loguniform": [1e6, 1e7]}})
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 1
    assert ended.out.count("nothing is tested: each configuration failed; the commonest error, 3 of 3: Diverged: ") == 1
    results = place / "results" / "search"
    assert "- each configuration failed; the commonest error, 3 of 3: Diverged: " in (results / "search.md").read_text()
    rows = ResultStore(results).read("attempts").to_pylist()
    assert [(row["attempt"], row["error_kind"]) for row in rows] == [(1, "Diverged")] * 3


def test_plan_status_report_and_verify_show_the_trials(copy, command):
    ended = command("plan", "sweep.yaml", "--json")
    assert ended.code == 0, ended.err
    assert len(json.loads(ended.out)["trials"]) >= 3 * 2
    counts = json.loads(command("status", copy, "--json").out)["counts"]
    assert counts["finished"] == sum(counts.values()) >= 3 * 2 + 2
    report = command("report", copy)
    assert report.code == 0, report.err
    (header,) = {line for line in report.out.splitlines() if line.startswith("| Metric ")}
    columns = [name for name in header.removesuffix(" |").split(" | ")[1:] if name != "Change"]
    assert len(columns) == len(set(rates_tested(copy).values()))
    assert all(name.startswith(("base", "best #", "2nd #")) for name in columns)
    everything = command("report", copy, "--all", "--split", "validation")
    assert everything.code == 0, everything.err
    for trial in configurations(copy):
        assert f"{trial.params['training.learning_rate']:.6g}" in everything.out
    for name in ("report.md", "report-all-validation.md"):
        verified = command("verify", copy / name)
        assert verified.code == 0, verified.out + verified.err


def test_without_finalists_no_test_image_is_opened(place, images, furnish_search, command):
    """With broken test images, a search that tests nothing ends well."""
    furnish_search(place, {"seeds": 1}, trials=1, finalists=0, sampler="random")
    break_test_images(place, images, command)
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    assert [len(of) for of in splits(place / "results" / "search").values()] == [1, 0]
    folder = place / "results" / "search"
    assert "nothing was tested, as `finalists` is 0" in (folder / "search.md").read_text()
    report = (folder / "report.md").read_text()
    judged = "nothing tested: 1 configuration was judged on validation images alone, and no test image was opened after the scan"
    assert judged in report and "to compare them: search.md, or" in report
    answer = "No answer on test images: 1 configuration judged on validation images alone"
    assert answer in ended.out and answer in report and "no finished trial yet" not in report
    compared = command("report", folder, "--all", "--split", "validation")
    assert "| Metric |" in compared.out, compared.err
    assert command("report", folder, "--html").code == 0
    page = (folder / "report.html").read_text()
    assert "No configuration was tested." in page and "The tables above show the test images." not in page
    verified = command("verify", folder / "report.md")
    assert verified.code == 0, verified.out + verified.err


def test_a_journal_that_a_killed_writer_left_torn_is_continued(copy, command):
    with (copy / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    assert len(configurations(copy)) == 3
