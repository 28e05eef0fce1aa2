"""A detector is collected from the stages of its sequence, or not at all."""

from __future__ import annotations

import shutil

import pytest

from moleflow.detection.collect import code_of, collect_detector
from moleflow.errors import Damaged


def test_a_stage_that_left_the_cache_is_named(train, settings):
    one = train(settings("v3", seed=7))
    shutil.rmtree(one.context.stages.folder)
    with pytest.raises(Damaged, match="the trained stage of bolt left the cache"):
        collect_detector(one.config, one.context, one.result.scores, {})


def test_the_file_names_the_code_that_decides_scores(trained, settings):
    assert trained.detector.header.code.keys() == {"features", "training", "scoring"}
    assert code_of(settings(**{"bank.enabled": True})).keys() == {"features", "bank", "scoring"}
