"""Two trials side by side: what differs in tables, what is equal in one line."""

from __future__ import annotations

import shutil

import pytest

from moleflow.errors import InvalidInput
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder, write_sweep_folder
from orchestrator.reports.trial_diff import diff_trials

FIRST, SECOND = "focal_gamma=0 seed=0", "focal_gamma=2 seed=1"


@pytest.fixture(scope="module")
def results(small_run):
    return small_run / "results/small"


def cells(table):
    return {name: [cell.text for cell in of] for name, of in table.rows}


def test_only_what_differs_is_listed_and_the_rest_is_one_line(results):
    found = diff_trials(FIRST, SECOND, [results])
    settings, metrics = found.tables
    assert settings.title == "Configuration"
    assert cells(settings) == {"seed": ["0", "1"], "loss.focal_gamma": ["0", "2"]}
    assert metrics.title == "Metrics after the final task, test images"
    a, b = (one.trial.metrics["test"]["Mean", "normal_latent_norm"] for one in (found.first, found.second))
    assert cells(metrics)["Mean normal_latent_norm"] == [f"{a:.6g}", f"{b:.6g}", f"{b - a:+.4g}"]
    assert " settings; " in found.equal
    assert "all 24 entries of the environment" in found.equal
    assert found.notes == ()


def test_the_settings_of_a_name_may_have_any_order(results):
    assert diff_trials("seed=0, focal_gamma=0", FIRST, [results]).tables == ()


def test_a_trial_equals_itself_to_the_bit(results):
    trial_id = read_sweep_folder(results).trial_ids[0]
    found = diff_trials(trial_id, trial_id[:6], [results])
    assert found.tables == ()
    for words in ("all", "settings", "the trained state, to the bit", "all scores, to the bit"):
        assert words in found.equal


def test_each_trial_is_looked_for_in_its_own_folder_first(finished, tmp_path):
    place, other = finished / "results/small", tmp_path / "other"
    shutil.copytree(place, other)
    trial_id = read_sweep_folder(place).trial_ids[0]
    found = diff_trials(trial_id, trial_id, [place, other])
    assert (found.first.folder, found.second.folder) == (place, other)
    assert found.tables == ()


def test_all_metrics_are_shown_if_asked_for(results):
    few, all_of_them = (diff_trials(FIRST, SECOND, [results], full).tables[-1] for full in (False, True))
    assert len(all_of_them.rows) > len(few.rows)
    assert "--full shows them" in few.notes[0]
    assert all_of_them.notes == ()


def test_a_name_means_the_trial_of_the_latest_plan(stored, add):
    """After an edit of the base, two trials of one name are stored."""
    earlier, now = (add({"loss.focal_gamma": 2.0}, settings={"training.epochs": epochs}) for epochs in (1, 2))
    folder = stored().folder
    write_sweep_folder(folder, SweepFolder("s", "s", {}, (now,), "embedded", {now: SECOND[:-1] + "0"}), {})
    found = diff_trials("focal_gamma=2 seed=0", earlier, [folder])
    assert (found.first.trial.trial_id, found.second.trial.trial_id) == (now, earlier)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("focal_gama=0 seed=0", r"is no trial of .*small; give an id, .*Did you mean 'focal_gamma=0 seed=0'\?"),
        ("", "'': is no trial"),
    ],
)
def test_an_unknown_trial_is_refused_with_the_nearest(results, given, says):
    with pytest.raises(InvalidInput, match=says):
        diff_trials(given, SECOND, [results])


def test_the_beginning_of_an_id_that_is_nearly_right_is_suggested(results):
    trial_id = read_sweep_folder(results).trial_ids[0]
    wrong = trial_id[:5] + ("a" if trial_id[5] != "a" else "b")
    with pytest.raises(InvalidInput, match=f"Did you mean '{trial_id[:6]}'"):
        diff_trials(wrong, SECOND, [results])


def test_a_trial_that_has_not_run_says_so(stored, add):
    ran = add({"loss.focal_gamma": 0.0})
    store = stored()
    (store.folder / "sweep.json").write_text(
        f'{{"name": "s", "title": "s", "baseline": {{}}, "dataset": "embedded", "trials": ["{ran}", "0123456789ab"]}}'
    )
    found = diff_trials(ran, "0123", [store.folder])
    assert found.tables == ()
    assert found.notes == ("0123456789ab: no attempt has ended, so its configuration and metrics are not known",)


def test_the_beginning_of_several_ids_is_refused(stored, add):
    ids = [add({"loss.focal_gamma": float(gamma)}) for gamma in range(17)]  # Two begin with the same of 16 digits.
    store = stored()
    trials = ", ".join(f'"{one}"' for one in ids)
    (store.folder / "sweep.json").write_text(
        f'{{"name": "s", "title": "s", "baseline": {{}}, "dataset": "embedded", "trials": [{trials}]}}'
    )
    begin = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1)
    with pytest.raises(InvalidInput, match=f"'{begin}': names . trials .*give more of the id"):
        diff_trials(begin, ids[0], [store.folder])
