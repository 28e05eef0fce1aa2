"""What the driver keeps of trials that are over, and that Tune keeps no more of them."""

from __future__ import annotations

import gc

import pytest
from ray.tune.experiment import Trial as TuneTrial

from orchestrator.backends.ray.tune_source import KEPT_OF_A_RESULT, TuneSource
from orchestrator.records.events import ENDS

pytestmark = pytest.mark.ray


def test_of_a_trial_that_is_over_neither_tune_nor_the_account_keeps_what_it_was_made_of(place, features, on_ray):
    looks = []

    def listen(event):
        if event.kind not in ENDS:
            return
        known = gc.get_objects()
        accounts = [one for one in known if type(one) is TuneSource and one.setup.folder.is_relative_to(place)]
        over = [one for one in known if type(one) is TuneTrial and one.status == TuneTrial.TERMINATED]
        looks.append((accounts, over))

    tally = on_ray(listen, workers=1)
    assert len(tally.finished) == 4
    (account,), over = looks[-1]
    assert not account.open
    assert not account.placed
    assert len(over) >= 3
    for trial in over:
        assert trial.config["placed"].trials == ()
        assert trial.evaluated_params["placed"].trials == ()
        assert set(trial.last_result) <= KEPT_OF_A_RESULT | {"experiment_tag"}
        assert trial.metric_analysis["image_auroc"]["max"] > 0
        assert "pid" not in trial.last_result
        assert "time_total_s" not in trial.metric_analysis
