"""TensorBoard's event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from orchestrator.trackers.export_runs import export_runs
from orchestrator.trackers.tensorboard_runs import DIGEST


def export(place, folder):
    return dict(export_runs(place, "tensorboard", folder).outcomes)


def folders(place):
    return sorted(path for path in (place / "tensorboard/small").iterdir())


def test_each_trial_is_a_run_with_curves_metrics_settings_and_the_report(failed, expected, tmp_path):
    assert export(failed, tmp_path) == {"new": 5, "replaced": 0, "unchanged": 0}
    found = folders(tmp_path)
    assert found[0].name.startswith("focal_gamma=0 seed=0 ")
    assert {path.name[-12:] for path in found} == expected.keys()
    for path in found:
        run = expected[path.name[-12:]]
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        read = {(tag, one.step): one.value for tag in events.Tags()["scalars"] for one in events.Scalars(tag)}
        points = {(point.name, point.step): point.value for point in run.points}
        means = {(name, 1): value for name, value in run.summary.items()}
        assert read == {key: pytest.approx(value, rel=1e-6) for key, value in (points | means).items()}
        text = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("report", "trial")}
        assert text["report"].startswith("# small: Does ")
        assert f"status = {run.status}" in text["trial"]
        stored = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        settings = plugin_data_pb2.HParamsPluginData.FromString(stored).session_start_info.hparams
        assert settings["loss.focal_gamma"].number_value == run.settings["loss.focal_gamma"]
        assert settings["backbone.model"].string_value == "efficientnet_lite0"


def test_exporting_again_doubles_no_run(failed, tmp_path, ask_anew):
    export(failed, tmp_path)
    before = [(path, path.stat().st_mtime_ns) for path in folders(tmp_path)]
    assert export(failed, tmp_path) == {"new": 0, "replaced": 0, "unchanged": 5}
    assert [(path, path.stat().st_mtime_ns) for path in folders(tmp_path)] == before
    ask_anew()  # The report is part of each run here.
    assert export(failed, tmp_path) == {"new": 0, "replaced": 5, "unchanged": 0}
    assert [path for path, _ in before] == folders(tmp_path)
    assert [len(list(path.glob("events.*"))) for path in folders(tmp_path)] == [1] * 5


def test_a_run_that_was_not_written_to_its_end_is_written_again(failed, tmp_path):
    export(failed, tmp_path)
    first, second, *_ = folders(tmp_path)
    (first / DIGEST).unlink()
    shutil.move(second, second.with_name(".writing-0123456789ab"))
    assert export(failed, tmp_path) == {"new": 1, "replaced": 1, "unchanged": 3}
    assert len(folders(tmp_path)) == 5
